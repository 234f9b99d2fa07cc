"""Whether a training is going on, for those who follow it from another process.

The training rewrites a small file of its run folder every few seconds; a follower looks
whether it changes. It compares contents, not times: the two may be on hosts whose clocks
differ.
"""

import contextlib
import threading
import time
from typing import Literal

from training.run_folder import RunFolder

BEAT = 5.0  # seconds
# A shared file system may show an old content for a minute (NFS's `acregmax` is 60 s).
PATIENCE = 120.0

Life = Literal["training", "trained", "silent"]


class Heartbeat:
    """Says in the run folder that this process trains, until it has trained or ends.

    Args:
        run: the run's folder.
        every: seconds between two beats.
    """

    def __init__(self, run: RunFolder, every: float = BEAT):
        self.run = run
        self.every = every
        self._done = threading.Event()
        # A daemon: it stops when the process does, however that comes about.
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def trained(self) -> None:
        """The last step is done and its checkpoint written."""
        self._done.set()
        self._thread.join()
        self.run.write_state("trained")

    def _beat(self) -> None:
        beat = 0
        while True:
            # A full disk is for others to report; the next beat may succeed.
            with contextlib.suppress(OSError):
                self.run.write_state("training", beat)
            beat += 1
            if self._done.wait(self.every):
                return


class Pulse:
    """Feels the heartbeat of a run.

    Args:
        run: the run's folder.
        patience: seconds without a beat after which a training is taken for dead.
    """

    def __init__(self, run: RunFolder, patience: float = PATIENCE):
        self.run = run
        self.patience = patience
        self.life: Life = "training"
        self._last = run.state()
        self._changed = time.monotonic()

    def feel(self) -> Life:
        """Looks, and returns `life`: `"trained"` also where there never was a heartbeat."""
        state = self.run.state()
        if state != self._last:
            self._last, self._changed = state, time.monotonic()
        if state.get("state") != "training":
            self.life = "trained"
        else:
            silent = time.monotonic() - self._changed >= self.patience
            self.life = "silent" if silent else "training"
        return self.life

    def epitaph(self) -> str:
        """What is to be said of a run that is silent."""
        last = self._last
        return (
            f"the training in {self.run.path} has given no sign of life for "
            f"{self.patience:.0f} s (process {last['pid']} on {last['host']}, last at "
            f"{last['time']} UTC); what it left is evaluated. Resume it and follow it again."
        )
