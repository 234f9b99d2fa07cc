"""The signals that ask a run to stop.

SIGTERM comes from schedulers, clouds and launchers, SIGINT from Ctrl-C, SIGUSR1 from
Slurm (`--signal=USR1@60`).
"""

import os
import signal
import time
from typing import Any

from training.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# A scheduler may signal a process and its parent, which passes it on: within so many
# seconds it is one signal.
SAME_SIGNAL_SECONDS = 1.0


class SignalWatch:
    """Notes the first signal; the second ends the process at once.

    While `deferred` is False, the first one raises `Preempted` in the main thread.

    Attributes:
        received: name of the signal, None before.
        deferred: somebody looks at `received` regularly, and stops in good order.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.deferred = False
        self._at = 0.0

    def install(self) -> "SignalWatch":
        """Takes over the signals of this process; in the main thread."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number).name, now
            if not self.deferred:
                self.raise_if_received()
        elif now - self._at > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    def raise_if_received(self) -> None:
        """Raises `Preempted` where there was a signal that nobody has acted on."""
        if self.received:
            raise Preempted(f"stopped by {self.received}")
