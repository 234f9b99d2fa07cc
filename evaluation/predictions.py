"""What a run's last checkpoint says of each validation image, and what it gets wrong.

No TensorFlow: the report reads this at once.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.records.schema import Records
from training import tables
from training.run_folder import checkpoint_key

BINS = 15  # of the calibration; as in Guo et al. 2017


@dataclass(frozen=True)
class Predictions:
    """`n` validation images in the order of their records, and the `k` likeliest classes of each.

    Classes and labels are numbers from 0, in the order of the logits. The class -1, of
    probability 0, stands where the model's output was not finite.
    """

    checkpoint: tuple[int, int, str]  # the step as written, the workers, the time
    files: Sequence[str]  # the name of the record file of each image
    records: np.ndarray  # [n] int64, the number of its record in that file, from 0
    names: Sequence[str]  # of the images' own files; empty where the records have none
    labels: np.ndarray  # [n] int64
    classes: np.ndarray  # [n, k] int64, the likeliest first
    probabilities: np.ndarray  # [n, k] float64

    @property
    def correct(self) -> np.ndarray:
        """Whether the likeliest class is the label's, `[n]` bool."""
        return self.classes[:, 0] == self.labels

    @property
    def confidences(self) -> np.ndarray:
        """The probability of the likeliest class, `[n]` float64."""
        return self.probabilities[:, 0]


def identity(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """What tells the checkpoint of a row from all others, also from one written again."""
    step, workers = checkpoint_key(row)
    return step, workers, row["time"]


def write(
    path: Path, checkpoint: Mapping[str, Any], records: Records, found: Iterable[list[Any]]
) -> None:
    """Writes predictions as a table, whole or not at all.

    Args:
        checkpoint: its row in checkpoints.csv.
        records: of the images, with the number of images of each file.
        found: what `Evaluator.predict` returns of all images, in any order.
    """
    names = ("step", "workers", "time")
    of = dict(zip(names, identity(checkpoint), strict=True))
    ends = np.cumsum(records.counts)
    rows = []
    for number, name, label, classes, probabilities in sorted(found):
        file = int(np.searchsorted(ends, number, side="right"))
        place = {"file": records.files[file].name, "name": name, "label": label}
        place["record"] = number - int(ends[file]) + records.counts[file]
        likeliest = zip(_ranked("class", len(classes)), classes, strict=True)
        sure = zip(_ranked("probability", len(classes)), probabilities, strict=True)
        rows.append({**of, **place, **dict(likeliest), **dict(sure)})
    count = len(classes)
    columns = [*names, "file", "record", "name", "label"]
    columns += [*_ranked("class", count), *_ranked("probability", count)]
    tables.rewrite(path, columns, rows)


def _ranked(name: str, count: int) -> list[str]:
    return [f"{name}_{rank}" for rank in range(1, count + 1)]


def read(path: Path) -> Predictions | None:
    """Reads what `write` has written; None where there is no file."""
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    count = sum(name.startswith("class_") for name in header)
    first = {name: cells[name][0] for name in ("step", "workers", "time")}
    return Predictions(
        (int(first["step"]), int(first["workers"]), first["time"]),
        cells["file"],
        np.array(cells["record"], np.int64),
        cells["name"],
        np.array(cells["label"], np.int64),
        np.array([cells[name] for name in _ranked("class", count)], np.int64).T,
        np.array([cells[name] for name in _ranked("probability", count)], np.float64).T,
    )


def noted_checkpoint(path: Path) -> tuple[int, int, str] | None:
    """Of which checkpoint the table is, from its first row; None where there is no table."""
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    return int(row["step"]), int(row["workers"]), row["time"]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Images by label (row) and predicted class (column), int64 `[classes, classes]`.

    Images without a prediction, -1, are not counted.
    """
    there = predicted >= 0
    pairs = labels[there] * classes + predicted[there]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def worst_pairs(labels: np.ndarray, predicted: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """What is most often taken for what: label, predicted class and images, the most first."""
    wrong = (labels != predicted) & (predicted >= 0)
    pairs = np.stack([labels[wrong], predicted[wrong]], axis=1)
    found, images = np.unique(pairs, axis=0, return_counts=True)
    # A stable sort: among equals, the first classes come first.
    order = np.argsort(-images, kind="stable")[:most]
    return [(int(found[i, 0]), int(found[i, 1]), int(images[i])) for i in order]


def hits_by_class(
    labels: np.ndarray, correct: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images of each class that are predicted right, and all of its images, `[classes]`."""
    return np.bincount(labels[correct], minlength=classes), np.bincount(labels, minlength=classes)


def surest_mistakes(found: Predictions, most: int) -> list[int]:
    """The wrong predictions of the highest probability, as numbers of images."""
    order = np.argsort(-found.confidences, kind="stable")
    return [int(i) for i in order[~found.correct[order]][:most] if found.classes[i, 0] >= 0]


@dataclass(frozen=True)
class Bin:
    """Images whose likeliest class has a probability above `low`, up to `high`."""

    low: float
    high: float
    images: int
    confidence: float  # the mean of these probabilities; 0 where there is no image
    accuracy: float  # the share of these images that are predicted right; likewise


def calibrate(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of a reliability diagram, of equal widths from 0 to 1.

    After C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger 2017, "On Calibration of Modern Neural
    Networks", section 2 (https://arxiv.org/abs/1706.04599): bin m of M holds the images with a
    confidence in ((m - 1) / M, m / M].

    Args:
        confidences: the probability of the likeliest class, `[n]` float.
        correct: whether that class is right, `[n]` bool.
    """
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, confidences, side="left")
    images = np.bincount(place, minlength=bins)
    there = np.maximum(images, 1)
    confidence = np.bincount(place, confidences, minlength=bins) / there
    accuracy = np.bincount(place, correct, minlength=bins) / there
    columns = (images.tolist(), confidence.tolist(), accuracy.tolist())
    return [
        Bin(number / bins, (number + 1) / bins, *values)
        for number, values in enumerate(zip(*columns, strict=True))
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """How far confidence is from accuracy: sum over the bins of n_m / n * |acc_m - conf_m|.

    Equation 3 of Guo et al. 2017; see `calibrate`.
    """
    total = sum(own.images for own in bins)
    return sum(own.images * abs(own.accuracy - own.confidence) for own in bins) / total
