"""Callbacks that keep the workers alike: the same start, metrics and weights."""

import hashlib
from collections.abc import Iterable, Mapping
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


class SameWeights(StepCallback):
    """Stops all workers with a `RunError` when digests of weights and optimizer state differ.

    The statistics of BatchNorm are each worker's own and are left out.

    Args:
        steps: the global steps to compare before; by default the first of each `fit`.

    Example:
        >>> model.fit(dataset, callbacks=[SameWeights(p.first for p in schedule.phases)])
    """

    def __init__(self, steps: Iterable[int] | None = None):
        super().__init__()
        self.steps = None if steps is None else frozenset(steps)

    def before_step(self, step: int) -> None:
        here = step == self.first_of_fit if self.steps is None else step in self.steps
        if not here or workers.current().size == 1:
            return
        found = workers.gather(
            digest([*self.model.trainable_variables, *self.model.optimizer.variables])
        )
        others = [str(rank) for rank, value in enumerate(found) if value != found[0]]
        if others:
            raise RunError(
                f"step {step}: the weights of worker {', '.join(others)} differ from worker "
                "0's; use a DistributedOptimizer and the callback BroadcastFromFirst"
            )
