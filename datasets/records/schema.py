"""What record files hold: their keys, their number of images, their first label."""

import contextlib
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError


@dataclass(frozen=True)
class RecordKeys:
    """Under which keys a `tf.Example` holds what is read."""

    image: str  # the JPEG, one bytes value
    label: str  # the class, one int64 value
    filename: str  # of the image, a bytes value that may be missing

    def filename_in(self, example: dict[str, list[Any]]) -> str:
        """The image's file name in quotes; empty where there is none."""
        name = (example.get(self.filename) or [b""])[0]
        return repr(name.decode(errors="replace")) if isinstance(name, bytes) and name else ""


# TensorFlow's build_imagenet_data.py, and datasets/build_imagenet_data.py here.
CLASSIC = RecordKeys("image/encoded", "image/class/label", "image/filename")
# TensorFlow Datasets: a feature `Image` and a feature `ClassLabel`.
TFDS = RecordKeys("image", "label", "file_name")

SCHEMAS = (CLASSIC, TFDS)

# The label of the first class in each. TensorFlow Datasets counts from 0, as its
# `tfds.features.ClassLabel` does.
CLASSIC_LABEL_OFFSET = 1
TFDS_LABEL_OFFSET = 0


@dataclass(frozen=True)
class Records:
    """The files of one split at one size."""

    files: tuple[Path, ...]  # the shards, in order
    images: int  # in all of them
    label_offset: int = CLASSIC_LABEL_OFFSET  # the label of the first class
    keys: RecordKeys = CLASSIC
    classes: tuple[str, ...] = ()  # names in the order of the labels; empty where not known
    counts: tuple[int, ...] = ()  # images of each file; empty where not known

    @property
    def digest(self) -> str:
        """Of the names and sizes of the files, wherever they are."""
        total = hashlib.blake2b(digest_size=16)
        for path in self.files:
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
        return total.hexdigest()

    @property
    def name(self) -> str:
        """Names these records in a table; a spreadsheet cannot read it as a number."""
        return f"records-{self.digest[:12]}"


def keys_of(example: Collection[str]) -> RecordKeys:
    """The schema whose image and label are both among the keys of a record."""
    for keys in SCHEMAS:
        if keys.image in example and keys.label in example:
            return keys
    known = " or ".join(f"'{keys.image}' and '{keys.label}'" for keys in SCHEMAS)
    there = ", ".join(f"'{key}'" for key in sorted(example)[:8]) or "nothing"
    raise DataError(f"it holds {there}; it needs {known}")


# What a file that is missing, or that has another form, raises.
_UNKNOWN = (OSError, ValueError, LookupError, TypeError)


@dataclass(frozen=True)
class DatasetInfo:
    """What TensorFlow Datasets writes of a set: https://www.tensorflow.org/datasets/external_tfrecord"""

    classes: int  # number of classes
    names: tuple[str, ...]  # of the classes, in the order of the labels; may be empty
    images: dict[str, int]  # of those splits whose number of images is known


def read_dataset_info(folder: Path) -> DatasetInfo | None:
    """What the files of a folder say; None where they do not give the number of classes."""
    names, classes, splits, images = [], 0, [], {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (folder / "label.labels.txt").read_text("utf-8")
        names = text.removesuffix("\n").split("\n") if text else []
    # JSON holds protobuf's 64-bit numbers as strings.
    with contextlib.suppress(*_UNKNOWN):
        features = json.loads((folder / "features.json").read_bytes())["featuresDict"]["features"]
        classes = int(features["label"]["classLabel"]["numClasses"])
    classes = classes or len(names)
    if not classes:
        return None
    with contextlib.suppress(*_UNKNOWN):
        splits = list(json.loads((folder / "dataset_info.json").read_bytes())["splits"])
    for split in splits:
        with contextlib.suppress(*_UNKNOWN):
            if lengths := [int(length) for length in split["shardLengths"]]:
                images[split["name"]] = sum(lengths)
    return DatasetInfo(classes, tuple(names) if len(names) == classes else (), images)
