"""The parts of a stage that are not its steps: data and tracing."""

from collections.abc import Callable, Collection
from typing import Any

import keras

from callbacks.step_callback import StepCallback
from core.clock import TimeBuckets


def wait_for_device(model: keras.Model) -> None:
    """Returns when the steps that were queued are done.

    The first layer's kernel is the last of which a step computes the gradient.
    """
    keras.ops.convert_to_numpy(model.trainable_variables[0])


class StageClock(StepCallback):
    """Fills a run's time buckets while it fits; each `fit` is one stage.

    Waits for the device after the first step of each `fit` and before the `marks`,
    and nowhere else. To be put first in the list of callbacks.

    The first step of a `fit` counts as `tracing`, less the mean of the `fit`'s other
    steps, which is moved to `steps` when the `fit` ends.

    Args:
        clock: the run's buckets.
        marks: global steps before which `note` is called, such as the phases' first.
        note: called with each of the marks and the last step of each `fit`.

    Example:

    >>> clock = TimeBuckets(time.monotonic())
    >>> model.fit(dataset, callbacks=[StageClock(clock)])
    >>> clock.state()["tracing"]
    4.21
    """

    def __init__(
        self,
        clock: TimeBuckets,
        marks: Collection[int] = (),
        note: Callable[[int], Any] = lambda step: None,
    ):
        super().__init__()
        self.clock = clock
        self.marks = frozenset(marks)
        self.note = note

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self.clock.switch("data")
        self._began = self.step
        self._steps_before = self.clock.state()["steps"]

    def before_step(self, step: int) -> None:
        if step == self._began:
            self.clock.switch("tracing")
        elif step == self._began + 1:
            wait_for_device(self.model)
            self.clock.switch("steps")
        if step in self.marks and step > self._began:
            wait_for_device(self.model)
            self.note(step)

    def after_fit(self, step: int) -> None:
        others = step - self._began - 1
        if others >= 0:
            wait_for_device(self.model)
        self.clock.switch("data")  # the next stage's, if there is one
        if others > 0:
            normal = (self.clock.state()["steps"] - self._steps_before) / others
            self.clock.move(normal, "tracing", "steps")
        self.note(step)
