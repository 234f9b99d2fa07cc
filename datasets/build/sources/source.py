"""What a set of images is to the builder, whatever it is kept in."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from core.errors import DataError
from datasets.build.images import MAX_BYTES, Refused
from datasets.build.sources.boxes import Boxes

logger = logging.getLogger(__name__)

# Shows a progress bar over what it is given: images found, say.
Progress = Callable[[Iterable], Iterator]


class ImageFile(NamedTuple):
    """Where one image is. The strings are shared; a million of these take about 200 MB.

    Attributes:
        name: `<class>/<file>`, unique in its split.
        place: the folder or archive that holds it, from the root of the source.
        offset: of its first byte in the archive; -1 for a file in a folder.
        size: in bytes; -1 where it is no regular file.
        refused: why it is not to be read, where its container tells that already.
    """

    name: str
    place: str
    offset: int
    size: int
    refused: str = ""

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.name.split("/", 1)[0]

    @property
    def file(self) -> str:
        return self.name.split("/", 1)[1]

    @property
    def path(self) -> str:
        """How it is called in messages: its path from the root, through the archive."""
        return f"{self.place}/{self.file if self.offset < 0 else self.name}"


@dataclass(frozen=True)
class Source:
    """A set of images in classes.

    Attributes:
        layout: its name in `datasets.build.sources.layouts.LAYOUTS`.
        root: the folder that `ImageFile.place` is in.
        sizes: short sides of a set that is resized already, each in `root/<size>`.
            Empty for others.
        classes: names of the class folders, in the order of the labels.
        images: of each split, by prefix of its records, in the order they are written.
        digest: hex digest of the splits' names and sizes.
        words: classes in words, where they are known.
        boxes: bounding boxes of each split by `<class>/<file without its ending>`.
    """

    layout: str
    root: Path
    classes: tuple[str, ...]
    images: dict[str, tuple[ImageFile, ...]]
    digest: str
    sizes: tuple[int, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[str, Mapping[str, Boxes]] = field(default_factory=dict)

    def folders(self) -> set[Path]:
        """The folders in which nothing may be written."""
        if self.sizes:
            return {self.root / str(size) for size in self.sizes}
        places = {image.place for part in self.images.values() for image in part}
        return {self.root / place.split("/", 1)[0] for place in places}


def in_order(images: Iterable[ImageFile], seed: int) -> tuple[ImageFile, ...]:
    """The images in the order of a hash of seed and name.

    Classes are mixed, and the order depends on neither file system nor container.
    """
    return tuple(sorted(images, key=functools.partial(_shuffle_key, seed)))


def _shuffle_key(seed: int, image: ImageFile) -> tuple[bytes, str]:
    return hashlib.sha256(os.fsencode(f"{seed}/{image.name}")).digest(), image.name


def digest(images: Mapping[str, Sequence[ImageFile]]) -> str:
    """Hex digest of the names and sizes in bytes of all splits."""
    total = hashlib.sha256()
    for prefix, part in images.items():
        for image in sorted(part):
            total.update(os.fsencode(f"{prefix}/{image.name}\0{image.size}\n"))
    return total.hexdigest()


def check_classes(train: Iterable[str], validation: Iterable[str], where: str | Path) -> None:
    """Raises DataError where validation has classes that train has not."""
    unknown = sorted(set(validation) - set(train))
    if unknown:
        raise DataError(
            f"'{where}' has {len(unknown)} class(es) that train has not: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )


def read_bytes(root: Path, image: ImageFile) -> bytes:
    """Contents of an image's file.

    Raises:
        Refused: it is empty, too large, no regular file, or cut off with its archive.
        OSError: it cannot be read.
    """
    if image.refused:
        raise Refused(image.refused)
    if image.size == 0:
        raise Refused("empty file")
    if image.size < 0:
        raise Refused("no regular file, or a link to none")
    if image.size > MAX_BYTES:
        raise Refused(f"{image.size:,} bytes; {MAX_BYTES:,} are the most that is read")
    if image.offset < 0:
        return (root / image.place / image.file).read_bytes()
    data = os.pread(_open_archive(root / image.place), image.size, image.offset)
    if len(data) < image.size:
        raise Refused("the archive ends in the middle of it")
    return data


@functools.cache
def _open_archive(path: Path) -> int:
    """One descriptor for each archive and process; `pread` shares no position."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
