"""The lines of a run's log: how each is written and how it is read. No TensorFlow.

The format is the original's, to the letter: a kind, then `name@value` pairs. A line may
have something in front, such as the name of the host that printed it.
"""

import re
from collections.abc import Mapping
from typing import Any

TRAIN, EVALUATION = "Log @train:", "Log @eval:"

# The column of train.csv for each field of a train line.
TRAIN_FIELDS = {
    "steps": "step",
    "epoch": "epoch",
    "im/s": "images_per_second",
    "loss": "loss",
    "total_loss": "total_loss",
    "lr": "learning_rate",
    "bs": "batch_size",
    "sz": "image_size",
    "top5": "top5",
    "tm": "seconds",
}


def train_line(row: Mapping[str, Any]) -> str:
    """The line of a row of train.csv."""
    return (
        TRAIN + " steps@{step:d} epoch@{epoch:.1f} im/s@{images_per_second:.2f} "
        "loss@{loss:.3f} total_loss@{total_loss:.3f} lr@{learning_rate:.5f} bs@{batch_size:d} "
        "sz@{image_size:d} top5@{top5:.4f} tm@{seconds:.2f}"
    ).format(**row)


def train_words(row: Mapping[str, Any]) -> str:
    """The same for someone who looks on: at most 99 characters."""
    return (
        "step {step:,d} (epoch {epoch:.1f}, {image_size} px): loss {loss:.3f}, top-5 {top5:.1%}, "
        "rate {learning_rate:.4g}, {images_per_second:,.0f} images/s"
    ).format(**row)


def read_train_line(line: str) -> dict[str, Any] | None:
    """The row of train.csv of a line, or None; raises `ValueError` for a line cut short."""
    if TRAIN not in line:
        return None
    found = _fields(line, ("steps", "im/s", "bs", "sz", "tm"))
    return {TRAIN_FIELDS[name]: found[name] for name in found if name in TRAIN_FIELDS}


def evaluation_line(count: int, row: Mapping[str, Any]) -> str:
    """The line of a row of evaluation.csv, of checkpoint number `count`; it has percents."""
    return (
        f"{EVALUATION} count@{count:5d} step@{row['step']:5d} top1@{row['top1'] * 100:5.3f} "
        f"top5@{row['top5'] * 100:6.2f} loss@{row['loss']:6.2f} time@{row['time']}"
    )


def evaluation_words(row: Mapping[str, Any]) -> str:
    """The same for someone who looks on."""
    return (
        "checkpoint of step {step:,d}: top-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.3f}"
    ).format(**row)


def read_evaluation_line(line: str) -> dict[str, Any] | None:
    """The row of evaluation.csv of a line, or None; raises `ValueError` for one cut short."""
    if EVALUATION not in line:
        return None
    found = _fields(line, ("step", "top1", "top5"))
    return {**found, "top1": found["top1"] / 100, "top5": found["top5"] / 100}


def workers_line(before: int, now: int, step: int) -> str:
    """Says that `now` workers count the steps from here on, where `before` did until `step`."""
    return f"Log @workers: from@{before} to@{now} steps@{step}"


CHANGE_OF_WORKERS = re.compile(r"Log @workers: from@(\d+) to@(\d+) ")

# The step of a line of either kind.
STEP_OF_LINE = re.compile(r"Log @(?:train: steps|eval: count@ *\d+ step)@ *(\d+)")

# Lines that only the original writes.
DATA_STRATEGY = re.compile(r"^Data strategy: *(\[.*\])", re.MULTILINE)
RATE_STRATEGY = re.compile(r"^Learning rate strategy: *(\[.*\])", re.MULTILINE)
HOROVOD_SIZE = re.compile(r"Horovod size:\D*(\d+)")
FINISHED = re.compile(r"Finished in\D*([\d.]+)")  # seconds


def _fields(line: str, needed: tuple[str, ...]) -> dict[str, Any]:
    """The `name@value` pairs of a line; all values but the time of day are numbers."""
    kinds = {"time": str} | dict.fromkeys(("steps", "step", "count", "bs", "sz"), int)
    pairs = re.findall(r"([\w/]+)@\s*(.+?)(?=\s+[\w/]+@|\s*$)", line)
    found = {name: kinds.get(name, float)(value) for name, value in pairs}
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"no {missing[0]}@ in {line!r}")
    return found
