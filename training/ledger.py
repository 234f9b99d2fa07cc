"""Writing down what happened while the disk is full or the folder away."""

from collections.abc import Callable
from typing import Any


class Ledger:
    """Writes entries in their order; one that fails is kept, and tried again with the next.

    Training need not stop for a row of a table: it is some 200 bytes, and can wait in memory.

    Args:
        warn: called with a line for the user when entries begin to wait.
    """

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        self._owed: list[Callable[[], Any]] = []

    def enter(self, write: Callable[[], Any]) -> None:
        """Calls `write`, now or later; it may raise `OSError` and is then called again."""
        waited = bool(self._owed)
        self._owed.append(write)
        problem = self.settle()
        if problem and not waited:
            self._warn(f"the log could not be written ({problem}); training goes on, trying again")

    def settle(self) -> str | None:
        """Writes what waits, as far as it can; returns what keeps the rest from it."""
        try:
            while self._owed:
                self._owed[0]()
                del self._owed[0]
        except OSError as error:
            return f"{error.strerror or error}, {error.filename or 'no file named'}"
        return None

    def __len__(self) -> int:
        return len(self._owed)
