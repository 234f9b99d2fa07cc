"""BatchNorm by the fused op: it computes what NumPy and Keras do, and stays Keras's layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.fused_batch_norm import fuse_batch_norm
from models.registry import build_model

X = np.random.default_rng(0).normal(2.0, 3.0, (2, 1, 3, 4)).astype("float32")
MOMENTUM, EPSILON = 0.75, 0.5


def one_layer(dtype="float32", fused=True, **options):
    model = keras.Sequential(
        [
            keras.Input((None, None, 4), dtype=keras.DTypePolicy(dtype).compute_dtype),
            layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, dtype=dtype, **options),
        ]
    )
    values = {"gamma": [1.0, 2.0, 0.5, -1.0], "beta": [0.0, 1.0, 2.0, 3.0]}
    values |= {"moving_mean": [4.0] * 4, "moving_variance": [2.0, 3.0, 4.0, 5.0]}
    for variable in model.variables:
        variable.assign(values[variable.name])
    if fused:
        assert fuse_batch_norm(model) == 1
    return model


def one_step(model, x=X, training=True):
    """Outputs, gradients by x and what trains, and the statistics that are left."""
    x = tf.cast(x, model.layers[0].compute_dtype)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=training)
            cost = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
        return y, tape.gradient(cost, [x, *model.trainable_weights])

    y, gradients = step(x)
    by = {"x": gradients[0]} | {
        v.name: g for v, g in zip(model.trainable_weights, gradients[1:], strict=True)
    }
    left = {v.name: v.numpy() for v in model.non_trainable_variables}
    ops = {op.type for op in step.get_concrete_function(x).graph.get_operations()}
    return y, by, left, "FusedBatchNormV3" in ops


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"axis": 3}])
def test_outputs_and_statistics_are_numpys(options):
    """Over 6 values a channel: the unbiased variance is a fifth larger than the biased one."""
    y, _, left, is_fused = one_step(one_layer(**options))
    x = X.astype("float64")
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    gamma = np.array([1.0, 2.0, 0.5, -1.0]) if options.get("scale", True) else 1.0
    beta = np.array([0.0, 1.0, 2.0, 3.0]) if options.get("center", True) else 0.0
    expected = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    assert is_fused
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(left["moving_mean"], 0.75 * 4.0 + 0.25 * mean, rtol=1e-6)
    before = np.array([2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(left["moving_variance"], 0.75 * before + 0.25 * variance, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "apart"),
    [("float32", 1e-5), ("mixed_float16", 4e-3), ("mixed_bfloat16", 3e-2), ("bfloat16", 3e-2)],
)
def test_a_step_is_kerass_own_to_rounding(dtype, apart):
    """float16 and bfloat16 have 11 and 8 bits; both compute in float32."""
    y, by, left, is_fused = one_step(one_layer(dtype))
    expected, expected_by, expected_left, by_keras = one_step(one_layer(dtype, fused=False))
    assert (is_fused, by_keras) == (True, False)
    assert y.dtype == expected.dtype
    pairs = [(y, expected), *((by[name], expected_by[name]) for name in expected_by)]
    pairs += [(left[name], expected_left[name]) for name in expected_left]
    for ours, keras_s in pairs:
        ours, keras_s = np.array(ours, "float32"), np.array(keras_s, "float32")
        np.testing.assert_allclose(ours, keras_s, atol=apart * np.abs(keras_s).max())


@pytest.mark.parametrize(("training", "trainable"), [(False, True), (True, False)])
def test_evaluation_and_a_frozen_layer_are_kerass_own(training, trainable):
    found = []
    for fused in (True, False):
        model = one_layer(fused=fused)
        model.layers[0].trainable = trainable
        found.append(one_step(model, training=training))
    (y, _, left, is_fused), (expected, _, expected_left, _) = found
    assert not is_fused
    np.testing.assert_array_equal(y, expected)
    for name in expected_left:
        np.testing.assert_array_equal(left[name], expected_left[name])


def test_a_mask_is_kerass_own():
    masked = [one_layer(fused=fused).layers[0] for fused in (True, False)]
    mask = np.array([[[True, False, True]], [[True, True, False]]])
    ours, keras_s = (layer(X, training=True, mask=mask) for layer in masked)
    np.testing.assert_array_equal(ours, keras_s)


def test_variables_stay_where_the_scope_wants_them():
    """As BatchNorm's statistics are estimated anew, in evaluation/statistics.py."""
    model = one_layer()
    before = [v.value for v in model.non_trainable_variables]
    _, after = model.stateless_call(model.trainable_variables, before, X, training=True)
    np.testing.assert_allclose(after[0], 0.75 * 4.0 + 0.25 * X.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(model.layers[0].moving_mean, [4.0] * 4)


def test_what_is_saved_and_cloned_is_as_before(tmp_path):
    model, plain = one_layer(name="bn"), one_layer(fused=False, name="bn")
    assert model.layers[0].get_config() == plain.layers[0].get_config()
    assert [v.name for v in model.variables] == [v.name for v in plain.variables]
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert type(copy.layers[0]) is layers.BatchNormalization
        assert "call" not in vars(copy.layers[0])


class Subclass(layers.BatchNormalization):
    """Whose `call` may be another."""


LEFT_ALONE = {
    "of two axes": (lambda: layers.BatchNormalization(), (4,)),
    "channels first": (lambda: layers.BatchNormalization(axis=1), (4, 3, 3)),
    "renormalisation": (lambda: layers.BatchNormalization(renorm=True), (3, 3, 4)),
    "synchronised": (lambda: layers.BatchNormalization(synchronized=True), (3, 3, 4)),
    "a subclass": (lambda: Subclass(), (3, 3, 4)),
    "float64": (lambda: layers.BatchNormalization(dtype="float64"), (3, 3, 4)),
    "another layer": (lambda: layers.LayerNormalization(), (3, 3, 4)),
}


@pytest.mark.parametrize(("make", "shape"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_layer_that_the_op_cannot_serve_is_left_alone(make, shape):
    model = keras.Sequential([keras.Input(shape), make()])
    assert fuse_batch_norm(model) == 0
    assert "call" not in vars(model.layers[0])


@pytest.mark.parametrize(("name", "count"), [("resnet8", 9), ("whitened_cnn", 6)])
def test_all_layers_of_our_networks_are_fused_also_inside_another(name, count):
    """ResNet-8: the stem, two for each of three blocks, and two shortcuts."""
    net = build_model(name, (16, 16), 3, widths=(8, 8, 8))
    outer = keras.Sequential([keras.Input((16, 16, 3)), net])
    assert fuse_batch_norm(outer) == count
