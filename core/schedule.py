"""A training strategy as data: phases in epochs, turned into steps once.

A strategy is a list of phases. Each sets its epochs, learning rate, batch size,
image size and data folder. `Schedule` turns the epochs into global steps; the rest of
the project counts in steps. TensorFlow is not imported, so a strategy is planned and
tested in milliseconds.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    RootModel,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from core.errors import UserError
from core.settings import Augmentation, Count, Settings

Epoch = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Momentum = Annotated[float, Field(ge=0, lt=1, strict=True)]
Power = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]

DEFAULT_POWER = 2.0
WHOLE = "whole"  # type of the findings whose message names the phase and key itself


def _finding(message: str) -> PydanticCustomError:
    return PydanticCustomError(WHOLE, "{message}", {"message": message})


def _square(size: Any) -> Any:
    """A single number stands for a square image."""
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size


class Phase(Settings):
    """One phase of a training strategy: the keys of the original, and some that may be left out."""

    epoch: tuple[Epoch, Epoch]  # begin and end; fractions are allowed
    lr: tuple[Rate, Rate]  # learning rate at the first step and at the step after the last
    # How the rate moves between the two (`ScheduledPhase.learning_rate` has the formulas).
    lr_method: Literal["linear", "exp", "cosine", "polynomial"]
    power: Power | None = None  # of a polynomial rate; by default 2
    batch_size: Count  # images per worker and step
    # Height and width in pixels, or one number for a square.
    image_size: Annotated[tuple[Count, Count], BeforeValidator(_square)]
    # The records are the files <data_dir>/<prefix>-* below the data directory.
    data_dir: Annotated[str, Field(min_length=1)]
    prefix: Annotated[str, Field(min_length=1)] = "train"
    # Momentum at the first step and at the step after the last, linear between the two; by
    # default the optimizer's own, which stands still.
    momentum: tuple[Momentum, Momentum] | None = None
    # Single keys of the recipe's augmentation that are others in this phase.
    augmentation: Augmentation = Augmentation()
    # Layers that do not train in this phase, by shell patterns of their names; `!head` is all but
    # the last one.
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = ()

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

    @field_validator("power")
    @classmethod
    def _a_power_is_of_a_polynomial(cls, power: float | None, info: ValidationInfo) -> float | None:
        method = info.data.get("lr_method", "polynomial")
        if power is not None and method != "polynomial":
            raise PydanticCustomError(
                "power",
                "only an 'lr_method' of 'polynomial' has a power; this one is '{method}'",
                {"method": method},
            )
        return power

    @field_serializer("augmentation")
    def _only_what_is_overridden(self, augmentation: Augmentation) -> dict[str, Any]:
        return augmentation.model_dump(mode="json", exclude_unset=True)

    def augmented(self, recipes: Augmentation) -> Augmentation:
        """The recipe's augmentation, with the keys that this phase overrides."""
        own = self.augmentation
        return recipes.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})

    @property
    def data_key(self) -> tuple[Any, ...]:
        """Phases in a row with the same key share one input pipeline and one trace."""
        overrides = self.augmentation.model_dump(exclude_unset=True)
        records = (self.batch_size, self.image_size, self.data_dir, self.prefix)
        return (*records, overrides, frozenset(self.freeze))

    @property
    def records(self) -> str:
        """The records that it reads; images are counted by this name."""
        return f"{self.data_dir}/{self.prefix}"


class Strategy(RootModel[tuple[Phase, ...]]):
    """Phases that follow each other without a gap or an overlap."""

    root: tuple[Phase, ...]

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> "Strategy":
        if not self.root:
            raise _finding("training_strategy is empty; it needs one phase or more")
        end = 0.0
        for number, phase in enumerate(self.root, 1):
            if phase.epoch[0] != end:
                kind = "a gap" if phase.epoch[0] > end else "an overlap"
                before = f"phase {number - 1} ends" if number > 1 else "the run begins"
                raise _finding(
                    f"phase {number}, key 'epoch': begins at {phase.epoch[0]:g}, but {before} at "
                    f"{end:g}: {kind}"
                )
            end = phase.epoch[1]
        return self

    @model_validator(mode="after")
    def _all_phases_have_a_momentum_or_none(self) -> "Strategy":
        without = [number for number, p in enumerate(self.root, 1) if p.momentum is None]
        if without and len(without) < len(self.root):
            raise _finding(
                f"phase {without[0]}, key 'momentum' is missing, and other phases have one; "
                "give it to all phases or to none"
            )
        return self


def images_of(phase: Phase, images: int | Mapping[str, int]) -> int:
    """The number of images that a phase reads, of `images` as `Schedule` takes them."""
    if isinstance(images, int):
        return images
    for name in (phase.records, phase.data_dir):
        if name in images:
            return images[name]
    raise UserError(
        f"images: received no number for '{phase.records}'; give one for it, or one for "
        f"'{phase.data_dir}', which then holds for each of its prefixes"
    )


@dataclass(frozen=True)
class ScheduledPhase:
    """A phase in global steps: it runs steps `first` to `end - 1`."""

    phase: Phase
    first: int
    end: int
    steps_per_epoch: int

    def learning_rate(self, step: int) -> float:
        """Learning rate before global step `step`, for `first <= step <= end`.

        From p to q, where t is the share of the phase that has passed:

            linear      p + (q - p) * t
            exp         p * (q / p) ** t
            cosine      q + (p - q) * (1 + cos(pi * t)) / 2
            polynomial  q + (p - q) * (1 - t) ** power

        Sources: linear and exp are the original's (its log agrees to the last digit printed).
        Cosine is equation 5 of Loshchilov and Hutter, "SGDR" (arXiv:1608.03983), without
        restarts. Polynomial is Keras's `PolynomialDecay`; power 2 is that of You, Gitman and
        Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888).
        """
        begin, end = self.phase.lr
        t = self._share(step)
        match self.phase.lr_method:
            case "linear":
                return begin + (end - begin) * t
            case "exp":
                return begin * (end / begin) ** t
            case "cosine":
                return end + (begin - end) * (1 + math.cos(math.pi * t)) / 2
            case "polynomial":
                return end + (begin - end) * (1 - t) ** (self.phase.power or DEFAULT_POWER)

    def momentum(self, step: int) -> float | None:
        """Momentum before global step `step`, linear in it; None where the phase has none."""
        if self.phase.momentum is None:
            return None
        begin, end = self.phase.momentum
        return begin + (end - begin) * self._share(step)

    def epoch(self, step: int) -> float:
        """Epochs of the strategy that have passed before global step `step`."""
        begin, end = self.phase.epoch
        return begin + (end - begin) * (step - self.first) / (self.end - self.first)

    def _share(self, step: int) -> float:
        """The share of the phase that has passed before global step `step`."""
        return (step - self.first) / (self.end - self.first)


@dataclass(frozen=True)
class Stage:
    """Phases in a row that share one pipeline, and so one `fit` and one trace."""

    phases: tuple[ScheduledPhase, ...]
    data: Phase  # any of the phases: they agree on all of `data_key`
    steps_per_epoch: int
    first: int  # global step of its first phase
    begin: int  # global step to start at: above `first` where a run is resumed in its middle
    end: int  # global step after its last one

    @property
    def steps(self) -> int:
        """Steps to run, from `begin` to `end`."""
        return self.end - self.begin


class Schedule:
    """The phases in global steps for a number of workers and images.

    Args:
        phases: the strategy: `Phase`s, or dicts with the same keys.
        workers: number of workers; a global batch is `batch_size * workers`.
        images: images of the training set: one number for all phases, or numbers by
            `data_dir/prefix`, or by `data_dir` for all of its prefixes without a number.

    Attributes:
        images: of each phase's records, by `data_dir/prefix`.

    Raises:
        UserError: a mistake in a phase; the message names the phase and the key.

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
            strategy = Strategy.model_validate(tuple(phases)).root
        except ValidationError as error:
            raise UserError(explain(error)) from None
        self.workers = workers
        self.images = {phase.records: images_of(phase, images) for phase in strategy}
        scheduled: list[ScheduledPhase] = []
        first = 0
        for number, phase in enumerate(strategy, 1):
            count = self.images[phase.records]
            steps_per_epoch = count // (phase.batch_size * workers)
            if steps_per_epoch == 0:
                raise UserError(
                    f"phase {number}, key 'batch_size': received {phase.batch_size}, but a "
                    f"worker's share of the {count} images in '{phase.records}' is "
                    f"{count // workers} with {workers} worker(s)"
                )
            # Each boundary is rounded half up, from epoch 0 at this phase's pace: so a phase that
            # is cut in two stays as long as the whole.
            begin, end = (math.floor(epoch * steps_per_epoch + 0.5) for epoch in phase.epoch)
            if end <= begin:
                raise UserError(
                    f"phase {number}, key 'epoch': received {list(phase.epoch)}, which is less "
                    "than one step"
                )
            scheduled.append(ScheduledPhase(phase, first, first + end - begin, steps_per_epoch))
            first += end - begin
        self.phases = tuple(scheduled)
        self._ends = [p.end for p in self.phases]

    @property
    def total_steps(self) -> int:
        return self._ends[-1]

    @property
    def images_in_short(self) -> int | dict[str, int]:
        """The `images`, as one number where all phases read the same number."""
        counts = set(self.images.values())
        return counts.pop() if len(counts) == 1 else self.images

    def phase_at(self, step: int) -> ScheduledPhase:
        """The phase that runs global step `step`; after the end, the last one."""
        return self.phases[min(bisect.bisect_right(self._ends, step), len(self.phases) - 1)]

    def learning_rate(self, step: int) -> float:
        """Learning rate before global step `step`; after the end, the final one."""
        return self.phase_at(step).learning_rate(min(step, self.total_steps))

    def momentum(self, step: int) -> float | None:
        """Momentum before global step `step`; after the end, the final one.

        None, at every step, where the phases name no momentum.
        """
        return self.phase_at(step).momentum(min(step, self.total_steps))

    def epoch(self, step: int) -> float:
        """Epochs of the strategy that have passed before global step `step`."""
        return self.phase_at(step).epoch(min(step, self.total_steps))

    def position(self, step: int) -> tuple[int, int]:
        """How far the training is when `step` steps are done.

        Returns:
            The number of the phase, from 0, and the images of it that have been seen. Such
            positions can be compared between schedules for different numbers of workers.
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
        for _, group in itertools.groupby(self.phases, key=lambda p: p.phase.data_key):
            phases = tuple(group)
            first, end = phases[0].first, phases[-1].end
            if begin < end:
                data, steps_per_epoch = phases[0].phase, phases[0].steps_per_epoch
                yield Stage(phases, data, steps_per_epoch, first, max(begin, first), end)


def explain(error: ValidationError) -> str:
    """The first finding of a pydantic error, as one line that names phase and key."""
    first, *others = error.errors(include_url=False)
    place = list(first["loc"])
    if place[1:] and place[0] == "training_strategy":
        del place[0]
    # A number further in counts something else, such as the ends of a range.
    phase = f"phase {place[0] + 1}" if place and isinstance(place[0], int) else None
    key = ".".join(part for part in place if isinstance(part, str))
    where = ", ".join(filter(None, [phase, key and f"key '{key}'"]))
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == WHOLE:
        text = first["msg"]
    elif first["type"] == "missing":
        text = f"{where} is missing"
    elif first["type"] == "extra_forbidden":
        text = f"{where} is not known here; received {first['input']!r}"
    else:
        text = f"{where}: received {first['input']!r}; {message}"
    return text + (f" (and {len(others)} more)" if others else "")
