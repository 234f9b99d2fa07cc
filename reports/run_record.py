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

Timeline = tuple[Sequence[float], Sequence[float]]  # global steps, and when they were done


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint with its accuracy; None where something was not recorded.

    Attributes:
        step, epoch, images: done when it was written.
        top1, top5: on the validation set, as fractions.
        loss: mean cross-entropy.
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
    """A phase as it ran, global steps `first` to `end - 1`; None where not recorded.

    `images_per_second` is of all workers, in its steps.
    """

    first: int
    end: int
    batch_size: int
    image_size: int
    epoch: tuple[float, float] | None = None
    images_per_second: float | None = None

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

    Args:
        windows: rows with `step`, `seconds` and `images_per_second`, by step.
        traced: first steps of stages. The window of such a step holds the trace and is left out.
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
