"""Writing files so that no crash, full disk or reader ever meets half of one."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end of the block.

    The file and then its name outlive a power cut. A block that fails leaves nothing behind,
    and an older file as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras wants the suffix; two processes may write the same report.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        _sync(unfinished)
        os.replace(unfinished, path)
        _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, text: str) -> None:
    """Writes a text file whole, in UTF-8; bytes of file names that are not UTF-8 survive."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def append(path: Path, text: str) -> None:
    """Adds all of `text` in one write, or raises `OSError` and adds nothing."""
    data = text.encode()
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        if file.write(data) < len(data):
            file.truncate(before)  # a full disk has taken a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextlib.contextmanager
def undone_on_error(path: Path) -> Iterator[None]:
    """Cuts `path` back to its length where the block raises an `OSError`."""
    size = path.stat().st_size if path.exists() else 0
    try:
        yield
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise
