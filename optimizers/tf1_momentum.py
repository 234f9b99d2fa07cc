"""The original's optimizer: TensorFlow 1's momentum, and L2 in the loss."""

from typing import Any

import keras
from keras import ops

from optimizers.momentum import MomentumOptimizer


@keras.saving.register_keras_serializable(package="optimizers")
class TF1Momentum(MomentumOptimizer):
    """SGD with the momentum of TensorFlow 1: the rate stays outside the velocity.

    For gradient g, velocity v and learning rate lr:

        v <- momentum * v + g
        w <- w - lr * v                       without Nesterov
        w <- w - lr * (g + momentum * v)      with Nesterov

    This is `tf.train.MomentumOptimizer` (TensorFlow's `ApplyMomentum` kernel). Keras's
    `SGD` keeps lr * g in the velocity, so the two differ whenever the rate moves.

    Args:
        learning_rate: a float or a Keras `LearningRateSchedule`.
        momentum: float in [0, 1].
        nesterov: whether to look ahead by Nesterov's rule.
        name, **kwargs: as of any Keras optimizer.

    Raises:
        ValueError: momentum outside [0, 1].

    Example:
        >>> optimizer = TF1Momentum(learning_rate=1.0, momentum=0.9, nesterov=True)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        nesterov: bool = True,
        name: str = "TF1Momentum",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, momentum, nesterov, name, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        step = self.accelerated(ops.cast(gradient, variable.dtype), variable)
        self.assign_sub(variable, ops.multiply(rate, step))


def add_l2_to_loss(model: keras.Model, l2: float, variables: str = "kernels") -> int:
    """Adds TF1's weight decay to the loss, `l2 / 2 * sum(w ** 2)`; returns how many decay.

    The regularizer is set on the variables: it is in the loss from the next trace on, and a
    saved model does not hold it. The original decayed its kernels and nothing else: its log
    begins with total_loss - loss = 9.607 - 6.931, 1e-4 times the sum of squares of just those.

    Args:
        model: a built `keras.Model`.
        l2: the decay, as TF1's `l2_regularizer(l2)` takes it; 0 removes it.
        variables: `"kernels"`, those of two dimensions or more, or `"all"` that train.

    Raises:
        ValueError: l2 below 0, or an unknown group of variables.
    """
    if l2 < 0:
        raise ValueError(f"`l2` must not be below 0. Received: l2={l2!r}")
    if variables not in ("kernels", "all"):
        raise ValueError(f"`variables` must be 'kernels' or 'all'. Received: {variables!r}")
    chosen = [v for v in model.trainable_variables if variables == "all" or len(v.shape) > 1]
    for variable in chosen:
        variable.regularizer = keras.regularizers.L2(l2 / 2) if l2 else None
    return len(chosen) if l2 else 0
