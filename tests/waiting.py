"""Waiting in tests: for an event, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Only what hangs takes so long, on whatever machine.
HANG_SECONDS = 600.0


def until(condition: Callable[[], T], look_every: float = 0.01) -> T:
    """Waits until a condition holds, and returns what it came to.

    Raises:
        AssertionError: it does not come to hold.
    """
    begun = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begun < HANG_SECONDS, "waited in vain"
        time.sleep(look_every)
    return found
