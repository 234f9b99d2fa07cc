"""What is known of a run, whatever it was read from. No TensorFlow.

A run folder, a log in the original's format and a DAWNBench entry all become a `RunRecord`,
so that a run of today can be compared with a published one. `reports/reader.py` reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core.clock import CLOCKS
from core.schedule import Schedule, ScheduledPhase

Timeline = tuple[Sequence[float], Sequence[float]]  # global steps, and when they were done


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint with its accuracy.

    Attributes:
        step, epoch, images: done when it was written; None where not recorded.
        top1, top5: on the validation set, as fractions.
        loss: mean cross-entropy, where it was recorded.
        seconds: by clock, for those clocks that the record knows.
    """

    step: int | None
    epoch: float | None
    images: int | None
    top1: float
    top5: float
    loss: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class PhaseRecord:
    """A phase as it ran.

    Attributes:
        first, end: it ran the global steps `first` to `end - 1`.
        epoch: where it begins and ends; None where not recorded.
        images_per_second: of all workers, in its steps; None where not measured.
    """

    first: int
    end: int
    batch_size: int
    image_size: int
    epoch: tuple[float, float] | None = None
    images_per_second: float | None = None

    @classmethod
    def of(cls, phase: ScheduledPhase, images_per_second: float | None) -> "PhaseRecord":
        """The record of a phase of a schedule."""
        batch_size, image_size = phase.phase.batch_size, phase.phase.image_size[0]
        epoch = phase.phase.epoch
        return cls(phase.first, phase.end, batch_size, image_size, epoch, images_per_second)

    @property
    def shape(self) -> tuple[int, int]:
        """Image size and batch size, which phases that share a trace have in common."""
        return self.image_size, self.batch_size


@dataclass(frozen=True)
class RunRecord:
    """One run; None or empty where something is not known.

    Attributes:
        name: of the recipe or the log, with the folder where that says more.
        kind: `"run folder"`, `"log"` or `"DAWNBench entry"`.
        checkpoints: the evaluated ones, by step.
        windows: rows of train.csv, or the train lines of a log.
        at_most: clocks whose times are upper bounds.
        totals, timelines: of the whole run, by clock.
        buckets: seconds in each bucket.
        evaluation: how the checkpoints were evaluated, in words.
        remarks: what the reader has to know about the figures.
        settings: what repeats have in common.
        facts: what else an export needs (model, classes, versions).
    """

    name: str
    source: Path
    kind: str
    checkpoints: tuple[EvaluatedCheckpoint, ...]
    windows: tuple[Mapping[str, Any], ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    schedule: Schedule | None = None
    workers: int | None = None
    at_most: frozenset[str] = frozenset()
    totals: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, float] | None = None
    timelines: Mapping[str, Timeline] = field(default_factory=dict)
    evaluation: str = "not recorded"
    remarks: tuple[str, ...] = ()
    settings: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clocks(self) -> tuple[str, ...]:
        """The clocks for which this record has times."""
        return tuple(name for name in CLOCKS if name in self.totals)

    def seconds_at(self, step: int, clock: str) -> float:
        """Seconds on `clock` when `step` steps were done; linear between recorded times."""
        return float(np.interp(step, *self.timelines[clock]))


def rate_of_windows(
    windows: Sequence[Mapping[str, Any]], first: int, end: int, skip_first: bool
) -> float | None:
    """Images a second over the report windows inside steps `first` to `end`.

    Args:
        windows: rows with `step`, `seconds` and `images_per_second`, by step.
        skip_first: leave out the window of a stage's first step, which holds its trace.
    """
    images, total = 0.0, 0.0
    for before, row in pairwise(windows):
        traced = skip_first and before["step"] <= first
        if first <= before["step"] and row["step"] <= end and not traced:
            seconds = row["seconds"] - before["seconds"]
            images += seconds * row["images_per_second"]
            total += seconds
    return images / total if total > 0 else None
