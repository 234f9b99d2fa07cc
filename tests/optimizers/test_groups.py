"""Groups of variables: each as with its optimizer alone, and one optimizer to the outside."""

import gc
import weakref
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer, MultiOptimizer, Nadam

from callbacks.phase_scheduler import PhaseScheduler
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import Group, OptimizerGroups
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum

X = np.arange(12, dtype="float32").reshape(4, 3) / 12
Y = np.ones((4, 2), "float32")
OPTIONS = {
    "nothing": {},
    "clipped, loss scale": {"clipnorm": 0.5, "loss_scale_factor": 8.0},
    "clipped together, average": {"global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.9},
    "averages become weights": {"use_ema": True, "ema_overwrite_frequency": 3},
    "accumulation, average": {"gradient_accumulation_steps": 2, "use_ema": True},
}


def kernel_and_bias():
    shapes = {"kernel": (3, 4), "bias": (4,)}
    return [keras.Variable(np.ones(shape, "float32"), name=n) for n, shape in shapes.items()]


def trained(optimizer, variables=None, steps=5):
    """The weights after each step of random gradients."""
    variables = variables or kernel_and_bias()
    optimizer.build(variables)
    random = np.random.default_rng(0)
    seen = []
    for _ in range(steps):
        gradients = [tf.constant(random.normal(size=v.shape), "float32") for v in variables]
        optimizer.apply(gradients, variables)
        seen.append([v.numpy() for v in variables])
    return seen


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: SGD(0.1, momentum=0.9, **options),
        lambda **options: TF1Momentum(0.1, **options),
        lambda **options: Adam(0.1, **options),  # goes by the iterations
        lambda **options: AdamW(0.1, weight_decay=0.1, **options),
        lambda **options: Nadam(0.1, **options),  # has a variable beside those of its variables
    ],
)
@pytest.mark.parametrize("around", [lambda plain: plain, DistributedOptimizer])
def test_one_optimizer_for_all_groups_is_that_optimizer(make, options, around):
    groups = OptimizerGroups(make(), [Group("kernel", make())], learning_rate=0.1, **options)
    plain = make(**options)
    np.testing.assert_equal(trained(around(groups)), trained(plain))
    assert int(groups.iterations) == int(plain.iterations)
    averages = [getattr(o, "_model_variables_moving_average", []) for o in (groups, plain)]
    for ours, theirs in zip(*averages, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_each_group_has_its_optimizer():
    groups = OptimizerGroups(
        SGD(momentum=0.9), [Group("kernel", Muon(momentum=0.6))], learning_rate=0.1
    )
    found = trained(groups)
    muon, sgd = trained_alone(Muon(0.1, momentum=0.6), 0), trained_alone(SGD(0.1, momentum=0.9), 1)
    np.testing.assert_equal(found, [list(pair) for pair in zip(muon, sgd, strict=True)])


def trained_alone(optimizer, which):
    """The weights of one of the two, with its gradients of `trained`."""
    variables = kernel_and_bias()
    random = np.random.default_rng(0)
    seen = []
    for _ in range(5):
        gradients = [tf.constant(random.normal(size=v.shape), "float32") for v in variables]
        optimizer.apply([gradients[which]], [variables[which]])
        seen.append(variables[which].numpy())
    return seen


def in_groups(**options):
    return OptimizerGroups(SGD(), [Group("kernel", SGD(), rate=10.0)], learning_rate=0.5, **options)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: inner,
        LossScaleOptimizer,
        DistributedOptimizer,
        lambda inner: DistributedOptimizer(LossScaleOptimizer(inner, initial_scale=4.0)),
    ],
)
def test_the_rate_of_all_groups_is_set_as_one(around):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = around(in_groups())
    model.compile(optimizer, "mse", jit_compile=False)
    before = [w.copy() for w in model.get_weights()]
    rates = [0.0, 0.5, 0.25]
    # The same steps by hand, for a copy.
    twin = keras.models.clone_model(model)
    twin.set_weights(before)
    for rate in rates:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((twin(X) - Y) ** 2)
        kernel, bias = tape.gradient(loss, [v.value for v in twin.trainable_variables])
        twin.trainable_variables[0].assign_sub(10 * rate * kernel)
        twin.trainable_variables[1].assign_sub(rate * bias)
    callbacks = [PhaseScheduler(lambda step: rates[step])]
    model.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    assert float(optimizer.learning_rate) == 0.25
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_weight_decay_is_each_groups_own_and_follows_its_rate():
    group = Group("kernel", SGD(weight_decay=0.1), rate=2.0)
    optimizer = OptimizerGroups(SGD(), [group], learning_rate=0.5)
    kernel, bias = variables = kernel_and_bias()
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    np.testing.assert_allclose(kernel.numpy(), 1 - 2.0 * 0.5 * 0.1)
    np.testing.assert_array_equal(bias.numpy(), 1)


def test_the_first_group_that_fits_takes_a_variable():
    groups = [Group("kernel", SGD(), rate=0.0), Group("e", SGD(), rate=3.0)]
    variables = [keras.Variable([0.0], name=name) for name in ("kernel", "beta", "bias")]
    optimizer = OptimizerGroups(SGD(), groups, learning_rate=1.0)
    optimizer.apply([tf.ones(1)] * 3, variables)
    assert [float(v.numpy()[0]) for v in variables] == [0.0, -3.0, -1.0]


def test_a_part_of_the_variables_may_have_gradients():
    """As when layers are frozen after the optimizer was built; Keras's own refuses that."""
    kernel, bias = variables = kernel_and_bias()
    optimizer = in_groups()
    optimizer.build(variables)
    optimizer.apply([tf.ones(4)], [bias])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([None, tf.ones(4)], variables)
    np.testing.assert_array_equal(bias.numpy(), 1 - 2 * 0.5)
    np.testing.assert_array_equal(kernel.numpy(), 1)


def test_keras_own_has_no_rate_to_set_and_wants_all_gradients():
    optimizer = MultiOptimizer(keras.optimizers.OptimizerMap(SGD(), {"kernel": SGD()}))
    _, bias = variables = kernel_and_bias()
    optimizer.build(variables)
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 0.1
    with pytest.raises(ValueError, match="one-to-one"):
        optimizer.apply([tf.ones(4)], [bias])


@pytest.mark.parametrize(
    ("patterns", "missing"), [(["kernel", "gamma"], "gamma"), (["e", "kernel"], "kernel")]
)
def test_a_pattern_that_gets_no_variable_is_refused(patterns, missing):
    optimizer = OptimizerGroups(SGD(), [Group(pattern, SGD()) for pattern in patterns])
    with pytest.raises(ValueError, match=f"group 2, .*'{missing}', .* are kernel, bias"):
        optimizer.build(kernel_and_bias())


ONE = SGD()
BUILT = SGD()
BUILT.build([keras.Variable([0.0])])


@pytest.mark.parametrize(
    ("rest", "first", "options", "message"),
    [
        (SGD(), SGD(), {"weight_decay": 0.1}, "`weight_decay` belongs to the optimizers"),
        (SGD(clipnorm=1.0), SGD(), {}, "`clipnorm` belongs to OptimizerGroups"),
        (SGD(), SGD(use_ema=True), {}, "`use_ema` belongs to OptimizerGroups"),
        (ONE, ONE, {}, "Each group needs a new optimizer"),
        (BUILT, SGD(), {}, "Each group needs a new optimizer"),
        (SGD(), LossScaleOptimizer(SGD()), {}, "needs a Keras optimizer of its own"),
        (SGD(), "sgd", {}, "needs a Keras optimizer of its own"),
    ],
)
def test_refusals(rest, first, options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerGroups(rest, [Group("kernel", first)], **options)


def test_it_is_saved_once_and_loaded_with_its_state(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    groups = [Group("kernel", Muon(momentum=0.6), 2.0), Group("bias", Adam(), 0.5, True)]
    optimizer = OptimizerGroups(SGD(momentum=0.9), groups, 0.1, use_ema=True, clipnorm=2.0)
    model.compile(DistributedOptimizer(optimizer), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for trainer in (model, loaded):
        trainer.fit(X, Y, batch_size=2, shuffle=False, verbose=0)
    np.testing.assert_equal(loaded.get_weights(), model.get_weights())
    # Kernel and bias, their averages, Muon's buffer, Adam's two moments, rate and iterations.
    assert len(model.optimizer.variables) == 2 + 1 + 2 + 2
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    saved = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file["optimizer"].visititems(lambda name, item: saved.append(item))
    assert sum(isinstance(item, h5py.Dataset) for item in saved) == len(model.optimizer.variables)


def test_the_graph_of_a_step_goes_with_it():
    variables = kernel_and_bias()
    optimizer = DistributedOptimizer(in_groups())
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, variables))
    graph = weakref.ref(
        step.get_concrete_function(*[tf.TensorSpec(v.shape) for v in variables]).graph
    )
    del step
    gc.collect()
    assert graph() is None
