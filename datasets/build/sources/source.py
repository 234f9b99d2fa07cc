"""A set of images as the builder sees it, in whatever form it is stored."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from core.errors import DataError
from datasets.build.images import MAX_BYTES, Refused
from datasets.build.sources.boxes import Boxes

# Shows a progress bar while the images that it is given are found.
Progress = Callable[[Iterable], Iterable]


class ImageFile(NamedTuple):
    """Where one image is. The strings are shared; a million of these take about 200 MB."""

    name: str  # `<class>/<file>`, unique in its split
    place: str  # the folder or archive that holds it, relative to the root of the source
    offset: int  # of its first byte in the archive; -1 for a file in a folder
    size: int  # in bytes; -1 if it is not a regular file
    refused: str = ""  # why it must not be read, if its archive shows that already

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.name.split("/", 1)[0]

    @property
    def file(self) -> str:
        return self.name.split("/", 1)[1]

    @property
    def path(self) -> str:
        """Its name in messages: the path from the root, through the archive."""
        return f"{self.place}/{self.file if self.offset < 0 else self.name}"


@dataclass(frozen=True)
class Source:
    """A set of images in classes. `read_source` completes what the reader of a layout finds.

    Attributes:
        classes: names of the class folders, in the order of the labels.
        images: of each split, by prefix of its records, in the order of the records.
        words: classes in words, where they are known.
        boxes: bounding boxes of each split by `<class>/<file without its ending>`.
        sizes: of a set that is resized already, each in `root/<size>`; empty for others.
        digest: hex digest of the splits' names and sizes.
    """

    root: Path
    classes: tuple[str, ...]
    images: Mapping[str, Sequence[ImageFile]]
    words: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[str, Mapping[str, Boxes]] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    digest: str = ""
    layout: str = ""

    def without_images(self) -> "Source":
        """Its classes and words alone: what each process needs, beside its own images."""
        return replace(self, images={}, boxes={})

    def chosen_sizes(self, asked: Sequence[int]) -> tuple[int, ...]:
        """The sizes to build. Raises DataError if there are none or the set cannot have them."""
        sizes = tuple(asked) or self.sizes
        if not sizes:
            raise DataError("--sizes: received none; give short sides in pixels, like 160,320")
        if unknown := [size for size in sizes if self.sizes and size not in self.sizes]:
            raise DataError(
                f"--sizes: received {unknown[0]}; '{self.root}' is resized already, "
                f"to {', '.join(map(str, self.sizes))}"
            )
        return sizes

    def check_output(self, output: Path, sizes: Iterable[int]) -> None:
        """Raises DataError if a build in `output` writes between the source's images."""
        places = {image.place for part in self.images.values() for image in part}
        folders = {str(size) for size in self.sizes} or {place.split("/", 1)[0] for place in places}
        for folder in (self.root / name for name in folders):
            for written in (output, *(output / str(size) for size in sizes)):
                if written.resolve().is_relative_to(folder.resolve()):
                    raise DataError(
                        f"output '{output}' is inside the source's '{folder}'; choose another"
                    )


def digest(images: Mapping[str, Iterable[ImageFile]]) -> str:
    """Hex digest of the names and sizes in bytes of all splits."""
    total = hashlib.sha256()
    for prefix, part in images.items():
        for image in sorted(part):
            total.update(os.fsencode(f"{prefix}/{image.name}\0{image.size}\n"))
    return total.hexdigest()


def check_classes(train: Iterable[str], validation: Iterable[str], where: str | Path) -> None:
    """Raises DataError if validation has classes that train does not have."""
    if unknown := sorted(set(validation) - set(train)):
        raise DataError(
            f"'{where}' has {len(unknown)} class(es) that train does not have: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )


def with_classes(
    images: Iterable[ImageFile],
    classes: Iterable[str],
    labels: Mapping[str, str],
    place: Path,
    listed: Path,
) -> Iterator[ImageFile]:
    """Names the validation images of one folder or archive `<class>/<file>`.

    The file `listed` has the `labels`: the class of each file. A `DataError` says that train
    does not have a class, or that a file has no label, is missing, or is there twice.
    """
    check_classes(classes, labels.values(), listed)
    seen = set()
    for image in images:
        file = image.name.rpartition("/")[2]
        if file not in labels:
            raise DataError(f"'{place / image.name}' has no line in '{listed}'; add or remove it")
        if file in seen:
            raise DataError(f"'{place}' holds '{file}' twice; copy or download it again")
        seen.add(file)
        yield image._replace(name=f"{labels[file]}/{file}")
    if lost := sorted(labels.keys() - seen):
        raise DataError(
            f"'{listed}' lists {len(lost)} file(s) that '{place}' does not have, "
            f"the first is '{lost[0]}'; copy or download the set again"
        )


def read_bytes(root: Path, image: ImageFile) -> bytes:
    """Contents of an image's file; a file that is no image for sure raises `Refused`."""
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
