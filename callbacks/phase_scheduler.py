"""Sets the learning rate, and the momentum, of the phases before every step."""

from collections.abc import Callable
from typing import Any

from callbacks.step_callback import StepCallback
from core.keras_patches import momentum_setter, rate_setter
from core.schedule import Schedule


class PhaseScheduler(StepCallback):
    """Sets the optimizer's learning rate, and its momentum where phases name one.

    Args:
        schedule: a `Schedule`, or any function from a global step to a rate.

    Raises:
        ValueError: `fit` begins with a `LearningRateSchedule`, with several steps at once, or
            with a momentum for an optimizer that has none.

    Example:
        >>> schedule = Schedule(phases, workers=1, images=50000)
        >>> model.fit(dataset, epochs=10, callbacks=[PhaseScheduler(schedule)])
    """

    def __init__(self, schedule: Schedule | Callable[[int], float]):
        super().__init__()
        self.rate = schedule.learning_rate if isinstance(schedule, Schedule) else schedule
        self.momentum: Callable[[int], Any] | None = None
        # All phases name a momentum, or none does.
        if isinstance(schedule, Schedule) and schedule.momentum(0) is not None:
            self.momentum = schedule.momentum

    def before_fit(self, step: int) -> None:
        try:
            self.model.optimizer.learning_rate = self.rate(step)
        except TypeError:
            raise ValueError(
                "PhaseScheduler sets the rate itself; give the optimizer a number as its "
                "learning_rate, not a LearningRateSchedule"
            ) from None
        self._set_rate = rate_setter(self.model.optimizer)
        if self.momentum:
            self._set_momentum = momentum_setter(self.model.optimizer)

    def before_step(self, step: int) -> None:
        self._set_rate(self.rate(step))
        if self.momentum:
            self._set_momentum(self.momentum(step))
