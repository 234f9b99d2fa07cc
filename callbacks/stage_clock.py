"""Separates a stage's steps from its other parts: data and tracing."""

from collections.abc import Callable, Collection
from typing import Any

import keras

from callbacks.step_callback import StepCallback
from core.clock import TimeBuckets


def wait_for_device(model: keras.Model) -> None:
    """Returns when the queued steps are done."""
    # A step computes the gradient of the first layer's kernel last.
    keras.ops.convert_to_numpy(model.trainable_variables[0])


class StageClock(StepCallback):
    """Fills a run's time buckets while it fits; each `fit` is one stage. Put it first.

    The first step counts as `tracing`, less the mean of the `fit`'s other steps. It waits for
    the device only after the first step of each `fit`, before the `marks` and at the end.

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

    def before_fit(self, step: int) -> None:
        self.clock.switch("data")
        self._steps_before = self.clock.state()["steps"]

    def before_step(self, step: int) -> None:
        if step == self.first_of_fit:
            self.clock.switch("tracing")
        elif step == self.first_of_fit + 1:
            wait_for_device(self.model)
            self.clock.switch("steps")
        if step in self.marks and step > self.first_of_fit:
            wait_for_device(self.model)
            self.note(step)

    def after_fit(self, step: int) -> None:
        others = step - self.first_of_fit - 1
        if others >= 0:
            wait_for_device(self.model)
        self.clock.switch("data")  # the next stage's, if there is one
        if others > 0:
            normal = (self.clock.state()["steps"] - self._steps_before) / others
            self.clock.move(normal, "tracing", "steps")
        self.note(step)
