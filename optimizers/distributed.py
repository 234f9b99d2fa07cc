"""A Horovod DistributedOptimizer that works on Keras 3.

Horovod's own overrides methods that Keras 3 no longer calls: `fit` runs, and every worker
trains a model of its own. This one averages the gradients in `apply`, which Keras 3 calls.
"""

import sys
from types import FrameType
from typing import Any

import keras
from keras.optimizers import LossScaleOptimizer, Optimizer

from core import workers
from core.keras_patches import NoSumOverReplicas, mix_in

COMPRESSIONS = {"NoneCompressor": "none", "FP16Compressor": "fp16"}  # by Horovod's classes


def DistributedOptimizer(
    optimizer: Optimizer,
    compression: Any = "none",
    sparse_as_dense: bool = False,
    process_set: Any = None,
) -> Optimizer:
    """Makes `optimizer` average its gradients over all workers, and returns it.

    It stays the same object; its class becomes a subclass of its own class. Keras saves it as
    the plain optimizer, so a saved model loads without Horovod.

    Clipping sees averaged gradients. With `gradient_accumulation_steps`, gradients are
    averaged once for each step that is applied. Under `mixed_float16` they are averaged before
    the loss scale checks them, so that all workers skip a step or none does. The average has
    to be on the outermost optimizer for that: where this is the global policy, an optimizer
    without a loss scale is wrapped in a `LossScaleOptimizer`, as `compile` would do later.

    Args:
        optimizer: any Keras 3 optimizer, built or not. Compile its model again, if it has one.
        compression: `"none"`; `"fp16"`, which sends gradients as float16; or Horovod's class.
        sparse_as_dense: send sparse gradients (an embedding's) as dense ones.
        process_set: the `horovod.tensorflow.ProcessSet` to average over; by default all.

    Raises:
        ValueError: an unknown compression, an optimizer that is not of Keras 3 or distributed
            already, or several workers with Keras not on TensorFlow.

    Example:
        >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
        >>> model.compile(optimizer, "mse", jit_compile=False)  # XLA cannot compile Horovod
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"`optimizer` must be a Keras 3 optimizer. Received: {optimizer!r}")
    if isinstance(getattr(optimizer, "inner_optimizer", optimizer), _Distributed):
        raise ValueError(f"`optimizer` is distributed already. Received: {optimizer!r}")
    if workers.current().size > 1 and keras.backend.backend() != "tensorflow":
        raise ValueError(f"Horovod needs Keras on TensorFlow, not on {keras.backend.backend()}")
    name = COMPRESSIONS.get(getattr(compression, "__name__", ""), compression)
    if name not in COMPRESSIONS.values():
        known = tuple(COMPRESSIONS.values())
        raise ValueError(f"`compression` must be one of {known}. Received: {compression!r}")
    has_scale = isinstance(optimizer, LossScaleOptimizer) or optimizer.loss_scale_factor is not None
    if keras.config.dtype_policy().name == "mixed_float16" and not has_scale:
        optimizer = LossScaleOptimizer(optimizer, name="loss_scale_optimizer")

    options = {"compression": name, "sparse_as_dense": sparse_as_dense, "process_set": process_set}
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    accumulates = bool(inner.gradient_accumulation_steps)
    values = {"_all_reduce_options": options, "_accumulates": accumulates}
    kind: type = _OnceAccumulated if accumulates else _Distributed
    if inner is not optimizer:  # there is a loss scale around it
        mix_in(inner, (kind,), **values)
        kind = _AgreedScale if accumulates else _Distributed
    mix_in(optimizer, (_Outermost, kind), **values)
    return optimizer


class _Distributed(NoSumOverReplicas):
    """What a distributed optimizer has beside its own class: a marker and the options."""

    _all_reduce_options: dict[str, Any]
    _accumulates: bool

    def _all_reduce(self, grads: Any) -> list[Any]:
        """Averages the gradients that are there; a `None` stays where it is."""
        present = [g for g in grads if g is not None]
        reduced = iter(workers.allreduce_gradients(present, **self._all_reduce_options))
        return [None if g is None else next(reduced) for g in grads]


class _Outermost(_Distributed):
    """The optimizer that the train step calls; it refuses a loss scale around itself.

    That would call it only where this worker's gradients are finite, and the others would
    wait. `compile` puts one around it where only the model's policy is mixed_float16.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        # An optimizer does not know what holds it, but the functions that call it are in that
        # module. Only their globals are read: reading a frame's locals would keep all that
        # they hold until its function returns.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__") == LossScaleOptimizer.__module__:
                raise ValueError(
                    "A LossScaleOptimizer holds a DistributedOptimizer; workers would hang at "
                    "the first infinity. Use DistributedOptimizer(LossScaleOptimizer(optimizer)), "
                    "or compile with auto_scale_loss=False."
                )
            frame = frame.f_back
        grads = grads if self._accumulates else self._all_reduce(grads)
        super().apply(grads, trainable_variables)  # type: ignore[misc]


class _OnceAccumulated(_Distributed):
    """All-reduce of the accumulated mean, where Keras clips it: only in steps that are applied."""

    def _clip_gradients(self, grads: Any) -> Any:
        return super()._clip_gradients(self._all_reduce(grads))  # type: ignore[misc]


class _AgreedScale(_Distributed):
    """Loss scaling around an accumulating optimizer: agree first, average later.

    The workers agree by a boolean at each micro-batch, since skipped ones move the applied step.
    """

    def check_finite(self, grads: Any) -> Any:
        finite = super().check_finite(grads)  # type: ignore[misc]
        return workers.all_true(finite, self._all_reduce_options["process_set"])
