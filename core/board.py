"""What a worker notes for its supervisor, which speaks when the worker cannot."""

import ctypes
import mmap
import os
import time


class _Page(ctypes.Structure):
    _fields_ = [
        ("beat", ctypes.c_int64),
        ("time", ctypes.c_double),
        ("limit", ctypes.c_double),
        ("run_dir", ctypes.c_char * 4096),  # of the run that is trained, if any
        ("command", ctypes.c_char * 8192),  # with which the user resumes
        ("reason", ctypes.c_char * 4096),  # why Horovod broke off
    ]


class Board:
    """Memory that a worker and its supervisor share."""

    def __init__(self) -> None:
        self._page = _Page.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Page)))

    def beat(self, step: int, longest_seconds: float | None) -> None:
        """Notes a sign of life at a step, and within how many seconds the next one comes."""
        page = self._page
        page.beat, page.time, page.limit = step, time.monotonic(), longest_seconds or 0.0

    def last(self) -> tuple[int, float, float]:
        """The step and the time of the last beat, and its limit; 0 without one."""
        return self._page.beat, self._page.time, self._page.limit

    def note(self, **texts: str) -> None:
        """Notes texts: `run_dir`, `command` or `reason`."""
        for name, text in texts.items():
            # What does not fit is cut off; the last byte is the end of the text.
            setattr(self._page, name, os.fsencode(text)[: getattr(_Page, name).size - 1])

    def read(self, name: str) -> str:
        """The text that was noted last; empty without one."""
        return os.fsdecode(getattr(self._page, name))


board = Board()
