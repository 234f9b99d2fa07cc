"""What TensorFlow Datasets writes beside its records: the classes and the counts.

`features.json` names the features, `label.labels.txt` the classes, `dataset_info.json`
the images of each shard. Any of them may be missing.
https://www.tensorflow.org/datasets/external_tfrecord
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set."""

    classes: int  # number of classes
    names: tuple[str, ...]  # of the classes, in the order of the labels; may be empty
    images: dict[str, int]  # of those splits whose number of images is known


def read_dataset_info(folder: Path) -> DatasetInfo | None:
    """What the files of a folder say; None where they do not give the number of classes."""
    try:
        names = (folder / "label.labels.txt").read_text("utf-8").split("\n")
        names = names[:-1] if names[-1] == "" else names
    except (OSError, UnicodeDecodeError):
        names = []
    features = _get(_json(folder / "features.json"), "featuresDict", "features")
    classes = _number(_get(features, "label", "classLabel", "numClasses")) or len(names)
    if not classes:
        return None
    images = {}
    splits = _get(_json(folder / "dataset_info.json"), "splits")
    for split in splits if isinstance(splits, list) else ():
        lengths = [_number(length) for length in _get(split, "shardLengths") or ()]
        if lengths and None not in lengths:
            images[str(_get(split, "name"))] = sum(n for n in lengths if n is not None)
    return DatasetInfo(classes, tuple(names) if len(names) == classes else (), images)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _get(value: Any, *keys: str) -> Any:
    """What stands under the keys, one inside the other; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> int | None:
    """A number that JSON may hold as a string, as protobuf's 64-bit ones are."""
    return int(value) if isinstance(value, int | str) and str(value).isdigit() else None
