"""Whether a run is still training, for those who follow it from another process.

The training process rewrites a small file of the run folder every few seconds; a follower
looks whether it changes. Contents are compared, not times: the clocks of two hosts differ.
"""

import contextlib
import threading
import time
from typing import Literal

from training.run_folder import RunFolder

BEAT = 5.0  # seconds
# A shared file system may show old contents for a minute (NFS's `acregmax` is 60 s).
PATIENCE = 120.0

Life = Literal["training", "trained", "silent"]


class SignsOfLife:
    """Shows in the run folder, at each interval of `every` seconds, that this process trains."""

    def __init__(self, run: RunFolder, every: float = BEAT):
        self.run = run
        self.every = every
        self._done = threading.Event()
        # A daemon: it stops with the process, however that ends.
        self._thread = threading.Thread(target=self._show, name="signs-of-life", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def trained(self) -> None:
        """The last step is done and its checkpoint written."""
        self._done.set()
        self._thread.join()
        self.run.write_state("trained")

    def _show(self) -> None:
        number = 0
        while True:
            # Others report a full disk; the next sign may succeed.
            with contextlib.suppress(OSError):
                self.run.write_state("training", number)
            number += 1
            if self._done.wait(self.every):
                return


class LivenessProbe:
    """Looks for a run's signs of life; it is silent after `patience` seconds without one."""

    def __init__(self, run: RunFolder, patience: float = PATIENCE):
        self.run = run
        self.patience = patience
        self.life: Life = "training"
        self._last = run.state()
        self._changed = time.monotonic()

    def look(self) -> Life:
        """Looks, and returns `life`; `"trained"` also for a run that never gave a sign."""
        state = self.run.state()
        if state != self._last:
            self._last, self._changed = state, time.monotonic()
        if state.get("state") != "training":
            self.life = "trained"
        else:
            silent = time.monotonic() - self._changed >= self.patience
            self.life = "silent" if silent else "training"
        return self.life

    def describe_silence(self) -> str:
        """A message about a run that is silent."""
        last = self._last
        return (
            f"the training in {self.run.path} has given no sign of life for "
            f"{self.patience:.0f} s (process {last['pid']} on {last['host']}, last at "
            f"{last['time']} UTC); its checkpoints are evaluated. Resume it and follow it again."
        )
