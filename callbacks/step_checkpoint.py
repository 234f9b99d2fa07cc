"""Checkpoints as training goes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from callbacks.stage_clock import wait_for_device
from callbacks.step_callback import StepCallback
from training import workers
from training.clock import TimeBuckets


def average_moving_statistics(model: keras.Model) -> None:
    """Sets the moving statistics of BatchNorm to their mean over the workers.

    Each worker gathers them from its own share of the data; a checkpoint should hold
    what all have seen. A collective. Integer variables (random seeds) are left alone.
    """
    workers.average_variables(
        [v for v in model.non_trainable_variables if v.dtype in ("float32", "float64")]
    )


def save_whole(save: Callable[[str], Any], path: Path) -> None:
    """Lets `save` write a file beside `path` and renames it: whole or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{path.suffix}")
    try:
        save(str(unfinished))
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class StepCheckpoint(StepCallback):
    """Writes the model and its optimizer every so many steps, on rank 0.

    The moving statistics of BatchNorm are averaged over the workers first. A file
    appears under its name only when it is whole.

    Args:
        path: where to write, with the field `{step}`, as in
            `"checkpoints/step-{step:08d}.keras"`.
        every: in steps; the first checkpoint is that of step 0.
        last_step: a step that is written too, at the end of its `fit`.
        on_saved: called on rank 0 with the step and the path of each checkpoint.
        initial_step: steps that are done before the first `fit`; where there are any,
            that step's checkpoint is not written again.
        clock: buckets of time, of which writing fills `checkpoints`.

    Raises:
        ValueError: `every` below 1, or a path without the field.

    Example:

    >>> model.fit(dataset, callbacks=[StepCheckpoint("run/step-{step:06d}.keras", every=500)])
    """

    def __init__(
        self,
        path: str | Path,
        every: int,
        last_step: int | None = None,
        on_saved: Callable[[int, Path], None] | None = None,
        initial_step: int = 0,
        clock: TimeBuckets | None = None,
    ):
        super().__init__(initial_step)
        if every < 1:
            raise ValueError(f"`every` must be 1 or more. Received: every={every!r}")
        if str(path).format(step=1) == str(path).format(step=2):
            raise ValueError(f"`path` needs the field {{step}}. Received: path={str(path)!r}")
        self.path = str(path)
        self.every = every
        self.last_step = last_step
        self.on_saved = on_saved
        self.clock = clock

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and (step != self.initial_step or step == 0):
            self._save(step)

    def after_fit(self, step: int) -> None:
        if step == self.last_step:
            self._save(step)

    def _save(self, step: int) -> None:
        if self.clock is None:
            self._write(step)
            return
        wait_for_device(self.model)  # saving waits, too; the steps' time is not its own
        with self.clock.during("checkpoints"):
            self._write(step)

    def _write(self, step: int) -> None:
        average_moving_statistics(self.model)
        if workers.current().is_first:
            path = Path(self.path.format(step=step))
            save_whole(self.model.save, path)
            if self.on_saved:
                self.on_saved(step, path)
