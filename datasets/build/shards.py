"""Shards: how many there are, what is in each, and how one is written."""

import contextlib
import functools
import hashlib
import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import files
from core.errors import DataError
from datasets.build.images import ImageFile, Jpeg, convert, keep, read_bytes, reason, stored_shape
from datasets.build.sources.boxes import Boxes, relative_boxes
from datasets.build.sources.layouts import BuildOptions
from datasets.build.sources.source import Source
from datasets.records.examples import make_example
from datasets.records.frames import frame
from datasets.records.manifest import shard_name
from datasets.records.schema import CLASSIC_LABEL_OFFSET

IMAGES_A_SHARD = 1250  # 1024 train files for ImageNet, the usual number


def shard_counts(
    images: Mapping[str, int], shards: int | None = None, validation_shards: int | None = None
) -> dict[str, int]:
    """Files of each split, for its number of images; by default about 1,250 images in each.

    Training gets 8 or more where it has the images. Validation gets an eighth of the default
    of training. ImageNet gets its usual 1024 and 128.
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
            most = f"{images[prefix]}, the number of its images"
            raise DataError(f"{option}: received {count}; give a number from 1 to {most}")
    return counts


@dataclass(frozen=True)
class ShardJob:
    """One shard in all sizes: its name, its images and their bounding boxes by image name."""

    name: str
    images: Sequence[ImageFile]
    boxes: Mapping[str, Boxes]

    @classmethod
    def of(cls, name: str, source: Source, prefix: str, part: slice) -> "ShardJob":
        """A job for a part of a split's images, with the boxes of these images alone."""
        images, known = source.images[prefix][part], source.boxes.get(prefix, {})
        boxes = {}
        for image in images if known else ():
            keys = (os.path.splitext(path)[0] for path in (image.name, image.file))
            if key := next((key for key in keys if key in known), None):
                boxes[image.name] = known[key]
        return cls(name, images, boxes)


def make_jobs(source: Source, counts: Mapping[str, int]) -> list[ShardJob]:
    """A job for each shard: a stretch of its split's images."""
    jobs = []
    for prefix, count in counts.items():
        ends = [index * len(source.images[prefix]) // count for index in range(count + 1)]
        for index, (start, end) in enumerate(itertools.pairwise(ends)):
            name = shard_name(prefix, index, count)
            jobs.append(ShardJob.of(name, source, prefix, slice(start, end)))
    return jobs


def write_shard(job: ShardJob, source: Source, options: BuildOptions) -> dict[str, Any]:
    """Writes a shard in all sizes of the options, one image in memory at a time.

    The result is fit for JSON: `{"name": str, "sizes": {size: {"images", "bytes", "sha256"}},
    "rejected": [[path, reason], ...]}`.
    """
    labels = {name: label for label, name in enumerate(source.classes, CLASSIC_LABEL_OFFSET)}
    rejected, shards, sizes = [], {}, {}
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images that it reads nevertheless
        for size in map(str, options.sizes):
            unfinished = stack.enter_context(files.whole(Path(options.output, size, job.name)))
            shards[size] = stack.enter_context(open(unfinished, "w+b"))
        for image in job.images:
            try:
                jpegs, data = _jpegs(image, source, options)
                boxes = []
                if known := job.boxes.get(image.name):
                    boxes = relative_boxes(known, stored_shape(data), image.label, labels)
            except MemoryError:
                raise
            except Exception as error:  # broken images make Pillow raise nearly anything
                rejected.append([image.path, reason(error)])
                continue
            example = functools.partial(
                make_example,
                label=labels[image.label],
                synset=image.label,
                text=source.words.get(image.label, ""),
                filename=os.fsencode(image.file),
                boxes=boxes,
            )
            for file, (jpeg, width, height) in zip(shards.values(), jpegs, strict=True):
                file.write(frame(example(jpeg, width=width, height=height)))
        images = len(job.images) - len(rejected)
        for size, file in shards.items():
            length = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            sizes[size] = {"images": images, "bytes": length, "sha256": sha256}
    return {"name": job.name, "sizes": sizes, "rejected": rejected}


def _jpegs(image: ImageFile, source: Source, options: BuildOptions) -> tuple[list[Jpeg], bytes]:
    """An image in each size, and a file as it was read."""
    if not source.sizes:
        data = read_bytes(source.root, image)
        settings = options.quality, options.enlarge, options.restart_markers
        return convert(data, options.sizes, *settings), data
    jpegs = []
    for size in options.sizes:
        root = source.root / str(size)
        bytes_now = (root / image.place / image.file).stat().st_size  # each size has its own
        data = read_bytes(root, image._replace(size=bytes_now))
        jpegs.append(keep(data, options.quality, options.restart_markers))
    return jpegs, data
