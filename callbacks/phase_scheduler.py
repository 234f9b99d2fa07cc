"""Sets the learning rate of the phases before every step."""

from collections.abc import Callable

from callbacks.step_callback import StepCallback
from core.keras_patches import rate_setter
from core.schedule import Schedule


class PhaseScheduler(StepCallback):
    """Sets the optimizer's learning rate before every step.

    Args:
        schedule: a `Schedule`, or any function from a global step to a rate.

    Raises:
        ValueError: `fit` begins with a `LearningRateSchedule`, or several steps at once.

    Example:
        >>> schedule = Schedule(phases, workers=1, images=50000)
        >>> model.fit(dataset, epochs=10, callbacks=[PhaseScheduler(schedule)])
    """

    def __init__(self, schedule: Schedule | Callable[[int], float]):
        super().__init__()
        self.rate = schedule.learning_rate if isinstance(schedule, Schedule) else schedule

    def before_fit(self, step: int) -> None:
        try:
            self.model.optimizer.learning_rate = self.rate(step)
        except TypeError:
            raise ValueError(
                "PhaseScheduler sets the rate itself; give the optimizer a number as its "
                "learning_rate, not a LearningRateSchedule"
            ) from None
        self._set_rate = rate_setter(self.model.optimizer)

    def before_step(self, step: int) -> None:
        self._set_rate(self.rate(step))
