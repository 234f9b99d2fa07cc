"""LARS: a learning rate for each kernel, in proportion to its weights over its gradient."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="optimizers")
class LARS(keras.optimizers.Optimizer):
    """LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1), for large batches.

    For gradient g, weights w, their norms |g| and |w|, velocity v and learning rate lr:

        t <- eta * |w| / (|g| + decay * |w|)
        u <- lr * t * (g + decay * w)
        v <- momentum * v + u
        w <- w - v                            without Nesterov
        w <- w - (momentum * v + u)           with Nesterov

    t is 1 where one of the two norms is 0. Variables of one dimension or none, such as biases
    and those of BatchNorm, have t = 1 and no decay.

    Args:
        learning_rate: a float or a Keras `LearningRateSchedule`; with LARS it is large, such
            as 25 for a batch of 32,768.
        momentum: float in [0, 1].
        weight_decay: the paper's, inside the ratio and the velocity, and not the decoupled one
            of other Keras optimizers.
        eta: the paper's trust coefficient, above 0.
        nesterov: whether to look ahead by Nesterov's rule; the paper does not.
        name, **kwargs: as of any Keras optimizer.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> optimizer = LARS(learning_rate=25.0, momentum=0.9, weight_decay=1e-4)
    """

    momentum_moves = True  # `core.keras_patches.momentum_setter` may make it a variable

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        eta: float = 1e-3,
        nesterov: bool = False,
        name: str = "LARS",
        **kwargs: Any,
    ):
        if not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be from 0 to 1. Received: momentum={momentum!r}")
        if not isinstance(weight_decay, int | float) or weight_decay < 0:
            raise ValueError(
                f"`weight_decay` must not be below 0. Received: weight_decay={weight_decay!r}"
            )
        if not isinstance(eta, int | float) or eta <= 0:
            raise ValueError(f"`eta` must be above 0. Received: eta={eta!r}")
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.momentum = momentum
        self.eta = eta
        self.nesterov = nesterov

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum = ops.cast(self.momentum, variable.dtype)
        velocity = self.velocities[self._get_variable_index(variable)]
        if len(variable.shape) > 1:
            weights = ops.convert_to_tensor(variable)
            rate = rate * trust_ratio(weights, gradient, self.weight_decay, self.eta)
            gradient = gradient + self.weight_decay * weights
        scaled = rate * gradient
        step = momentum * velocity + scaled
        self.assign(velocity, step)
        if self.nesterov:
            step = momentum * step + scaled
        self.assign_sub(variable, step)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Keras's own decay, before the step, is not LARS's."""

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "eta": self.eta,
            "nesterov": self.nesterov,
        }


def trust_ratio(weights: Any, gradient: Any, decay: float, eta: float) -> Any:
    """`eta * |w| / (|g| + decay * |w|)`, or 1 where w or g is 0; a scalar of the weights' dtype."""
    w = ops.sqrt(ops.sum(ops.square(weights)))
    g = ops.sqrt(ops.sum(ops.square(gradient)))
    is_known = ops.logical_and(w > 0, g > 0)
    below = ops.where(is_known, g + decay * w, 1)
    return ops.where(is_known, eta * w / below, 1)
