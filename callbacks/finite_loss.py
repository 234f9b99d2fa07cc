"""Stops a run whose loss or weights are not finite."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import keras
from keras import ops
from keras.optimizers import LossScaleOptimizer

from callbacks.step_callback import StepCallback, at_least_one
from core import workers
from core.errors import RunError
from core.keras_patches import gradients_applied, note_losses, stop_noting_losses

# TensorFlow's and PyTorch's dynamic loss scales stop here, too: below 1 a scale would
# push gradients out of float16's range instead of into it.
LOWEST_SCALE = 1.0
NAMES_SHOWN = 8
ADVICE = "a lower learning rate or gradient clipping may help"


class SkippedSteps:
    """The number of steps that a dynamic loss scale has skipped; 0 without one.

    After `step` steps they were `before`. It is counted from there: another number of workers
    counts steps anew, but not the optimizer's updates.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, step: int = 0, before: int = 0):
        self._optimizer = optimizer
        self._offset = 0
        self._offset = before - self.at(step)

    def at(self, step: int) -> int:
        """The number when `step` steps are done."""
        scaled = isinstance(self._optimizer, LossScaleOptimizer)
        return self._offset + (step - gradients_applied(self._optimizer) if scaled else 0)


class FiniteLoss(StepCallback):
    """Stops all workers with a `RunError` when a loss or a weight is not finite.

    A counter on the device notes each worker's first step whose loss was not finite, inside
    the train function; so each `fit` with this callback traces the model anew, and so does
    the next one without it. All workers compare their counters. A dynamic loss scale skips
    such steps; then the run stops when the scale has sunk to 1. As a peer of
    `StepCheckpoint` it checks the weights, too: no checkpoint has weights that are not finite.

    Args:
        every: steps between two checks.
        names: what this worker's batch of a step held, for the message.
        way_out: called on every worker with the step whose loss was not finite (None where
            no single step is to blame); returns the end of the message.
        skipped: counts the steps that a dynamic loss scale skips; by default from the
            start of the first `fit`.
        sign: called on every worker every few seconds while the names are read from a disk;
            `Heartbeat.waiting`, for example.

    Example:
        >>> finite = FiniteLoss(every=100)
        >>> save = StepCheckpoint(path, every=500, peers=[finite])
        >>> model.fit(dataset, callbacks=[finite, save])
    """

    def __init__(
        self,
        every: int,
        names: Callable[[int], Collection[str]] = lambda step: (),
        way_out: Callable[[int | None], str] = lambda step: ADVICE,
        skipped: SkippedSteps | None = None,
        sign: Callable[[], Any] = lambda: None,
    ):
        super().__init__()
        self.every = at_least_one(every)
        self.names = names
        self.way_out = way_out
        self.skipped = skipped
        self.sign = sign
        with keras.device("cpu:0"):  # TensorFlow keeps int32 variables nowhere else
            self._seen = keras.Variable(0, dtype="int32", trainable=False, name="steps_seen")
            self._first_bad = keras.Variable(-1, dtype="int32", trainable=False, name="first_bad")

    def before_fit(self, step: int) -> None:
        self.skipped = self.skipped or SkippedSteps(self.model.optimizer, step)
        self._seen.assign(step)
        self._first_bad.assign(-1)
        note_losses(self.model, self._note)

    def _note(self, loss: Any) -> None:
        """Part of the train function: remembers the first step whose loss is not finite."""
        first = ops.logical_and(self._first_bad < 0, ~ops.isfinite(loss))
        self._first_bad.assign(ops.where(first, self._seen, self._first_bad))
        self._seen.assign_add(1)

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and step != self.initial_step:
            self._check(step, weights=False)

    def before_save(self, step: int) -> None:
        """Checks the losses of the `step` steps done, and the weights; a collective."""
        self._check(step, weights=True)

    def after_fit(self, step: int) -> None:
        self.before_save(step)
        stop_noting_losses(self.model, self._note)

    def _check(self, step: int, weights: bool) -> None:
        model, bad = self.model, int(self._first_bad)
        scaled = isinstance(model.optimizer, LossScaleOptimizer)
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        flags = [ops.all(ops.isfinite(v)) for v in variables if weights and "float" in v.dtype]
        gathered = workers.gather(
            {
                "step": None if scaled or bad < 0 else bad,
                "scale": float(model.optimizer.dynamic_scale) if scaled else None,
                "weights": not flags or bool(ops.all(ops.stack(flags))),
            }
        )
        if steps := [worker["step"] for worker in gathered if worker["step"] is not None]:
            first = min(steps)
            ranks = [rank for rank, worker in enumerate(gathered) if worker["step"] == first]
            raise RunError(
                f"step {first}: the loss of worker {', '.join(map(str, ranks))} is not finite"
                f"{self._names_of(first, ranks)}\n"
                f"The checkpoints before it are whole; {self.way_out(first)}"
            )
        if scaled and min(worker["scale"] for worker in gathered) <= LOWEST_SCALE:
            raise RunError(
                f"step {step}: the loss scale has sunk to {gathered[0]['scale']:g}, after "
                f"{self.skipped.at(step) if self.skipped else 0} skipped steps; "
                f"{self.way_out(None)}"
            )
        if others := [str(rank) for rank, worker in enumerate(gathered) if not worker["weights"]]:
            raise RunError(
                f"step {step}: weights of worker {', '.join(others)} are not finite; "
                f"this checkpoint is not written; {self.way_out(None)}"
            )

    def _names_of(self, step: int, ranks: Sequence[int]) -> str:
        """What the batches of the workers `ranks` held, for the message; a collective."""
        asked = workers.current().rank in ranks
        with ThreadPoolExecutor(1) as thread:
            own = thread.submit(lambda: list(self.names(step))[:NAMES_SHOWN] if asked else [])
            found = workers.gather_in_time(
                lambda seconds: own.result() if wait([own], seconds).done else None, self.sign
            )
        names = [name for part in found for name in part][:NAMES_SHOWN]
        return f"; its batch holds {', '.join(names)}, ..." if names else ""
