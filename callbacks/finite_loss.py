"""A watch over the numbers: a run whose loss or weights are not finite stops."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import keras
from keras import ops

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError

# TensorFlow's and PyTorch's dynamic loss scales stop here, too: below 1 a scale would
# push gradients out of float16's range instead of into it.
LOWEST_SCALE = 1.0
NAMES_SHOWN = 8
ADVICE = "a lower learning rate, or clipping, may do"


class SkippedSteps:
    """How many steps a dynamic loss scale has skipped; 0 without one.

    Those are the steps that were no update, counted from where a process begins: steps
    are counted anew for another number of workers, the optimizer's updates are not.

    Args:
        optimizer: the model's, with the updates that are done.
        step: steps that are done.
        before: how many of them were skipped.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, step: int = 0, before: int = 0):
        self._optimizer = optimizer
        self._offset = before - self._steps_without_update(step)

    def at(self, step: int) -> int:
        """The number when `step` steps are done."""
        return self._offset + self._steps_without_update(step)

    def _steps_without_update(self, step: int) -> int:
        if not isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer):
            return 0
        # Keras's `iterations` counts updates; with accumulation each is of several steps.
        return step - int(self._optimizer.inner_optimizer._iterations)


def all_finite(variables: Sequence[Any]) -> bool:
    """Whether each element of the floating-point variables is finite."""
    flags = [ops.all(ops.isfinite(v)) for v in variables if "float" in v.dtype]
    return not flags or bool(ops.all(ops.stack(flags)))


class FiniteLoss(StepCallback):
    """Stops all workers when a loss or a weight is not finite.

    A counter on the device notes the first step of each worker whose loss was not
    finite; it is read only every so many steps. All workers then compare, so that all
    of them stop. A dynamic loss scale skips such steps by itself; there the run stops
    when the scale has sunk to 1.

    The loss is noted inside the train function, so each `fit` with this callback traces it
    anew, as does the next one without.

    As a peer of `StepCheckpoint` it looks at the weights, too, and a checkpoint that is
    not finite is never written.

    Args:
        every: in steps, how often to look.
        names: what this worker's batch of a step held, for the message.
        way_out: called on every worker with the step whose loss was not finite (None where
            no single step is to blame); returns the end of the message.
        skipped: counts the steps that a dynamic loss scale skips; by default from the
            start of the first `fit` on.
        sign: called on every worker every few seconds while all wait for the names, which
            may have to be read from a disk; `Heartbeat.waiting`, for example.

    Raises:
        RunError: on every worker, in the middle of `fit`, with the step, the workers and
            the names.

    Example:

    >>> finite = FiniteLoss(every=100)
    >>> save = StepCheckpoint(path, every=500, peers=[finite])
    >>> model.fit(dataset, callbacks=[finite, save])
    """

    def __init__(
        self,
        every: int,
        names: Callable[[int], Collection[str]] | None = None,
        way_out: Callable[[int | None], str] = lambda step: ADVICE,
        skipped: SkippedSteps | None = None,
        sign: Callable[[], Any] = lambda: None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be 1 or more. Received: every={every!r}")
        self.every = every
        self.names = names or (lambda step: ())
        self.way_out = way_out
        self.skipped = skipped
        self.sign = sign
        with keras.device("cpu:0"):  # int32 has no other home in TensorFlow
            self._seen = keras.Variable(0, dtype="int32", trainable=False, name="steps_seen")
            self._first_bad = keras.Variable(-1, dtype="int32", trainable=False, name="first_bad")

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self.skipped = self.skipped or SkippedSteps(self.model.optimizer, self.step)
        self._seen.assign(self.step)
        self._first_bad.assign(-1)
        if not self._is_watching():
            self.model.compute_loss = self._watched(self.model.compute_loss)
            # Keras would go on with the function of an earlier `fit`.
            self.model.make_train_function(force=True)

    def _is_watching(self) -> bool:
        return getattr(self.model.compute_loss, "watched_by", None) is self

    def _watched(self, compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        """`compute_loss` with the note of its first value that is not finite."""

        def watched(x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = compute_loss(x, y, y_pred, sample_weight, training=training)
            if training:
                first = ops.logical_and(self._first_bad < 0, ~ops.isfinite(loss))
                self._first_bad.assign(ops.where(first, self._seen, self._first_bad))
                self._seen.assign_add(1)
            return loss

        watched.watched_by = self  # type: ignore[attr-defined]
        watched.plain = compute_loss  # type: ignore[attr-defined]
        return watched

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and step != self.initial_step:
            self._check(step, weights=False)

    def after_fit(self, step: int) -> None:
        self.before_save(step)
        if self._is_watching():
            self.model.compute_loss = self.model.compute_loss.plain
            self.model.train_function = None

    def before_save(self, step: int) -> None:
        """Checks the losses of the `step` steps done, and the weights; a collective."""
        self._check(step, weights=True)

    def _check(self, step: int, weights: bool) -> None:
        optimizer = self.model.optimizer
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        bad = int(self._first_bad)
        found = {
            "step": None if scaled or bad < 0 else bad,
            "scale": float(optimizer.dynamic_scale) if scaled else None,
            "weights": not weights
            or all_finite([*self.model.trainable_variables, *self.model.non_trainable_variables]),
        }
        gathered = workers.gather(found)
        steps = [worker["step"] for worker in gathered if worker["step"] is not None]
        if steps:
            self._stop_for_loss(gathered, min(steps))
        if scaled and min(worker["scale"] for worker in gathered) <= LOWEST_SCALE:
            raise RunError(
                f"step {step}: the loss scale has sunk to {gathered[0]['scale']:g}, after "
                f"{self.skipped.at(step) if self.skipped else 0} skipped steps; "
                f"{self.way_out(None)}"
            )
        others = [str(rank) for rank, worker in enumerate(gathered) if not worker["weights"]]
        if others:
            raise RunError(
                f"step {step}: weights of worker {', '.join(others)} are not finite; "
                f"this checkpoint is not written; {self.way_out(None)}"
            )

    def _stop_for_loss(self, gathered: Sequence[dict[str, Any]], step: int) -> None:
        ranks = [rank for rank, worker in enumerate(gathered) if worker["step"] == step]
        asked = workers.current().rank in ranks
        with ThreadPoolExecutor(1) as thread:
            own = thread.submit(lambda: list(self.names(step))[:NAMES_SHOWN] if asked else [])
            found = workers.gather_in_time(
                lambda seconds: own.result() if wait([own], seconds).done else None, self.sign
            )
        names = [name for part in found for name in part]
        shown = f"; its batch holds {', '.join(names[:NAMES_SHOWN])}, ..." if names else ""
        raise RunError(
            f"step {step}: the loss of worker {', '.join(map(str, ranks))} is not finite{shown}\n"
            f"The checkpoints before it are whole; {self.way_out(step)}"
        )
