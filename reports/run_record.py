"""What is known of a run, whatever it was read from. No TensorFlow.

A run folder, a log in the original's format and a DAWNBench entry all become a `RunRecord`,
so that a run of today can be compared with a published one. `reports/reader.py` reads them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core.clock import CLOCKS
from core.schedule import Schedule
from evaluation.predictions import Predictions

Timeline = tuple[Sequence[float], Sequence[float]]  # global steps, and when they were done


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint with its accuracy on the validation set; None where something is not known."""

    step: int | None
    epoch: float | None
    images: int | None  # seen by all workers when it was written
    top1: float  # a fraction
    top5: float
    loss: float | None  # mean cross-entropy
    seconds: Mapping[str, float]  # by clock, for those clocks that the record knows


@dataclass(frozen=True)
class PhaseRecord:
    """A phase as it ran, global steps `first` to `end - 1`; None where something is not known."""

    first: int
    end: int
    batch_size: int
    image_size: int
    epoch: tuple[float, float] | None = None
    images_per_second: float | None = None  # of all workers, in its steps

    @property
    def shape(self) -> tuple[int, int]:
        """Image size and batch size, which phases that share a trace have in common."""
        return self.image_size, self.batch_size


def phases_of(schedule: Schedule) -> list[PhaseRecord]:
    """The phases of a schedule, without rates."""
    return [
        PhaseRecord(p.first, p.end, p.phase.batch_size, p.phase.image_size[0], p.phase.epoch)
        for p in schedule.phases
    ]


def with_rates(
    phases: Iterable[PhaseRecord], windows: Sequence[Mapping[str, Any]], traced: Collection[int]
) -> Iterator[PhaseRecord]:
    """The phases, with the rate of the report windows that lie inside each.

    The window of a step of `traced`, the first steps of stages, holds the trace and is left out.
    """
    for phase in phases:
        images, total = 0.0, 0.0
        for before, row in pairwise(windows):
            holds_trace = phase.first in traced and before["step"] <= phase.first
            if phase.first <= before["step"] and row["step"] <= phase.end and not holds_trace:
                seconds = row["seconds"] - before["seconds"]
                images += seconds * row["images_per_second"]
                total += seconds
        yield replace(phase, images_per_second=images / total if total > 0 else None)


@dataclass(frozen=True)
class RunRecord:
    """One run; None or empty where something is not known."""

    name: str  # of the recipe or the log, with the folder where that says more
    source: Path
    kind: str  # "run folder", "log" or "DAWNBench entry"
    checkpoints: tuple[EvaluatedCheckpoint, ...]  # the evaluated ones, by step
    windows: tuple[Mapping[str, Any], ...] = ()  # rows of train.csv, or train lines of a log
    phases: tuple[PhaseRecord, ...] = ()
    schedule: Schedule | None = None
    workers: int | None = None
    at_most: frozenset[str] = frozenset()  # clocks whose times are upper bounds
    totals: Mapping[str, float] = field(default_factory=dict)  # seconds of the run, by clock
    timelines: Mapping[str, Timeline] = field(default_factory=dict)  # by clock
    buckets: Mapping[str, float] | None = None  # seconds in each bucket
    evaluation: str = "not recorded"  # how the checkpoints were evaluated, in words
    remarks: tuple[str, ...] = ()  # what to know about the figures
    predictions: Predictions | None = None  # of the last checkpoint, for each image
    settings: Any = None  # what repeats have in common
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else an export needs

    @property
    def clocks(self) -> tuple[str, ...]:
        """The clocks for which this record has times."""
        return tuple(name for name in CLOCKS if name in self.totals)

    def seconds_at(self, step: int, clock: str) -> float:
        """Seconds on `clock` when `step` steps were done; linear between recorded times."""
        return float(np.interp(step, *self.timelines[clock]))
