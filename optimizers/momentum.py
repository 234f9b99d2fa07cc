"""What optimizers with a momentum share."""

from typing import Any

import keras
from keras import ops


def norm(x: Any) -> Any:
    """The Euclidean norm of all entries of a tensor, a scalar of its dtype."""
    return ops.sqrt(ops.sum(ops.square(x)))


class MomentumOptimizer(keras.optimizers.Optimizer):
    """An optimizer with one velocity for each variable; a subclass says what it adds up.

    Args:
        learning_rate: a float or a Keras `LearningRateSchedule`.
        momentum: float in [0, 1].
        nesterov: whether to look ahead by Nesterov's rule.
        name, **kwargs: as of any Keras optimizer.

    Raises:
        ValueError: momentum outside [0, 1].
    """

    momentum_moves = True  # `core.keras_patches.momentum_setter` may make it a variable

    def __init__(
        self, learning_rate: Any, momentum: float, nesterov: bool, name: str, **kwargs: Any
    ):
        if not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be from 0 to 1. Received: momentum={momentum!r}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def accelerated(self, change: Any, variable: Any) -> Any:
        """Adds a tensor to the variable's velocity; returns the step.

        v <- momentum * v + change; the step is v, or change + momentum * v with Nesterov.
        """
        momentum = ops.cast(self.momentum, variable.dtype)
        velocity = self.velocities[self._get_variable_index(variable)]
        step = ops.add(ops.multiply(velocity, momentum), change)
        self.assign(velocity, step)
        return ops.add(change, ops.multiply(step, momentum)) if self.nesterov else step

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
