"""Each patch is still needed, and still works, with the installed Keras."""

import functools
import gc
import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, LossScaleOptimizer

from core import keras_patches

X = np.arange(12, dtype="float32").reshape(4, 3)
Y = np.ones((4, 1), "float32")


def compiled(optimizer=None):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(optimizer or SGD(0.0), "mse", jit_compile=False)
    return model


def fit(model, x=X, y=Y):
    return model.fit(x, y, batch_size=2, shuffle=False, verbose=0)


def test_they_were_tested_with_the_keras_that_is_installed():
    assert keras.__version__ == keras_patches.TESTED_WITH


def test_keras_reuses_the_train_function_of_an_earlier_fit():
    model = compiled()
    fit(model)
    model.compute_loss = lambda *arguments, **options: pytest.fail("Keras looks at it anew")
    fit(model)


def test_losses_are_noted_inside_the_train_function():
    losses = [keras.Variable(0.0), keras.Variable(0.0)]
    model = compiled()
    fit(model)

    def note(loss):
        losses[0].assign(losses[1])
        losses[1].assign(loss)

    keras_patches.note_losses(model, note)
    fit(model)
    # Sums of the rows are 3, 12, 21 and 30.
    expected = [(2**2 + 11**2) / 2, (20**2 + 29**2) / 2]
    np.testing.assert_allclose([float(v) for v in losses], expected)
    keras_patches.stop_noting_losses(model, lambda loss: None)  # another's
    assert model.compute_loss.note is note
    keras_patches.stop_noting_losses(model, note)
    assert model.compute_loss.__func__ is keras.Model.compute_loss
    losses[1].assign(-1.0)
    fit(model)
    assert float(losses[1]) == -1.0


def test_each_step_uses_the_one_batch():
    model = compiled()
    keras_patches.train_on_one_batch(model, (tf.constant(X[3:]), tf.constant(Y[3:])))
    dataset = tf.data.Dataset.from_tensors((X[:1], Y[:1])).repeat(5)
    assert model.fit(dataset, verbose=0).history["loss"] == [29.0**2]


@pytest.mark.parametrize("kept", [False, True])
def test_the_average_takes_the_place_of_the_weights_when_a_fit_ends(kept):
    optimizer = SGD(0.001, use_ema=True, ema_momentum=0.9)
    if kept:
        keras_patches.keep_weights_after_fit(optimizer)
    model = compiled(optimizer)
    fit(model)
    (average, _) = optimizer._model_variables_moving_average
    is_average = np.allclose(model.layers[0].kernel.numpy(), average.numpy())
    assert is_average is not kept


@pytest.mark.parametrize("mended", [False, True])
def test_keras_cannot_save_in_a_stateless_scope(tmp_path, mended):
    model, found = compiled(), []
    model.optimizer.build(model.trainable_variables)

    def save():
        if mended:
            keras_patches.remember_what_saving_skips()
        try:
            with keras.StatelessScope(state_mapping=[(v, v.numpy()) for v in model.variables]):
                model.save(tmp_path / "model.keras")
        except ValueError as error:
            found.append(str(error))

    thread = threading.Thread(target=save)  # what Keras remembers is the thread's
    thread.start()
    thread.join()
    assert (found == []) is mended


class Mixin:
    """Doubles the gradients."""

    def apply(self, grads, trainable_variables=None):
        super().apply([self.factor * g for g in grads], trainable_variables)


def test_an_optimizer_gets_a_class_before_its_own_and_is_saved_as_before():
    optimizer = SGD(1.0)
    plain = keras.saving.serialize_keras_object(optimizer)
    keras_patches.mix_in(optimizer, (Mixin,), factor=2.0)
    assert isinstance(optimizer, Mixin)
    assert keras.saving.serialize_keras_object(optimizer) == plain
    variable = keras.Variable([0.0])
    optimizer.apply([tf.constant([3.0])], [variable])
    assert variable.numpy() == [-6.0]


def test_keras_would_save_another_subclass_as_a_class_of_its_own():
    plain = keras.saving.serialize_keras_object(SGD(1.0))
    found = keras.saving.serialize_keras_object(type("SGD", (Mixin, SGD), {})(1.0))
    assert found["module"] != plain["module"]


@pytest.mark.parametrize("mixed", [False, True])
def test_keras_keeps_every_graph_of_an_optimizer(mixed):
    optimizer, variable = SGD(1.0), keras.Variable([0.0])
    if mixed:
        keras_patches.mix_in(optimizer, (keras_patches.NoSumOverReplicas,))
    optimizer.build([variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]))
    graph = weakref.ref(step.get_concrete_function(tf.TensorSpec([1])).graph)
    del step
    gc.collect()
    assert (graph() is None) is mixed


@pytest.mark.parametrize("around", [lambda inner: inner, LossScaleOptimizer])
def test_iterations_counts_accumulated_steps_as_one(around):
    inner, variable = SGD(1.0, gradient_accumulation_steps=2), keras.Variable([0.0])
    optimizer = around(inner)
    optimizer.build([variable])
    for _ in range(4):
        optimizer.apply([tf.constant([1.0])], [variable])
    assert int(inner.iterations) == 2
    assert keras_patches.gradients_applied(optimizer) == 4


@pytest.mark.parametrize("around", [lambda inner: inner, LossScaleOptimizer])
def test_the_rate_is_set_by_the_op_itself(around):
    optimizer = around(SGD(0.1))
    set_rate = keras_patches.rate_setter(optimizer)
    assert not isinstance(set_rate, functools.partial)  # which is Keras's own way
    set_rate(0.25)
    assert float(optimizer.learning_rate) == 0.25
