"""The signals that ask a run to stop.

SIGTERM comes from schedulers, clouds and launchers, SIGINT from Ctrl-C, SIGUSR1 from
Slurm (`--signal=USR1@60`).
"""

import os
import signal
import threading
import time
from typing import Any

from core.errors import Preempted

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

    def install(self) -> "SignalWatch":
        """Takes over the signals of this process; in the main thread."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(read,), name="signals", daemon=True).start()
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
            if not self.deferred:
                self.raise_if_received()

    def raise_if_received(self) -> None:
        """Raises `Preempted` where there was a signal that nobody has acted on."""
        if self.received:
            raise Preempted(f"stopped by {self.received}")


def _end_at_second(source: int) -> None:
    """Ends the process at the second signal, whose numbers come as bytes.

    In a thread: Python calls handlers in the main one, between two of its own
    instructions, which never comes where a step waits for a disk that does not answer.
    """
    first = None
    while data := os.read(source, 1):
        if data[0] not in SIGNALS:
            continue
        first = first or time.monotonic()
        if time.monotonic() - first > SAME_SIGNAL_SECONDS:
            os._exit(128 + data[0])
