"""Muon against PyTorch, and against what it is meant to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from optimizers.muon import Muon, orthogonalised

# By PyTorch 2.13 in float64, with the published step (airbench94_muon.py): weights sin(1, 2, ..),
# gradients cos(k * (0, 1, ..)) for k = 2, 3, 4, both in the order of Keras; then, for `p` and `g`
# of shape (filters, inputs, height, width),
#   buf.mul_(0.6).add_(g); g = g.add(buf, alpha=0.6) if nesterov else buf
#   if renormalise: p.mul_(len(p) ** 0.5 / p.norm())
#   p.add_(newton_schulz(g.reshape(len(g), -1), steps).view(g.shape), alpha=-0.24)
# and p is transposed to Keras's order. Each: shape, nesterov, renormalise, steps, p.
PYTORCH = {
    "convolution": (
        (2, 2, 3, 2),
        True,
        True,
        3,
        [
            0.088172,
            0.442371,
            -0.007374,
            -0.461241,
            -0.290512,
            0.076423,
            0.089763,
            0.429211,
            0.135000,
            -0.309005,
            -0.426806,
            -0.188643,
            0.128570,
            0.288990,
            0.361589,
            -0.073720,
            -0.514113,
            -0.365945,
            0.103352,
            0.110940,
            0.560758,
            0.125610,
            -0.472999,
            -0.403687,
        ],
    ),
    "more filters than inputs": (
        (1, 1, 2, 3),
        True,
        True,
        3,
        [
            0.347509,
            1.069945,
            0.198376,
            -0.795416,
            -0.851702,
            -0.026211,
        ],
    ),
    "dense without Nesterov": (
        (2, 3),
        False,
        False,
        3,
        [
            0.419364,
            1.219304,
            0.118299,
            -0.947930,
            -1.038091,
            0.294404,
        ],
    ),
    "dense, 5 steps": (
        (3, 2),
        True,
        False,
        5,
        [
            0.364957,
            0.979328,
            -0.022959,
            -1.098393,
            -0.624374,
            0.181648,
        ],
    ),
}


@pytest.mark.parametrize(
    ("shape", "nesterov", "renormalise", "steps", "found"), PYTORCH.values(), ids=PYTORCH
)
def test_three_steps_are_pytorchs(shape, nesterov, renormalise, steps, found):
    numbers = np.arange(np.prod(shape), dtype="float64")
    kernel = keras.Variable(np.sin(numbers + 1).reshape(shape).astype("float32"))
    options = {"nesterov": nesterov, "renormalise": renormalise}
    optimizer = Muon(0.24, momentum=0.6, newton_schulz_steps=steps, **options)
    optimizer.build([kernel])
    for k in (2, 3, 4):
        gradient = np.cos(k * numbers).reshape(shape).astype("float32")
        optimizer.apply([tf.constant(gradient)], [kernel])
    np.testing.assert_allclose(kernel.numpy().ravel(), found, atol=2e-5)


@pytest.mark.parametrize("shape", [(40, 40), (300, 24), (24, 300)])
def test_singular_values_become_about_1_and_the_singular_vectors_stay(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype("float32")
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    found = left.T @ keras.ops.convert_to_numpy(orthogonalised(matrix)) @ right.T
    assert np.all((np.diag(found) > 0.3) & (np.diag(found) < 1.3))
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-4)


@pytest.mark.parametrize("shape", [(300, 24), (24, 300)])
def test_its_square_matrices_are_those_of_the_shorter_side(shape):
    traced = tf.function(orthogonalised).get_concrete_function(tf.TensorSpec(shape))
    products = [op.outputs[0].shape for op in traced.graph.get_operations() if op.type == "MatMul"]
    assert set(map(tuple, products)) == {(24, 24), shape}


@pytest.mark.parametrize("shape", [(40, 40), (300, 24), (24, 300)])
@pytest.mark.parametrize("steps", [3, 5])
def test_it_is_the_published_iteration_also_for_small_singular_values(shape, steps):
    """In float64, and as published; bfloat16, of the published run, is off by 1e-2."""
    random = np.random.default_rng(0)
    left, _, right = np.linalg.svd(random.normal(size=shape), full_matrices=False)
    x = (left * np.logspace(0, -7, min(shape))) @ right
    found = keras.ops.convert_to_numpy(orthogonalised(x.astype("float32"), steps))
    x /= np.linalg.norm(x)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    np.testing.assert_allclose(found, x, atol=1e-3)


def test_the_scale_of_the_gradient_does_not_matter():
    matrix = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    small, large = orthogonalised(matrix * 1e-3), orthogonalised(matrix * 1e3)
    np.testing.assert_allclose(small, large, rtol=1e-3)
    assert not np.any(orthogonalised(matrix * 0))


def test_weights_get_the_norm_of_a_matrix_with_filters_of_norm_1():
    kernel = keras.Variable(np.full((3, 3, 2, 5), 7.0, "float32"))
    optimizer = Muon(0.0, renormalise=True)
    optimizer.apply([tf.ones(kernel.shape)], [kernel])
    assert np.linalg.norm(kernel.numpy()) == pytest.approx(5**0.5)


def test_weight_decay_is_decoupled():
    kernel = keras.Variable([[2.0]])
    Muon(0.5, weight_decay=0.1).apply([tf.zeros((1, 1))], [kernel])
    assert kernel.numpy() == pytest.approx(2.0 - 0.5 * 0.1 * 2.0)


def test_what_is_no_kernel_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"another optimizer, by a group\. Received: beta"):
        Muon().build([keras.Variable(np.ones((2, 2))), keras.Variable([1.0], name="beta")])


@pytest.mark.parametrize(
    ("name", "value"), [("momentum", 1.1), ("momentum", "high"), ("newton_schulz_steps", 0)]
)
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value!r}"):
        Muon(**{name: value})


def test_it_is_saved_and_loaded_with_its_state(tmp_path):
    layers = [keras.layers.Conv2D(2, 3, use_bias=False), keras.layers.GlobalMaxPooling2D()]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    optimizer = Muon(0.1, momentum=0.8, nesterov=False, newton_schulz_steps=2, renormalise=True)
    model.compile(optimizer, "mse")
    model.fit(np.ones((4, 4, 4, 1)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    names = ("momentum", "nesterov", "newton_schulz_steps", "renormalise")
    assert [getattr(loaded.optimizer, name) for name in names] == [0.8, False, 2, True]
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
