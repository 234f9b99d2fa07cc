"""A set of images as the builder sees it, in whatever form it is stored."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.errors import DataError
from datasets.build.images import ImageFile
from datasets.build.sources.boxes import Boxes

Progress = Callable[[Iterable], Iterable]  # shows a bar while the images in it are found


@dataclass(frozen=True)
class Source:
    """A set of images in classes. `read_source` completes what the reader of a layout finds."""

    root: Path
    classes: tuple[str, ...]  # names of the class folders, in the order of the labels
    images: Mapping[str, Sequence[ImageFile]]  # by prefix of the records, in their order
    words: Mapping[str, str] = field(default_factory=dict)  # by class, where they are known
    # By prefix of the records, and by `<class>/<file without its ending>`.
    boxes: Mapping[str, Mapping[str, Boxes]] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()  # of a set that is resized already, each in `root/<size>`
    digest: str = ""  # of the names and sizes of all files
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
            known = ", ".join(map(str, self.sizes))
            raise DataError(f"--sizes: received {unknown[0]}; '{self.root}' is resized to {known}")
        return sizes

    def check_output(self, output: Path, sizes: Iterable[int]) -> None:
        """Raises DataError if a build in `output` writes between the source's images."""
        places = {image.place for part in self.images.values() for image in part}
        folders = {str(size) for size in self.sizes} or {place.split("/", 1)[0] for place in places}
        written = [output.resolve(), *((output / str(size)).resolve() for size in sizes)]
        for folder in (self.root / name for name in folders):
            if any(path.is_relative_to(folder.resolve()) for path in written):
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


def hold_out(source: Source, share: float, seed: int) -> Source:
    """Takes a part of the training images to validate on.

    Of each class it is the `share`, rounded, but at least one image and never all of them: a
    class of one image is trained on alone. A hash of seed and name decides, so that images
    which are added later move few of the others.
    """
    by_class: dict[str, list[ImageFile]] = {}
    for image in source.images["train"]:
        by_class.setdefault(image.label, []).append(image)

    def drawn(image: ImageFile) -> tuple[bytes, str]:
        return hashlib.sha256(os.fsencode(f"split {seed}/{image.name}")).digest(), image.name

    train, validation = [], []
    for part in by_class.values():
        count = min(max(1, round(share * len(part))), len(part) - 1)
        ordered = sorted(part, key=drawn)
        validation += ordered[:count]
        train += ordered[count:]
    boxes = {**source.boxes, "validation": source.boxes.get("train", {})}
    if train and not validation:
        raise DataError(
            f"no class of '{source.root}' has two images, so none is left to validate on"
        )
    images = {"train": train, "validation": validation}
    digest = source.digest and f"{source.digest}, split {share:g}"
    return replace(source, images=images, boxes=boxes, digest=digest)


def check_classes(train: Iterable[str], validation: Iterable[str], where: str | Path) -> None:
    """Raises DataError if validation has classes that train does not have."""
    if unknown := sorted(set(validation) - set(train)):
        some = ", ".join([*unknown[:5], "..."][: len(unknown)])
        raise DataError(f"'{where}' has {len(unknown)} class(es) that train does not have: {some}")


def with_classes(
    images: Iterable[ImageFile], labels: Mapping[str, str], place: Path, listed: Path
) -> Iterator[ImageFile]:
    """Names the images of one folder or archive `<class>/<file>`.

    The file `listed` has the `labels`: the class of each file, once.
    """
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
