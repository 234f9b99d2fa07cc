"""TensorFlow 1's momentum against hand-computed steps and TensorFlow 1's own optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.registry import build_model
from optimizers.tf1_momentum import TF1Momentum, add_l2_to_loss


def run(optimizer, rates, gradients, start=0.0):
    variable = keras.Variable([start])
    optimizer.build([variable])
    seen = []
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor([gradient])], [variable])
        seen.append(float(variable.numpy()[0]))
    return seen


def test_steps_by_hand_with_a_moving_rate():
    # v: 1, then 0.5 * 1 + 2 = 2.5. w: -1 * (1 + 0.5 * 1) = -1.5,
    # then -1.5 - 0.1 * (2 + 0.5 * 2.5) = -1.825.
    seen = run(TF1Momentum(momentum=0.5, nesterov=True), [1.0, 0.1], [1.0, 2.0])
    assert seen == pytest.approx([-1.5, -1.825])


def test_steps_by_hand_without_nesterov():
    # w: -1 * 1, then -1 - 0.1 * 2.5.
    seen = run(TF1Momentum(momentum=0.5, nesterov=False), [1.0, 0.1], [1.0, 2.0])
    assert seen == pytest.approx([-1.0, -1.25])


@pytest.mark.parametrize("nesterov", [True, False])
def test_agrees_with_tensorflow_1(nesterov):
    generator = np.random.default_rng(0)
    rates = np.linspace(2.0, 0.25, 12)
    gradients = generator.normal(size=12)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        rate = tf.compat.v1.placeholder(tf.float32)
        gradient = tf.compat.v1.placeholder(tf.float32, (1,))
        variable = tf.compat.v1.get_variable("w", initializer=[0.0], use_resource=True)
        step = tf.compat.v1.train.MomentumOptimizer(
            rate, 0.9, use_nesterov=nesterov
        ).apply_gradients([(gradient, variable)])
        session.run(tf.compat.v1.global_variables_initializer())
        expected = []
        for r, g in zip(rates, gradients, strict=True):
            session.run(step, {rate: r, gradient: [g]})
            expected.append(float(session.run(variable)[0]))
    found = run(TF1Momentum(momentum=0.9, nesterov=nesterov), rates, gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_keras_own_sgd_parts_from_it_as_the_rate_moves():
    rates, gradients = [2.0, 0.25], [1.0, 1.0]
    ours = run(TF1Momentum(momentum=0.9), rates, gradients)
    keras_sgd = run(keras.optimizers.SGD(0.1, 0.9, nesterov=True), rates, gradients)
    assert ours[0] == pytest.approx(keras_sgd[0])
    assert abs(ours[1] - keras_sgd[1]) > 0.5


def test_it_is_saved_and_loaded_with_its_state(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(TF1Momentum(0.1, momentum=0.8, nesterov=False), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.optimizer, TF1Momentum)
    assert (loaded.optimizer.momentum, loaded.optimizer.nesterov) == (0.8, False)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("momentum", [-0.1, 1.1, "high"])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be from 0 to 1\. Received"):
        TF1Momentum(momentum=momentum)


def l2_of(model):
    return float(sum(keras.ops.convert_to_numpy(loss) for loss in model.losses))


def test_l2_is_half_the_decay_times_the_sum_of_squares():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    kernel, bias = model.trainable_variables
    kernel.assign([[3.0], [4.0]])
    bias.assign([2.0])
    assert add_l2_to_loss(model, 0.1) == 1
    assert l2_of(model) == pytest.approx(0.05 * 25)
    assert add_l2_to_loss(model, 0.1, "all") == 2
    assert l2_of(model) == pytest.approx(0.05 * 29)
    assert add_l2_to_loss(model, 0.0, "all") == 0
    assert model.losses == []


def test_l2_of_a_new_resnet50_is_the_published_logs():
    keras.utils.set_random_seed(0)
    model = build_model("resnet50", (32, 32), 1000)
    assert add_l2_to_loss(model, 2e-4) == 54
    # First line of the log: total_loss@9.607, loss@6.931.
    assert l2_of(model) == pytest.approx(9.607 - 6.931, abs=0.01)


def test_l2_pulls_the_weights_and_is_not_saved(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.trainable_variables[0].assign([[2.0]])
    add_l2_to_loss(model, 0.5)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))
    assert float(model.trainable_variables[0].numpy()[0, 0]) == pytest.approx(2.0 - 0.5 * 2.0)
    model.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").losses == []


@pytest.mark.parametrize(("l2", "variables"), [(-1.0, "kernels"), (0.1, "biases")])
def test_refusals_of_l2(l2, variables):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="Received"):
        add_l2_to_loss(model, l2, variables)
