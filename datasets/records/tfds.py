"""What TensorFlow Datasets writes beside its records: the classes and the counts.

`features.json` names the features, `label.labels.txt` the classes, `dataset_info.json`
the images of each shard. Any of them may be missing.
https://www.tensorflow.org/datasets/external_tfrecord
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

# What a file that is missing, or that has another form, raises.
_UNKNOWN = (OSError, ValueError, LookupError, TypeError)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set."""

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
