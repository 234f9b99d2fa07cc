"""Checks that the workers still train one model."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError


def digest(variables: Iterable[Any]) -> str:
    """Hex digest of the bytes of Keras variables or arrays, in their order."""
    total = hashlib.blake2b(digest_size=16)
    for variable in variables:
        total.update(np.asarray(variable).tobytes())
    return total.hexdigest()


class SameWeights(StepCallback):
    """Compares a digest of the weights and optimizer state over all workers.

    Where they differ, all workers stop with a `RunError`. The statistics of BatchNorm are
    each worker's own and are left out.

    Args:
        steps: the global steps to compare before; by default the first of each `fit`.

    Example:

    >>> model.fit(dataset, callbacks=[SameWeights(p.first for p in schedule.phases)])
    """

    def __init__(self, steps: Iterable[int] | None = None):
        super().__init__()
        self.steps = None if steps is None else frozenset(steps)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._first_of_fit = self.step

    def before_step(self, step: int) -> None:
        here = step == self._first_of_fit if self.steps is None else step in self.steps
        if not here or workers.current().size == 1:
            return
        state = [*self.model.trainable_variables, *self.model.optimizer.variables]
        found = workers.gather(digest(state))
        others = [str(rank) for rank, value in enumerate(found) if value != found[0]]
        if others:
            raise RunError(
                f"step {step}: the weights of worker {', '.join(others)} differ from worker "
                "0's; use a DistributedOptimizer and the callback BroadcastFromFirst"
            )
