"""The workers' output, as our launcher passes it on.

Horovod puts `[0]<stdout>:` in front of every line of every worker, and of every refresh of a
progress bar. Here the lines of rank 0 stay as they are; those of another worker begin with its
rank, as in `[1] `. On a terminal, a bar stays in the last line and lines appear above it. In
a file or a pipe there are lines only.
"""

import codecs
import os
import re
import threading
from typing import Any, TextIO

from core.environment import TERMINAL

ERASE_TO_END = "\x1b[K"  # of the line (ANSI)


class LastLine:
    """The line of a stream that is not finished yet. What follows `\\r` replaces its text."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self, replaced: str | None = None) -> None:
        self._text = ""
        self._replaced = replaced  # None for a usual line

    def feed(self, text: str) -> list[str]:
        """Adds to the stream; returns the lines that are finished now, without their ends."""
        finished = []
        for piece in re.split(r"([\r\n])", text):
            if piece == "\n":
                finished.append(self.shown())
                self._begin()
            elif piece == "\r":
                self._begin(replaced=self.shown())
            else:
                self._text += piece
        return finished

    def shown(self) -> str:
        """The text that a terminal would show: until there is a new one, the old one."""
        if self._replaced is None:
            return self._text
        return (self._text or self._replaced).rstrip(" ")  # tqdm covers a longer text with spaces

    def bar(self) -> str:
        """The same, if it is a progress bar; empty for the beginning of a usual line."""
        return "" if self._replaced is None else self.shown()


class Screen:
    """Writes the lines of all workers and, on a terminal, the bar of one of them below.

    Args:
        error: the launcher's standard error.
    """

    def __init__(self, error: TextIO):
        self._terminal = error if error.isatty() and os.environ.get("TERM") != "dumb" else None
        self._lock = threading.Lock()
        self._bars: dict[int, str] = {}  # of each worker, by rank
        self._drawn = ""

    def variables(self) -> dict[str, str]:
        """What the workers, whose standard error is a pipe, have to know about it."""
        if self._terminal is None:
            return {"TQDM_DISABLE": "1"}
        return {TERMINAL: "1", "TQDM_NCOLS": str(self._width())}

    def _width(self) -> int:
        assert self._terminal is not None
        # Room for the `^C` that a terminal shows; it must not begin a new line.
        return max(os.get_terminal_size(self._terminal.fileno()).columns - 3, 0)

    def write(self, rank: int, lines: list[str], bar: str, stream: Any) -> None:
        """Writes lines of a worker to `stream`, and notes its bar."""
        with self._lock:
            self._bars[rank] = bar
            # A blank line of another worker would be a rank and nothing else.
            lines = [line for line in lines if line or rank == 0]
            if lines:
                self._draw("")
                start = "" if rank == 0 else f"[{rank}] "
                stream.write("".join(f"{start}{line}\n" for line in lines))
                stream.flush()
            self._draw(next((self._bars[r] for r in sorted(self._bars) if self._bars[r]), ""))

    def _draw(self, bar: str) -> None:
        if self._terminal is not None and bar != self._drawn:
            # The window may have become narrower, and a bar of two lines cannot be erased.
            self._terminal.write(f"\r{bar[: self._width()]}{ERASE_TO_END}")
            self._terminal.flush()
            self._drawn = bar

    def pass_on(self, source: Any, stream: Any, rank: int) -> None:
        """Passes on what a worker writes to a pipe, until it closes it.

        A bar that is not finished then is erased: the worker was ended, and has said why, or
        another one has.

        Args:
            source: the end of the pipe to read, of `multiprocessing`.
            stream: the file to which the lines go.
        """
        # A byte that is not UTF-8 must not end this: the worker would wait for a reader.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        last = LastLine()
        with source:
            while data := os.read(source.fileno(), 1 << 16):
                lines = last.feed(decoder.decode(data))
                self.write(rank, lines, last.bar(), stream)
        lines = last.feed(decoder.decode(b"", final=True))
        if not last.bar() or self._terminal is None:
            lines += [last.shown()] if last.shown() else []
        self.write(rank, lines, "", stream)


def go_to_one_place(first: TextIO, second: TextIO) -> bool:
    """Whether two files are one: a terminal, a pipe, or a file on a disk."""
    one, other = os.fstat(first.fileno()), os.fstat(second.fileno())
    return os.path.samestat(one, other)
