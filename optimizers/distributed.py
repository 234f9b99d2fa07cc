"""A Horovod DistributedOptimizer that works on Keras 3.

Horovod's own overrides methods that Keras 3 no longer calls: `fit` runs, and every
worker trains a model of its own. Keras 3 calls `apply`, so that is where this one
averages the gradients.
"""

import sys
from typing import Any

import keras
from keras.optimizers import LossScaleOptimizer, Optimizer

from core import workers

COMPRESSIONS = ("none", "fp16")


def DistributedOptimizer(
    optimizer: Optimizer,
    compression: Any = "none",
    sparse_as_dense: bool = False,
    process_set: Any = None,
) -> Optimizer:
    """Makes `optimizer` average its gradients over all workers, and returns it.

    It stays the same object, with all that it holds; its class becomes a subclass of its
    own class. Keras saves it as the plain optimizer, so a saved model loads without
    Horovod. With one worker it does what the plain one does.

    Under `mixed_float16` the gradients are averaged before the loss scale is looked
    at, so either all workers skip a step or none does. For that the average has to be
    on the outermost optimizer: a plain optimizer is wrapped in a `LossScaleOptimizer`
    where the global dtype policy is `mixed_float16` and it has no loss scale of its
    own, as `compile` would do later. Clipping sees averaged gradients. With the inner
    optimizer's `gradient_accumulation_steps`, gradients are averaged once for each
    step that is applied.

    Args:
        optimizer: any Keras 3 optimizer, built or not. A model that it is compiled into
            already has to be compiled again.
        compression: `"none"`, or `"fp16"` to send gradients as float16. Horovod's
            `Compression` classes are taken too.
        sparse_as_dense: send sparse gradients (an embedding's) as dense ones.
        process_set: the `horovod.tensorflow.ProcessSet` to average over; all
            workers by default.

    Raises:
        ValueError: not a Keras 3 optimizer, distributed already, a compression that
            is not known, or several workers on another backend than TensorFlow.

    Example:

    >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
    >>> model.compile(optimizer, "mse", jit_compile=False)  # XLA cannot compile Horovod
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"`optimizer` must be a Keras 3 optimizer. Received: {optimizer!r}")
    if isinstance(_core(optimizer), _Distributed):
        raise ValueError(f"`optimizer` is distributed already. Received: {optimizer!r}")
    if workers.current().size > 1 and keras.backend.backend() != "tensorflow":
        raise ValueError(f"Horovod needs Keras on TensorFlow, not on {keras.backend.backend()}")
    options = {
        "compression": _compression(compression),
        "sparse_as_dense": sparse_as_dense,
        "process_set": process_set,
    }
    if (
        keras.config.dtype_policy().name == "mixed_float16"
        and not isinstance(optimizer, LossScaleOptimizer)
        and optimizer.loss_scale_factor is None
    ):
        optimizer = LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
    _distribute(optimizer, options)
    return optimizer


def _compression(value: Any) -> str:
    name = value if isinstance(value, str) else getattr(value, "__name__", repr(value))
    name = {"NoneCompressor": "none", "FP16Compressor": "fp16"}.get(name, name)
    if name not in COMPRESSIONS:
        raise ValueError(f"`compression` must be one of {COMPRESSIONS}. Received: {value!r}")
    return name


class _Distributed:
    """What a distributed optimizer has beside its own class: a marker and the options."""

    _all_reduce_options: dict[str, Any]

    def _all_reduce(self, grads: Any) -> list[Any]:
        """Averages the gradients that are there; a `None` stays where it is."""
        present = [g for g in grads if g is not None]
        reduced = iter(workers.allreduce_gradients(present, **self._all_reduce_options))
        return [None if g is None else next(reduced) for g in grads]

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """Keras sums over the replicas of tf.distribute here. Its sum registers a gradient of
        its own, by which TensorFlow holds the graph to the end of the process: some 12 MB a
        phase for a small model. The sum over one replica is the gradient itself.
        """
        if self._distribution_strategy.num_replicas_in_sync > 1:  # type: ignore[attr-defined]
            return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        return grads_and_vars


class _Outermost(_Distributed):
    """What the train step calls; a loss scale around it is refused."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        _refuse_a_scale_around()
        super().apply(grads, trainable_variables)  # type: ignore[misc]


class _EachStep(_Distributed):
    """All-reduce before everything else that `apply` does."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply(self._all_reduce(grads), trainable_variables)  # type: ignore[misc]


class _OnceAccumulated(_Distributed):
    """All-reduce of the accumulated gradients, in the branch of the applied step.

    Keras clips there and only there, and it clips the mean over the micro-batches.
    """

    def _clip_gradients(self, grads: Any) -> Any:
        return super()._clip_gradients(self._all_reduce(grads))  # type: ignore[misc]


class _AgreedScale(_Distributed):
    """Loss scaling around an accumulating optimizer: agree first, average later.

    Whether a micro-batch is skipped decides which one is applied, so the workers have
    to agree at each. One boolean goes around, not the gradients.
    """

    def check_finite(self, grads: Any) -> Any:
        finite = super().check_finite(grads)  # type: ignore[misc]
        return workers.all_true(finite, self._all_reduce_options["process_set"])


def _core(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the loss scale, or the one that has none around it."""
    return optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer


def _distribute(optimizer: Optimizer, options: dict[str, Any]) -> None:
    core = _core(optimizer)
    accumulates = bool(core.gradient_accumulation_steps)
    if core is optimizer:
        _add((_Outermost, _OnceAccumulated if accumulates else _EachStep), core, options)
    else:
        _add((_OnceAccumulated if accumulates else _Distributed,), core, options)
        _add((_Outermost, _AgreedScale if accumulates else _EachStep), optimizer, options)


def _add(kinds: tuple[type, ...], optimizer: Optimizer, options: dict[str, Any]) -> None:
    """Gives the optimizer a subclass of its own class.

    Only its class changes: a copy would be without what no configuration has, such as
    the variables that are excluded from weight decay. Keras saves an object by the name
    that its `__class__` is registered under, and finds it so in `clone_model`, too: there
    it is to see the plain class.
    """
    plain = type(optimizer)
    body = {
        "__class__": property(lambda self: plain),
        "__module__": plain.__module__,
        "__doc__": plain.__doc__,
        "_all_reduce_options": options,
    }
    distributed = type(plain.__name__, (*kinds, plain), body)
    object.__setattr__(optimizer, "__class__", distributed)  # past Keras's own, which tracks


def _refuse_a_scale_around() -> None:
    """Refuses the one arrangement that hangs: an all-reduce inside a loss scale.

    `LossScaleOptimizer` calls its inner optimizer only where this worker's gradients
    are finite, and the others would wait for it. `compile` wraps by itself where the
    model's policy is mixed_float16 and the global one is not.

    An optimizer does not know what holds it, but its callers are of that module. Only
    their globals are looked at: reading a frame's locals would keep all that they hold
    until its function returns.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == LossScaleOptimizer.__module__:
            raise ValueError(
                "A LossScaleOptimizer holds a DistributedOptimizer; workers would hang at the "
                "first infinity. Use DistributedOptimizer(LossScaleOptimizer(optimizer)), or "
                "compile with auto_scale_loss=False."
            )
        frame = frame.f_back  # type: ignore[assignment]
