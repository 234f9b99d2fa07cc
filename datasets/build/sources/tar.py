"""Tar archives, read without unpacking: the addresses of their files, and small files."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from core.errors import DataError
from datasets.build.images import ImageFile

_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7")  # how gzip, bzip2 and xz begin


def read_members(path: Path, *, nested: bool = False) -> Iterator[ImageFile]:
    """Finds the files of an uncompressed tar by hopping from header to header.

    With `nested` its members are archives themselves, `<class>.tar`, and it finds their
    files, named `<class>/<file>`. A compressed or damaged archive raises a `DataError`.
    """
    try:
        with open(path, "rb") as file:
            for archive, outer in _members(file, f"{path}"):
                refused = _refusal(outer)
                if not nested:
                    yield ImageFile(outer.name, path.name, outer.offset_data, outer.size, refused)
                    continue
                tar = PurePosixPath(outer.name)
                if refused or tar.suffix != ".tar":
                    raise DataError(
                        f"archive '{path}' holds '{tar}'{f' ({refused})' if refused else ''}; "
                        "it needs one '<class>.tar' for each class and nothing else"
                    )
                inner = archive.extractfile(outer).raw  # type: ignore[union-attr]  # one buffer is enough
                for _, found in _members(inner, f"{path}: {tar}"):
                    offset = outer.offset_data + found.offset_data
                    name = f"{tar.stem}/{found.name}"
                    yield ImageFile(name, path.name, offset, found.size, _refusal(found))
    except OSError as error:
        raise DataError(f"archive '{path}' cannot be read: {error.strerror}") from None


def _members(file: IO[bytes], shown: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The archive in a file, and each of its members that is not a folder."""
    try:
        with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
            yield from ((archive, member) for member in _each(archive) if not member.isdir())
            end = archive.offset
        # tarfile takes a broken header, or none at all, for the end of the archive.
        file.seek(end)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"it has no end mark at byte {end}")
    except tarfile.TarError as error:
        file.seek(0)
        if file.read(2) in _COMPRESSED:
            problem = "is compressed, so its files have no addresses; uncompress it first"
        else:
            problem = f"is cut short or damaged ({error}); download it again"
        raise DataError(f"archive '{shown}' {problem}") from None


def _each(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # they would all stay in memory
        yield member


def _refusal(member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return "its name leaves the archive"
    if member.issym() or member.islnk():
        return "a link in the archive; links are not followed"
    if not member.isreg() or member.issparse():
        return "no plain file in the archive"
    return ""


def read_small_files(
    path: Path, what: str, endings: tuple[str, ...], max_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the files with one of these endings, in a folder or a tar.

    The tar may be compressed, and may hold tars itself. Links in it and files of more than
    `max_bytes` are skipped. `what` names the content in messages.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path.parent).as_posix()
            if name.endswith(endings) and file.is_file() and file.stat().st_size <= max_bytes:
                yield name, file.read_bytes()
        return
    if not path.is_file():
        raise DataError(f"{what} '{path}': there is no such folder or archive")
    try:
        with open(path, "rb") as archive:
            yield from _small_members(archive, "", endings, max_bytes)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"{what} '{path}' is not a whole tar archive ({error}); download it again"
        ) from None


def _small_members(
    file: IO[bytes], folder: str, endings: tuple[str, ...], max_bytes: int
) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file) as archive:
        for member in _each(archive):
            if not member.isreg():
                continue
            content = archive.extractfile(member)
            assert content is not None  # it is for a regular file
            if member.name.endswith(endings) and member.size <= max_bytes:
                yield folder + member.name, content.read()
            elif not folder and member.name.endswith((".tar", ".tar.gz", ".tgz")):
                inner = PurePosixPath(member.name).name.split(".")[0]
                yield from _small_members(content, f"{inner}/", endings, max_bytes)
