"""Traces chosen steps with TensorFlow's profiler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from callbacks.stage_clock import wait_for_device
from callbacks.step_callback import StepCallback


class Profiler(StepCallback):
    """Traces chosen steps, for TensorBoard's page of profiles; other steps cost nothing.

    A trace holds whole steps: it waits for the device before its first step and after its last.
    It ends with its `fit`; steps that are left make a trace of the next `fit`, and those before
    the first step of a resumed run are left out. Each step is an event `train` with its number.

    Args:
        folder: TensorBoard's. A trace is `plugins/profile/<time>/<host>.xplane.pb` there.
        steps: global steps that follow each other.
        say: called with a line for the user.

    Example:
        >>> model.fit(dataset, callbacks=[Profiler(Path("logs"), range(100, 110))])
    """

    def __init__(self, folder: Path, steps: range, say: Callable[[str], Any] = print):
        super().__init__()
        self.folder = folder
        self.steps = steps
        self.say = say
        self._first: int | None = None  # step of the trace that is under way
        self._event: Any = None

    def before_step(self, step: int) -> None:
        wanted = step in self.steps
        if self._first is not None:
            self._end_step(is_last=not wanted)
            if not wanted:
                self._stop(step)
        if wanted and self._first is None:
            self._start(step)
        if self._first is not None:
            self._event = tf.profiler.experimental.Trace("train", step_num=step, _r=1)

    def after_fit(self, step: int) -> None:
        if self._first is not None:
            self._end_step(is_last=True)
            self._stop(step)

    def _end_step(self, is_last: bool) -> None:
        if is_last:
            wait_for_device(self.model)
        self._event.__exit__(None, None, None)

    def _start(self, step: int) -> None:
        wait_for_device(self.model)
        try:
            tf.profiler.experimental.start(str(self.folder))
        except tf.errors.OpError as error:  # another profiler runs in this process
            self._give_up(error)
        else:
            self._first = step

    def _stop(self, step: int) -> None:
        steps, self._first = f"steps {self._first} to {step - 1}", None
        try:
            tf.profiler.experimental.stop()
        except tf.errors.OpError as error:  # a full disk
            self._give_up(error)
        else:
            self.say(f"profile of {steps}: {self.folder / 'plugins' / 'profile'}")

    def _give_up(self, error: Exception) -> None:
        """A run does not end for its profile."""
        self.steps = range(0)
        self.say(f"no profile ({str(error).splitlines()[0]})")
