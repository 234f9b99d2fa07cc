"""Shards: their number, and the processes that write them."""

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import files
from core.errors import DataError
from datasets.build.images import convert, keep, reason, stored_shape
from datasets.build.processes import run_jobs
from datasets.build.sources.boxes import Box, Boxes, relative_boxes
from datasets.build.sources.source import ImageFile, Source, read_bytes
from datasets.records.examples import make_example
from datasets.records.frames import frame
from datasets.records.manifest import shard_name
from datasets.records.schema import CLASSIC_LABEL_OFFSET

IMAGES_A_SHARD = 1250  # 1024 train files for ImageNet, as everyone has them


class BuildStopped(RuntimeError):
    """The build ended for no fault of the data; the same command goes on with it."""


def shard_counts(
    images: Mapping[str, int], shards: int | None = None, validation_shards: int | None = None
) -> dict[str, int]:
    """Files of each split, by default about 1,250 images in each.

    Training gets 8 or more where it has the images, validation an eighth of what
    training gets by default: ImageNet's usual 1024 and 128.

    Args:
        images: of each split.
        shards: training files, in place of the default.
        validation_shards: likewise for validation.

    Raises:
        DataError: a number below 1 or above that of the images.
    """
    train = max(images["train"] // IMAGES_A_SHARD, min(8, images["train"]))
    counts = {"train": train if shards is None else shards}
    if "validation" in images:
        eighth = min(train // 8, images["validation"])
        default = max(1, eighth, images["validation"] // IMAGES_A_SHARD)
        counts["validation"] = default if validation_shards is None else validation_shards
    for prefix, count in counts.items():
        if not 1 <= count <= images[prefix]:
            option = "--shards" if prefix == "train" else "--validation_shards"
            raise DataError(
                f"{option}: received {count}; 1 to {images[prefix]}, "
                f"the number of {prefix} images, would do"
            )
    return counts


@dataclass(frozen=True)
class Settings:
    """What is made of an image, the same for all of a build.

    Attributes:
        source: root of the images' places; with `ready` that of `<size>/<place>`.
        sizes: short sides in pixels.
        quality: of the JPEGs, 1 to 100.
        enlarge: enlarge images that are smaller than a size.
        ready: the source is resized already and its files are kept as they are.
        labels: by name of the class.
        words: likewise, where they are known.
    """

    source: Path
    sizes: tuple[int, ...]
    quality: int
    enlarge: bool
    ready: bool
    labels: Mapping[str, int]
    words: Mapping[str, str]

    def jpegs(self, image: ImageFile) -> tuple[list[tuple[bytes, int, int]], bytes]:
        """For each size an image's JPEG, width and height; and a file as it was read."""
        if not self.ready:
            data = read_bytes(self.source, image)
            return convert(data, self.sizes, self.quality, self.enlarge), data
        out = []
        for size in self.sizes:
            root = self.source / str(size)
            bytes_now = (root / image.place / image.file).stat().st_size  # each size has its own
            data = read_bytes(root, image._replace(size=bytes_now))
            out.append(keep(data, self.quality))
        return out, data


def settings_for(source: Source, sizes: tuple[int, ...], quality: int, enlarge: bool) -> Settings:
    """What is made of a source's images.

    Raises:
        DataError: no sizes, or sizes that a set which is resized already has not.
    """
    if not sizes and not source.sizes:
        raise DataError("--sizes: received none; give short sides in pixels, like 160,320")
    if missing := [size for size in sizes if source.sizes and size not in source.sizes]:
        raise DataError(
            f"--sizes: received {missing[0]}; '{source.root}' is resized already, "
            f"to {', '.join(map(str, source.sizes))}"
        )
    labels = {name: label for label, name in enumerate(source.classes, CLASSIC_LABEL_OFFSET)}
    return Settings(
        source.root, sizes or source.sizes, quality, enlarge, bool(source.sizes), labels,
        source.words,
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One shard in all sizes: what a process needs to write it."""

    output: Path
    name: str
    images: tuple[ImageFile, ...]
    boxes: Mapping[str, Boxes]

    @classmethod
    def of(
        cls, output: Path, name: str, images: tuple[ImageFile, ...], boxes: Mapping[str, Boxes]
    ) -> "Job":
        """A job that carries no boxes but those of its images."""
        keys = (key for image in images for key in _box_keys(image)) if boxes else ()
        return cls(output, name, images, {key: boxes[key] for key in keys if key in boxes})

    def boxes_of(self, image: ImageFile) -> Boxes | None:
        return next((self.boxes[key] for key in _box_keys(image) if key in self.boxes), None)


def _box_keys(image: ImageFile) -> tuple[str, str]:
    """What an image's boxes may be known by."""
    return os.path.splitext(image.name)[0], os.path.splitext(image.file)[0]


def make_jobs(source: Source, output: Path, counts: Mapping[str, int]) -> list[Job]:
    """A job for each shard: a stretch of its split's images."""
    jobs = []
    for prefix, count in counts.items():
        images = source.images[prefix]
        for index in range(count):
            part = images[index * len(images) // count : (index + 1) * len(images) // count]
            name = shard_name(prefix, index, count)
            jobs.append(Job.of(output, name, part, source.boxes.get(prefix, {})))
    return jobs


class _ShardFile:
    """A shard under a temporary name; it gets its own when all went well."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        self.images = self.bytes = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> "_ShardFile":
        self._file = open(self.temporary, "wb")
        return self

    def write(self, example: bytes) -> None:
        record = frame(example)
        self._file.write(record)
        self._hash.update(record)
        self.images += 1
        self.bytes += len(record)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if failed is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        if failed is None:
            files.publish(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)

    def described(self) -> dict[str, Any]:
        return {"images": self.images, "bytes": self.bytes, "sha256": self._hash.hexdigest()}


def write_shard(job: Job, settings: Settings) -> dict[str, Any]:
    """Writes a job's shard in all sizes, one image in memory at a time.

    Returns:
        `{"name": str, "sizes": {size: {"images", "bytes", "sha256"}}, "rejected":
        [[path, reason], ...]}`, fit for JSON.
    """
    rejected = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow's, of images it reads all the same
        shards = {
            size: stack.enter_context(_ShardFile(job.output / str(size) / job.name))
            for size in settings.sizes
        }
        for image in job.images:
            try:
                jpegs, data = settings.jpegs(image)
                boxes = _boxes(job.boxes_of(image), data, image.label, settings.labels)
            except MemoryError:
                raise
            except Exception as error:  # broken images make Pillow raise nearly anything
                rejected.append([image.path, reason(error)])
                continue
            for shard, jpeg in zip(shards.values(), jpegs, strict=True):
                shard.write(_example(image, jpeg, boxes, settings))
    sizes = {str(size): shard.described() for size, shard in shards.items()}
    return {"name": job.name, "sizes": sizes, "rejected": rejected}


def _boxes(boxes: Boxes | None, data: bytes, synset: str, classes: Mapping[str, int]) -> list[Box]:
    return relative_boxes(boxes, stored_shape(data), synset, classes) if boxes else []


def _example(
    image: ImageFile, jpeg: tuple[bytes, int, int], boxes: Sequence[Box], settings: Settings
) -> bytes:
    encoded, width, height = jpeg
    return make_example(
        encoded,
        height=height,
        width=width,
        label=settings.labels[image.label],
        synset=image.label,
        text=settings.words.get(image.label, ""),
        filename=os.fsencode(image.file),
        boxes=[box[:4] for box in boxes],
    )


def write_shards(
    jobs: Sequence[Job], settings: Settings, processes: int
) -> Generator[dict[str, Any], None, None]:
    """Results of `write_shard` as they come, from this process where it is to be one.

    Raises:
        BuildStopped: a process died.
    """
    try:
        yield from run_jobs(functools.partial(write_shard, settings=settings), jobs, processes)
    except BrokenProcessPool:
        raise BuildStopped(
            "a process of the build died (killed, or out of memory?). Finished shards are kept:\n"
            "run the same command again, with fewer --processes if memory was short"
        ) from None
