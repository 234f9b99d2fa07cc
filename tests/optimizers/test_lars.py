"""LARS against hand-computed steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from optimizers.lars import LARS


def run(optimizer, start, gradients, rates):
    """The values of one variable after each step."""
    variable = keras.Variable(np.array(start, "float32"))
    optimizer.build([variable])
    seen = []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient, "float32")], [variable])
        seen.append(variable.numpy().tolist())
    return seen


# |w| = 5 and |g| = 2, so t = 0.1 * 5 / (2 + 0.2 * 5) = 1/6, and g + decay * w = (2.6, 0.8).
# u = 3/6 * (2.6, 0.8) = (1.3, 0.4): w = (1.7, 3.6).
STEP_1 = [[1.7, 3.6]]
# |w| = sqrt(15.85) = 3.981206, |g| = 1: t = 0.3981206 / 1.7962412 = 0.2216409.
# u = 0.6 * t * (0.34, -1 + 0.72) = (0.0452147, -0.0372357).
# v = 0.5 * (1.3, 0.4) + u = (0.6952147, 0.1627643): w = (1.0047853, 3.4372357).
STEP_2 = [[1.0047853, 3.4372357]]


def test_steps_by_hand_with_a_moving_rate():
    optimizer = LARS(momentum=0.5, weight_decay=0.2, eta=0.1)
    seen = run(optimizer, [[3.0, 4.0]], [[[2.0, 0.0]], [[0.0, -1.0]]], [3.0, 0.6])
    np.testing.assert_allclose(seen, [STEP_1, STEP_2], rtol=1e-6)


def test_a_step_by_hand_with_nesterov():
    # v = u = (1.3, 0.4) as above; w less 0.5 * v + u = (1.95, 0.6).
    optimizer = LARS(momentum=0.5, weight_decay=0.2, eta=0.1, nesterov=True)
    seen = run(optimizer, [[3.0, 4.0]], [[[2.0, 0.0]]], [3.0])
    np.testing.assert_allclose(seen, [[[1.05, 3.4]]], rtol=1e-6)


def test_a_kernel_is_one_whatever_its_dimensions():
    optimizer = LARS(momentum=0.5, weight_decay=0.2, eta=0.1)
    seen = run(optimizer, [[[[3.0]], [[4.0]]]], [[[[[2.0]], [[0.0]]]]], [3.0])
    np.testing.assert_allclose(np.ravel(seen), np.ravel(STEP_1), rtol=1e-6)


def test_a_bias_has_plain_momentum_without_decay():
    # v: 2, then 0.5 * 2 + 0.1 * 1 = 1.1.
    optimizer = LARS(momentum=0.5, weight_decay=0.2, eta=0.1)
    seen = run(optimizer, [3.0], [[2.0], [1.0]], [1.0, 0.1])
    np.testing.assert_allclose(seen, [[1.0], [-0.1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("start", "gradient", "after"),
    [
        ([[0.0, 0.0]], [[2.0, 0.0]], [[-2.0, 0.0]]),  # weights of 0 could not move otherwise
        ([[3.0, 4.0]], [[0.0, 0.0]], [[2.4, 3.2]]),  # 1 - 0.2
        ([[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]),
    ],
)
def test_the_ratio_is_1_where_it_is_not_known(start, gradient, after):
    seen = run(LARS(weight_decay=0.2, eta=0.1), start, [gradient], [1.0])
    np.testing.assert_allclose(seen, [after], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("momentum", 1.1), ("momentum", "high"), ("weight_decay", -0.1), ("eta", 0.0)],
)
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}={value!r}"):
        LARS(**{name: value})


def test_it_is_saved_and_loaded_with_its_state(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = LARS(0.1, momentum=0.8, weight_decay=0.2, eta=0.3, nesterov=True)
    model.compile(optimizer, "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    names = ("momentum", "weight_decay", "eta", "nesterov")
    assert [getattr(loaded.optimizer, name) for name in names] == [0.8, 0.2, 0.3, True]
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
