"""LARS: a learning rate for each kernel, in proportion to its weights over its gradient."""

from typing import Any

import keras
from keras import ops

from optimizers.momentum import MomentumOptimizer, norm


@keras.saving.register_keras_serializable(package="optimizers")
class LARS(MomentumOptimizer):
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
        if not isinstance(weight_decay, int | float) or weight_decay < 0:
            raise ValueError(
                f"`weight_decay` must not be below 0. Received: weight_decay={weight_decay!r}"
            )
        if not isinstance(eta, int | float) or eta <= 0:
            raise ValueError(f"`eta` must be above 0. Received: eta={eta!r}")
        super().__init__(
            learning_rate, momentum, nesterov, name, weight_decay=weight_decay, **kwargs
        )
        self.eta = eta

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if len(variable.shape) > 1:
            weights = ops.convert_to_tensor(variable)
            rate = rate * trust_ratio(weights, gradient, self.weight_decay, self.eta)
            gradient = gradient + self.weight_decay * weights
        self.assign_sub(variable, self.accelerated(rate * gradient, variable))

    def _apply_weight_decay(self, variables: Any) -> None:
        """Keras's own decay, before the step, is not LARS's."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "eta": self.eta}


def trust_ratio(weights: Any, gradient: Any, decay: float, eta: float) -> Any:
    """`eta * |w| / (|g| + decay * |w|)`, or 1 where w or g is 0; a scalar of the weights' dtype."""
    w, g = norm(weights), norm(gradient)
    is_known = ops.logical_and(w > 0, g > 0)
    below = ops.where(is_known, g + decay * w, 1)
    return ops.where(is_known, eta * w / below, 1)
