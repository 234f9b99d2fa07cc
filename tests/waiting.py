"""Waiting in tests: for an event, never for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Only what hangs takes this long, on any machine.
HANG_SECONDS = 600.0


def until(condition: Callable[[], T], look_every: float = 0.01) -> T:
    """Waits until a condition holds, and returns its value.

    Raises:
        AssertionError: it does not hold in time.
    """
    begun = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begun < HANG_SECONDS, "waited in vain"
        time.sleep(look_every)
    return found
