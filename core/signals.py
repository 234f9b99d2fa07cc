"""The signals that ask a run to stop."""

import os
import signal
import threading
import time
from types import FrameType

from core.errors import Preempted

# From schedulers, clouds and launchers; from Ctrl-C; from Slurm (`--signal=USR1@60`).
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# A scheduler may signal both a process and its parent, which passes the signal on. Signals
# within this time of the first one count as the same.
SAME_SIGNAL_SECONDS = 1.0


class SignalWatch:
    """Notes the first signal; the second one ends the process at once."""

    def __init__(self) -> None:
        self.received: str | None = None  # the signal's name
        # Another part of the program checks `received` regularly and stops cleanly. While this
        # is False, the first signal raises `Preempted` in the main thread.
        self.deferred = False

    def install(self) -> "SignalWatch":
        """Handles this process's signals from now on; call it in the main thread."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(read,), name="signals", daemon=True).start()
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
            if not self.deferred:
                self.raise_if_received()

    def raise_if_received(self) -> None:
        """Raises `Preempted` if a signal has come."""
        if self.received:
            raise Preempted(f"stopped by {self.received}")


def _end_at_second(source: int) -> None:
    """Ends the process at the second signal; `source` gives the signals' numbers as bytes.

    It runs in a thread, since Python calls signal handlers between two instructions of the
    main thread. While a step waits for a dead disk, that moment never comes.
    """
    first = None
    while data := os.read(source, 1):
        if data[0] in SIGNALS:
            first = first or time.monotonic()
            if time.monotonic() - first > SAME_SIGNAL_SECONDS:
                os._exit(128 + data[0])
