"""The learning rate of the phases, set before every step."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from callbacks.step_callback import StepCallback
from core.schedule import Schedule


class PhaseScheduler(StepCallback):
    """Sets the optimizer's learning rate before every step.

    Args:
        schedule: a `Schedule`, or any function from a global step to a rate.

    Raises:
        ValueError: at the start of `fit`, where the model executes several steps at
            once or the optimizer has a `LearningRateSchedule` of its own.

    Example:

    >>> schedule = Schedule(phases, workers=1, images=50000)
    >>> model.fit(dataset, epochs=10, callbacks=[PhaseScheduler(schedule)])
    """

    def __init__(self, schedule: Schedule | Callable[[int], float]):
        super().__init__()
        self.rate = schedule.learning_rate if isinstance(schedule, Schedule) else schedule

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        try:
            self.model.optimizer.learning_rate = self.rate(self.step)
        except TypeError:
            raise ValueError(
                "PhaseScheduler sets the rate itself; give the optimizer a number as its "
                "learning_rate, not a LearningRateSchedule"
            ) from None
        self._assign = assigner(self.model.optimizer)

    def before_step(self, step: int) -> None:
        self._assign(self.rate(step))


def assigner(optimizer: keras.Optimizer) -> Callable[[float], Any]:
    """What sets `optimizer`'s learning rate, at the least cost a call.

    Keras's own setter checks and converts, and reads the variable back; TensorFlow's
    `assign` still takes twice the time of the op beneath it. Before a step of 20
    milliseconds they were most of what all our callbacks cost together.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return assigner(optimizer.inner_optimizer)
    variable = getattr(optimizer, "_learning_rate", None)
    if (
        keras.backend.backend() == "tensorflow"
        and isinstance(variable, keras.Variable)
        and variable.dtype == "float32"  # the op's own choice for a Python number
    ):
        import tensorflow as tf

        handle = variable.value.handle
        return lambda rate: tf.raw_ops.AssignVariableOp(resource=handle, value=rate)
    return functools.partial(setattr, optimizer, "learning_rate")
