"""What a worker notes for its supervisor, which speaks when the worker cannot."""

import ctypes
import mmap
import os
import time
from pathlib import Path


class _Page(ctypes.Structure):
    _fields_ = [
        ("beat", ctypes.c_int64),
        ("time", ctypes.c_double),
        ("limit", ctypes.c_double),
        ("run_dir", ctypes.c_char * 4096),
        ("command", ctypes.c_char * 8192),
        ("reason", ctypes.c_char * 4096),
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

    def note_command(self, run_dir: Path | None, command: str) -> None:
        """Notes the folder of the run that is trained, if any, and the command to resume."""
        self._note("run_dir", str(run_dir or ""))
        self._note("command", command)

    def note_reason(self, text: str) -> None:
        """Notes why Horovod broke off."""
        self._note("reason", text)

    def _note(self, field: str, text: str) -> None:
        # What does not fit is cut off; the last byte is the end of the text.
        setattr(self._page, field, os.fsencode(text)[: getattr(_Page, field).size - 1])

    @property
    def run_dir(self) -> Path | None:
        return Path(os.fsdecode(self._page.run_dir)) if self._page.run_dir else None

    @property
    def command(self) -> str:
        return os.fsdecode(self._page.command)

    @property
    def reason(self) -> str:
        return os.fsdecode(self._page.reason)


board = Board()
