"""Addresses of the files in a tar archive, so that they are read without unpacking."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from core.errors import DataError

_BLOCK = 512


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path in the archive. It names the file, and is never opened.
        offset: of its first byte in the archive file.
        size: in bytes.
        refused: why it is not to be read: a link, a device, a name that leaves the archive.
    """

    name: str
    offset: int
    size: int
    refused: str


def read_members(path: str | Path, *, nested: bool = False) -> Iterator[Member]:
    """Finds the files of an uncompressed tar by hopping from header to header.

    Args:
        path: the archive.
        nested: its members are archives themselves, `<class>.tar`; their files are found,
            named `<class>/<file>`.

    Raises:
        DataError: it is no tar, compressed, or cut short.
    """
    try:
        with open(path, "rb") as file:
            if not nested:
                yield from _members(file, str(path))
                return
            for outer in _members(file, str(path)):
                inner = PurePosixPath(outer.name)
                if outer.refused or inner.suffix != ".tar":
                    raise DataError(
                        f"archive '{path}' holds '{outer.name}'"
                        f"{' (' + outer.refused + ')' if outer.refused else ''}; "
                        "a '<class>.tar' for each class would do"
                    )
                part = _Part(file, outer.offset, outer.size)
                for member in _members(part, f"{path}: {outer.name}"):
                    yield member._replace(
                        name=f"{inner.stem}/{member.name}", offset=outer.offset + member.offset
                    )
    except OSError as error:
        raise DataError(f"archive '{path}' cannot be read: {error.strerror}") from None


def _members(file: "BinaryIO | _Part", shown: str) -> Iterator[Member]:
    start = file.tell()
    try:
        with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # they would all stay in memory
                if not member.isdir():
                    yield Member(member.name, member.offset_data, member.size, _refusal(member))
            end = archive.offset
    except tarfile.TarError as error:
        raise DataError(_broken(file, start, shown, str(error))) from None
    # tarfile takes a broken header, or none at all, for the end of the archive.
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(_broken(file, start, shown, f"it ends without its mark, at byte {end}"))


def _broken(file: "BinaryIO | _Part", start: int, shown: str, words: str) -> str:
    file.seek(start)
    head = file.read(2)
    if head in (b"\x1f\x8b", b"BZ", b"\xfd7"):
        return (
            f"archive '{shown}' is compressed, and its files have no addresses; uncompress it first"
        )
    return f"archive '{shown}' is cut short or damaged ({words}); download it again"


def _refusal(member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return "its name leaves the archive"
    if member.issym() or member.islnk():
        return "a link in the archive; links are not followed"
    if not member.isreg() or member.issparse():
        return "no plain file in the archive"
    return ""


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own, for reading."""

    def __init__(self, file: BinaryIO, offset: int, size: int):
        self._file, self._offset, self._size = file, offset, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + position
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._offset + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data
