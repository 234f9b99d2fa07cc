"""A training strategy as data: phases in epochs, turned into steps once.

A strategy is a list of phases. Each sets its epochs, learning rate, batch size,
image size and data folder. `Schedule` turns the epochs into global steps; after
it, nothing in the project counts in epochs. No TensorFlow is imported here, so a
strategy can be planned and tested in milliseconds.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from core.errors import UserError

Count = Annotated[int, Field(gt=0, strict=True)]
Epoch = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]

WHOLE = "whole"  # type of those findings whose message names the phase and key itself


def _square(size: Any) -> Any:
    """A single number stands for a square image."""
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size


class Phase(BaseModel):
    """One phase of a training strategy, with the keys of the original.

    Attributes:
        epoch: `[begin, end]`, in epochs; fractions are allowed.
        lr: `[begin, end]`, the learning rate at the phase's first step and at the
            step after its last.
        lr_method: `"linear"` or `"exp"`, how the rate moves between the two.
        batch_size: images per worker and step.
        image_size: `(height, width)` in pixels, or one number for a square.
        data_dir: folder of the records, below the data directory.
        prefix: the record files are `<data_dir>/<prefix>-*`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: tuple[Epoch, Epoch]
    lr: tuple[Rate, Rate]
    lr_method: Literal["linear", "exp"]
    batch_size: Count
    image_size: Annotated[tuple[Count, Count], BeforeValidator(_square)]
    data_dir: Annotated[str, Field(min_length=1)]
    prefix: Annotated[str, Field(min_length=1)] = "train"

    @field_validator("epoch")
    @classmethod
    def _epochs_grow(cls, epoch: tuple[float, float]) -> tuple[float, float]:
        if epoch[1] <= epoch[0]:
            raise PydanticCustomError("epoch", "the end must be above the beginning")
        return epoch

    @field_validator("lr_method")
    @classmethod
    def _exponential_rates_are_positive(cls, method: str, info: ValidationInfo) -> str:
        if method == "exp" and min(info.data.get("lr", (1,))) <= 0:
            raise PydanticCustomError(
                "exp_rate",
                "an exponential rate needs both ends of 'lr' above 0, not {lr}",
                {"lr": str(list(info.data["lr"]))},
            )
        return method

    @property
    def data_key(self) -> tuple[Any, ...]:
        """Phases in a row with the same key share one input pipeline."""
        return (self.batch_size, self.image_size, self.data_dir, self.prefix)

    @property
    def records(self) -> str:
        """What it reads, by which images are counted."""
        return f"{self.data_dir}/{self.prefix}"


class Strategy(RootModel[tuple[Phase, ...]]):
    """Phases that follow each other without a gap or an overlap.

    With the validation context `{"workers": int, "images": {"data_dir/prefix": int}}` it
    is also checked that every phase fits a worker's share of the data.
    """

    root: tuple[Phase, ...]

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> "Strategy":
        if not self.root:
            raise PydanticCustomError(WHOLE, "training_strategy is empty; it needs a phase or more")
        end = 0.0
        for number, phase in enumerate(self.root, 1):
            if phase.epoch[0] != end:
                kind = "a gap" if phase.epoch[0] > end else "an overlap"
                before = f"phase {number - 1} ends" if number > 1 else "the run begins"
                raise PydanticCustomError(
                    WHOLE,
                    "phase {number}, key 'epoch': begins at {begin}, but {before} at {end}: {kind}",
                    {"number": number, "begin": f"{phase.epoch[0]:g}", "before": before,
                     "end": f"{end:g}", "kind": kind},
                )  # fmt: skip
            end = phase.epoch[1]
        return self

    @model_validator(mode="after")
    def _batches_fit_the_data(self, info: ValidationInfo) -> "Strategy":
        if info.context is None:
            return self
        workers = info.context["workers"]
        for number, phase in enumerate(self.root, 1):
            images = info.context["images"][phase.records]
            if phase.batch_size * workers > images:
                raise PydanticCustomError(
                    WHOLE,
                    "phase {number}, key 'batch_size': received {batch}, but a worker's share of "
                    "the {images} images in '{data}' is {share} with {workers} worker(s)",
                    {"number": number, "batch": phase.batch_size, "images": images,
                     "data": phase.records, "share": images // workers, "workers": workers},
                )  # fmt: skip
            if _steps_until(phase.epoch[1], images, workers, phase) <= _steps_until(
                phase.epoch[0], images, workers, phase
            ):
                raise PydanticCustomError(
                    WHOLE,
                    "phase {number}, key 'epoch': received {epoch}, which is less than one step",
                    {"number": number, "epoch": str(list(phase.epoch))},
                )
        return self


def images_of(phase: Phase, images: int | Mapping[str, int]) -> int:
    """How many images a phase reads, of `images` as `Schedule` takes them.

    Raises:
        UserError: they do not say.
    """
    if isinstance(images, int):
        return images
    for name in (phase.records, phase.data_dir):
        if name in images:
            return images[name]
    raise UserError(
        f"images: received no number for '{phase.records}'; give one for it, or one for "
        f"'{phase.data_dir}', which is for every prefix there"
    )


def _steps_per_epoch(images: int, workers: int, phase: Phase) -> int:
    return images // (phase.batch_size * workers)


def _steps_until(epoch: float, images: int, workers: int, phase: Phase) -> int:
    """Steps from epoch 0 to `epoch` at this phase's pace, rounded half up.

    Rounding the boundary, not the length, keeps a phase that is cut in two as long
    as the whole.
    """
    return math.floor(epoch * _steps_per_epoch(images, workers, phase) + 0.5)


@dataclass(frozen=True)
class ScheduledPhase:
    """A phase in global steps: it runs steps `first` to `end - 1`."""

    phase: Phase
    first: int
    end: int
    steps_per_epoch: int

    def learning_rate(self, step: int) -> float:
        """Rate before global step `step`, for `first <= step <= end`.

        The original's formulas (its log agrees to the last digit printed): linear
        `p + (q - p) * t`, exponential `p * (q / p) ** t`, where t is the share of
        the phase that has passed.
        """
        begin, end = self.phase.lr
        t = (step - self.first) / (self.end - self.first)
        if self.phase.lr_method == "linear":
            return begin + (end - begin) * t
        return begin * (end / begin) ** t

    def epoch(self, step: int) -> float:
        begin, end = self.phase.epoch
        return begin + (end - begin) * (step - self.first) / (self.end - self.first)


@dataclass(frozen=True)
class Stage:
    """Phases in a row that share one pipeline, hence one `fit` and one trace.

    Attributes:
        phases: the scheduled phases, in order.
        begin: the global step from which the stage is run; above `phases[0].first`
            where a run is resumed in its middle.
    """

    phases: tuple[ScheduledPhase, ...]
    begin: int

    @property
    def first(self) -> int:
        return self.phases[0].first

    @property
    def end(self) -> int:
        return self.phases[-1].end

    @property
    def steps(self) -> int:
        return self.end - self.begin

    @property
    def steps_per_epoch(self) -> int:
        return self.phases[0].steps_per_epoch

    @property
    def data(self) -> Phase:
        """Any phase of the stage: they agree on batch, image size and folder."""
        return self.phases[0].phase


class Schedule:
    """The phases in global steps for a number of workers and images.

    Args:
        phases: the strategy: `Phase`s, or dicts with the same keys.
        workers: number of workers; a global batch is `batch_size * workers`.
        images: images of the training set: one number for all phases, or numbers by
            `data_dir/prefix`. One by `data_dir` is for every prefix there that has none.

    Attributes:
        images: of each phase's records, by `data_dir/prefix`.

    Raises:
        UserError: naming the phase and the key that cannot be.

    Example:

    >>> schedule = Schedule([{"epoch": [0, 6], "lr": [1.0, 2.0], "lr_method": "linear",
    ...     "batch_size": 740, "image_size": 128, "data_dir": "160"}], workers=8, images=1281167)
    >>> schedule.total_steps, schedule.learning_rate(648)
    (1296, 1.5)
    """

    def __init__(
        self,
        phases: Iterable[Phase | Mapping[str, Any]],
        workers: int,
        images: int | Mapping[str, int],
    ):
        try:
            strategy = Strategy.model_validate(tuple(phases))
            self.images = {phase.records: images_of(phase, images) for phase in strategy.root}
            Strategy.model_validate(
                strategy.root, context={"workers": workers, "images": self.images}
            )
        except ValidationError as error:
            raise UserError(explain(error)) from None
        self.workers = workers
        scheduled: list[ScheduledPhase] = []
        first = 0
        for phase in strategy.root:
            count = self.images[phase.records]
            begin, end = (_steps_until(e, count, workers, phase) for e in phase.epoch)
            steps = _steps_per_epoch(count, workers, phase)
            scheduled.append(ScheduledPhase(phase, first, first + end - begin, steps))
            first += end - begin
        self.phases = tuple(scheduled)
        self._ends = [p.end for p in self.phases]

    @property
    def total_steps(self) -> int:
        return self._ends[-1]

    @property
    def images_in_short(self) -> int | dict[str, int]:
        """The `images`, as one number where all phases read as many."""
        counts = set(self.images.values())
        return counts.pop() if len(counts) == 1 else self.images

    def phase_at(self, step: int) -> ScheduledPhase:
        """The phase that runs global step `step`; after the end, the last one."""
        return self.phases[min(bisect.bisect_right(self._ends, step), len(self.phases) - 1)]

    def learning_rate(self, step: int) -> float:
        """Learning rate before global step `step`; after the end, the final one."""
        return self.phase_at(step).learning_rate(min(step, self.total_steps))

    def epoch(self, step: int) -> float:
        """Epochs of the strategy that have passed before global step `step`."""
        return self.phase_at(step).epoch(min(step, self.total_steps))

    def position(self, step: int) -> tuple[int, int]:
        """How far the training is when `step` steps are done, for any number of workers.

        Returns:
            The number of the phase, from 0, and the images of it that have been seen;
            positions of schedules for different numbers of workers compare as tuples.
        """
        if step >= self.total_steps:
            return len(self.phases), 0
        phase = self.phase_at(step)
        images = (step - phase.first) * phase.phase.batch_size * self.workers
        return self.phases.index(phase), images

    def step_at(self, position: tuple[int, int]) -> int:
        """The step of this schedule at a position, rounded down to a whole step."""
        number, images = position
        if number == len(self.phases):
            return self.total_steps
        phase = self.phases[number]
        return min(phase.end, phase.first + images // (phase.phase.batch_size * self.workers))

    def images_between(self, begin: int, end: int) -> int:
        """Images that all workers train on in steps `begin` to `end - 1`."""
        return sum(
            max(0, min(end, p.end) - max(begin, p.first)) * p.phase.batch_size * self.workers
            for p in self.phases
        )

    def stages(self, begin: int = 0) -> Iterator[Stage]:
        """Stages that are still to run when `begin` steps are done."""
        group: list[ScheduledPhase] = []
        for phase in self.phases:
            if group and phase.phase.data_key != group[0].phase.data_key:
                yield from _rest_of(group, begin)
                group = []
            group.append(phase)
        yield from _rest_of(group, begin)


def _rest_of(group: list[ScheduledPhase], begin: int) -> Iterator[Stage]:
    if begin < group[-1].end:
        yield Stage(tuple(group), max(begin, group[0].first))


def explain(error: ValidationError) -> str:
    """The first finding of a pydantic error, in one line that names phase and key."""
    first, *others = error.errors(include_url=False)
    phase = next((f"phase {part + 1}" for part in first["loc"] if isinstance(part, int)), None)
    key = ".".join(part for part in first["loc"] if isinstance(part, str))
    key = key.removeprefix("training_strategy").removeprefix(".") if phase else key
    where = ", ".join(filter(None, [phase, key and f"key '{key}'"]))
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == WHOLE:  # the message names the place itself
        text = first["msg"]
    elif first["type"] == "missing":
        text = f"{where} is missing"
    elif first["type"] == "extra_forbidden":
        text = f"{where} is not known here; received {first['input']!r}"
    else:
        text = f"{where}: received {first['input']!r}; {message}"
    return text + (f" (and {len(others)} more)" if others else "")
