"""What a worker tells the process beside it, which speaks for it when it cannot."""

import mmap
import os
import struct
import time
from pathlib import Path


class Board:
    """A page of memory that a worker and its supervisor share.

    It holds the step, the time of the last beat, how long the step may take (0 for as
    long as it likes), the folder of the run that is trained, the command that goes on
    with it, and why Horovod broke off.
    """

    _layout = struct.Struct("<qdd")
    _told_at, _reason_at, _size = 64, 3 * mmap.PAGESIZE, 4 * mmap.PAGESIZE

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, self._size)

    def beat(self, step: int, longest_seconds: float | None) -> None:
        self._layout.pack_into(self._page, 0, step, time.monotonic(), longest_seconds or 0.0)

    def last(self) -> tuple[int, float, float]:
        return self._layout.unpack_from(self._page)

    def tell(self, run_dir: Path | None, command: str) -> None:
        data = b"\0".join([os.fsencode(run_dir or ""), command.encode()])
        self._write(data, self._told_at, self._reason_at)

    def note_reason(self, text: str) -> None:
        self._write(text.encode(), self._reason_at, self._size)

    def _write(self, data: bytes, begin: int, end: int) -> None:
        data = data[: end - begin - 1] + b"\0"
        self._page[begin : begin + len(data)] = data

    def _told(self) -> list[bytes]:
        return self._page[self._told_at : self._reason_at].split(b"\0", 2)

    @property
    def run_dir(self) -> Path | None:
        """Folder of the run that is trained; None before there is one."""
        return Path(os.fsdecode(self._told()[0])) if self._told()[0] else None

    @property
    def command(self) -> str:
        return self._told()[1].decode(errors="replace")

    @property
    def reason(self) -> str:
        return self._page[self._reason_at :].split(b"\0", 1)[0].decode(errors="replace")


board = Board()
