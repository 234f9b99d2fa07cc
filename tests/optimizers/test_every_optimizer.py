"""Each optimizer that Keras has, and a user's: distributed, it does what it did before."""

import gc
import inspect
import weakref
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, Nadam, Optimizer, OptimizerMap

from optimizers.distributed import DistributedOptimizer
from optimizers.lars import LARS
from optimizers.tf1_momentum import TF1Momentum

OPTIMIZERS = {
    found.__name__: found
    for found in (*vars(keras.optimizers).values(), TF1Momentum, LARS)
    if isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer
}
# What is needed by those that wrap others; they take their options from them.
WRAPPED = {
    "inner_optimizer": lambda **options: Nadam(0.1, **options),
    "optimizer_map": lambda **options: OptimizerMap(
        Nadam(0.1, **options), {"bias": SGD(0.1, **options)}
    ),
}
OPTIONS = {
    "nothing": {},
    "each clipped, decay, scale": {
        "clipnorm": 0.5,
        "weight_decay": 0.1,
        "loss_scale_factor": 8.0,
    },
    "clipped together, average": {
        "global_clipnorm": 0.5,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 3,
    },
    "accumulation, clipped values, average, decay": {
        "gradient_accumulation_steps": 2,
        "clipvalue": 0.1,
        "use_ema": True,
        "weight_decay": 0.1,
    },
}


def made(cls, options):
    needed = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
    names = [p.name for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD]
    return cls(*(WRAPPED[name](**options) for name in names), **({} if names else options))


def kernel_and_bias():
    shapes = {"kernel": (3, 4), "bias": (4,)}
    return [keras.Variable(np.ones(shape, "float32"), name=n) for n, shape in shapes.items()]


def values_after_each_step(optimizer, steps=5):
    """The weights and the optimizer's state, after each of some random gradients."""
    variables = kernel_and_bias()
    optimizer.build(variables)
    random = np.random.default_rng(0)
    seen = []
    for _ in range(steps):
        gradients = [random.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([tf.constant(g) for g in gradients], variables)
        seen.append([v.numpy() for v in (*variables, *optimizer.variables)])
    return seen


def test_keras_has_the_optimizers_that_this_looks_for():
    assert {"SGD", "AdamW", "Nadam", "LossScaleOptimizer", "TF1Momentum"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_trains_as_before(cls, options):
    plain = values_after_each_step(made(cls, options))
    distributed = values_after_each_step(DistributedOptimizer(made(cls, options)))
    for before, after in zip(plain, distributed, strict=True):
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isfinite(plain[-1][0]).all()
    assert (plain[-1][0] != 1).any()


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_keras_saves_it_as_before(cls):
    optimizer = made(cls, {})
    plain = keras.saving.serialize_keras_object(optimizer)
    assert keras.saving.serialize_keras_object(DistributedOptimizer(optimizer)) == plain


class Noting(SGD):
    """A user's: it overrides what Keras keeps private, and notes what is called with what."""

    seen = []

    def apply(self, grads, trainable_variables=None):
        self.seen.append("apply")
        super().apply(grads, trainable_variables)

    def _backend_apply_gradients(self, grads, trainable_variables):
        self.seen.append("_backend_apply_gradients")
        super()._backend_apply_gradients(grads, trainable_variables)

    def _clip_gradients(self, grads):
        self.seen.append("_clip_gradients")
        return super()._clip_gradients(grads)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.seen.append("_backend_update_step")
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        self.seen.append(("update_step", type(variable)))
        super().update_step(gradient, variable, learning_rate)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_what_a_user_overrides_is_called_as_before(monkeypatch, options):
    calls = []
    for distribute in (lambda plain: plain, DistributedOptimizer):
        monkeypatch.setattr(Noting, "seen", [])
        values_after_each_step(distribute(Noting(0.1, **options)), steps=2)
        calls.append(Noting.seen)
    assert calls[0] == calls[1]
    assert calls[0].count("_backend_update_step") == (1 if options else 2)


def graph_of_a_step(options):
    variables = kernel_and_bias()
    optimizer = DistributedOptimizer(Nadam(0.1, **options))
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, variables))
    shapes = [tf.TensorSpec(v.shape) for v in variables]
    return weakref.ref(step.get_concrete_function(*shapes).graph)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_graph_of_a_step_goes_with_it(options):
    """Keras's own optimizer keeps every graph that it was traced in, to the process's end."""
    graph = graph_of_a_step(options)
    gc.collect()
    assert graph() is None


def test_the_replicas_of_tf_distribute_are_still_summed_by_keras(monkeypatch):
    optimizer = DistributedOptimizer(SGD())
    optimizer._distribution_strategy = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(SGD, "_all_reduce_sum_gradients", lambda self, pairs: ["sum", *pairs])
    assert optimizer._all_reduce_sum_gradients([1]) == ["sum", 1]
