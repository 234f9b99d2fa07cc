"""Callbacks that keep the workers alike: the same start, metrics and weights."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError


class BroadcastFromFirst(keras.callbacks.Callback):
    """Gives every worker rank 0's variables and optimizer state, once, when a `fit` begins.

    Example:
        >>> model.fit(dataset, callbacks=[BroadcastFromFirst()])
    """

    done = False

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.done:
            optimizer = self.model.optimizer
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
            workers.broadcast_variables([*self.model.variables, *optimizer.variables])
            self.done = True


def average_over_workers(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each number over the workers; a collective, with the same keys on all."""
    found = workers.gather(dict(values))
    return {name: float(np.mean([worker[name] for worker in found])) for name in values}


class MetricAverage(keras.callbacks.Callback):
    """Averages the logs of each epoch over the workers, for the callbacks after it: put it first.

    Example:
        >>> model.fit(dataset, callbacks=[MetricAverage(), keras.callbacks.EarlyStopping()])
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs:
            logs.update(average_over_workers({k: float(v) for k, v in logs.items()}))


def digest(variables: Iterable[Any]) -> str:
    """Hex digest of the bytes of Keras variables or arrays, in their order."""
    total = hashlib.blake2b(digest_size=16)
    for variable in variables:
        total.update(np.asarray(variable).tobytes())
    return total.hexdigest()


def difference(own: Any, first: Any) -> float:
    """The largest difference of two arrays of one shape, over the largest number of `first`.

    Integers that differ, and numbers that are not finite, count as infinitely different.
    """
    own, first = np.asarray(own), np.asarray(first)
    if np.array_equal(own, first):
        return 0.0
    largest = np.abs(first).max()
    if first.dtype.kind in "iub" or not np.isfinite(largest) or not largest:
        return float("inf")
    found = float(np.abs(own - first).max() / largest)
    return found if np.isfinite(found) else float("inf")


# A worker that does not average its gradients is further off after a few steps.
ROUNDING = 1e-4


class SameWeights(StepCallback):
    """Stops all workers with a `RunError` when weights or optimizer state differ.

    Digests are compared, to the bit. Where they differ by rounding alone, all workers get rank
    0's values, and `note` gets a line. Each worker computes its own update from the averaged
    gradients, and matrix products in it (Muon's) may be added up in another order: on another
    processor, or when TensorFlow, after some 90 steps, moves cheap ops to another thread.
    The statistics of BatchNorm are each worker's own and are left out.

    Args:
        steps: the global steps to compare before; by default the first of each `fit`.
        note: called on rank 0 with a line about workers that were brought together again.

    Example:
        >>> model.fit(dataset, callbacks=[SameWeights(p.first for p in schedule.phases)])
    """

    def __init__(
        self, steps: Iterable[int] | None = None, note: Callable[[str], None] = lambda line: None
    ):
        super().__init__()
        self.steps = None if steps is None else frozenset(steps)
        self.note = note

    def before_step(self, step: int) -> None:
        here = step == self.first_of_fit if self.steps is None else step in self.steps
        if not here or workers.current().size == 1:
            return
        variables = [*self.model.trainable_variables, *self.model.optimizer.variables]
        found = workers.gather(digest(variables))
        if len(set(found)) == 1:
            return
        before = [np.array(variable) for variable in variables]
        workers.broadcast_variables(variables)
        own = max(difference(b, now) for b, now in zip(before, variables, strict=True))
        apart = workers.gather(str(own))  # JSON has no infinity
        others = [str(rank) for rank, far in enumerate(apart) if float(far) > ROUNDING]
        if others:
            raise RunError(
                f"step {step}: the weights of worker {', '.join(others)} differ from worker "
                "0's; use a DistributedOptimizer and the callback BroadcastFromFirst"
            )
        if workers.current().is_first:
            self.note(
                f"step {step}: the workers' weights differed by rounding, by at most "
                f"{max(map(float, apart)):.1e} of the largest; all have worker 0's now"
            )
