"""Each patch is still needed, and still works, with the installed Keras."""

import functools
import gc
import threading
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, Adam, LossScaleOptimizer, RMSprop

from core import checkpoints, keras_patches
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import Group, OptimizerGroups
from optimizers.lars import LARS
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum, add_l2_to_loss

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


def two_layers(optimizer):
    """From x to 2 * (3 * x), and a BatchNorm between the two."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="one"),
            keras.layers.BatchNormalization(scale=False, epsilon=0.0, name="norm"),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="two"),
        ]
    )
    model.compile(optimizer, "mse", jit_compile=False)
    model.layers[0].kernel.assign([[3.0]])
    model.layers[2].kernel.assign([[2.0]])
    optimizer.build(model.trainable_variables)
    return model


def one_step(model, frozen=(), callbacks=()):
    """The weights after a step on x = 1 and x = 3, both to become 0."""
    x, y = np.array([[1.0], [3.0]], "float32"), np.zeros((2, 1), "float32")
    with keras_patches.frozen(model, [model.get_layer(name) for name in frozen]):
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[*callbacks])
    return {w.path.removeprefix(f"{model.name}/"): w.numpy().item() for w in model.weights}


def test_a_frozen_layer_stays_and_the_rest_trains():
    """By hand: the outputs are 6 and 18, and w2's gradient is the mean of 2 * y * 3 * x, 180."""
    found = one_step(two_layers(SGD(0.001)), ["one", "norm"])
    assert found == pytest.approx(
        {
            "one/kernel": 3.0,
            "norm/beta": 0.0,
            "norm/moving_mean": 0.0,  # what it normalised with, as at evaluation
            "norm/moving_variance": 1.0,
            "two/kernel": 2.0 - 0.001 * 180,
        },
        rel=1e-6,
    )


def test_keras_updates_a_batch_norm_that_is_not_frozen():
    """The inputs' mean is 6 and their variance 9; Keras moves 1 % of the way."""
    found = one_step(two_layers(SGD(0.001)), ["one"])
    assert found["norm/moving_mean"] == pytest.approx(0.06)
    assert found["norm/moving_variance"] == pytest.approx(1.08)


OPTIMIZERS = {
    "momentum": lambda: SGD(0.001, momentum=0.9),
    "weight decay": lambda: keras.optimizers.AdamW(0.001, weight_decay=0.5),
    "average": lambda: SGD(0.001, use_ema=True, ema_momentum=0.5),
    "loss scale": lambda: LossScaleOptimizer(SGD(0.001), initial_scale=4.0),
    "accumulation": lambda: SGD(0.001, gradient_accumulation_steps=2),
    "distributed": lambda: DistributedOptimizer(TF1Momentum(0.001)),
    "groups": lambda: OptimizerGroups(
        SGD(momentum=0.9), [Group("one/", SGD(momentum=0.5))], 0.001, use_ema=True
    ),
    "distributed, with a loss scale": lambda: DistributedOptimizer(
        LossScaleOptimizer(SGD(0.001), initial_scale=4.0)
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_leaves_what_is_frozen_and_trains_it_before_and_after(optimizer):
    """L2 in the loss has no hold on it either. Pairs of steps, for gradients that accumulate."""
    model = two_layers(optimizer())
    add_l2_to_loss(model, 0.1)
    keras_patches.keep_weights_after_fit(model.optimizer)
    # An average of the weights goes on moving towards them.
    state = [v for v in model.optimizer.variables if v.path.endswith(("momentum", "velocity"))]
    own = [model.get_layer("one").kernel, *(v for v in state if "one_kernel" in v.path)]
    rest = [model.get_layer("two").kernel, *(v for v in state if "two_kernel" in v.path)]
    for frozen in ([], ["one", "norm"], []):
        before = [[v.numpy().item() for v in part] for part in (own, rest)]
        one_step(model, frozen)
        one_step(model, frozen)
        after = [[v.numpy().item() for v in part] for part in (own, rest)]
        kept = [
            [x == y for x, y in zip(*values, strict=True)]
            for values in zip(before, after, strict=True)
        ]
        assert kept == [[bool(frozen)] * len(own), [False] * len(rest)]


def test_only_a_trace_sees_a_frozen_layer():
    """Not the callbacks of a run, a thread that writes a checkpoint, or a later `fit`."""
    seen, in_trace = [], []
    model = two_layers(SGD(0.001))
    model.get_layer("norm").beta.trainable = False  # as a network may have it
    flags = [layer.trainable for layer in model.layers], [v.trainable for v in model.weights]

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(([x.trainable for x in model.layers], [v.trainable for v in model.weights]))

    compute_loss = model.compute_loss

    def traced(*arguments, **options):
        in_trace.append([layer.trainable for layer in model.layers])
        return compute_loss(*arguments, **options)

    model.compute_loss = traced
    one_step(model, ["norm"], [Watch()])
    one_step(model, [], [Watch()])
    assert seen == [flags, flags]
    assert in_trace == [[True, False, True], [True, True, True]]


def test_no_checkpoint_is_written_while_a_layer_is_frozen_for_a_trace(tmp_path):
    """Its file would say so: writing and tracing hold the same lock, tried by another thread."""

    def another_may_begin():
        def attempt():
            found = keras_patches.TRAINABLE.acquire(blocking=False)
            if found:
                keras_patches.TRAINABLE.release()
            return found

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(attempt).result()

    seen = []

    class Written:
        def save(self, path):
            with zipfile.ZipFile(path, "w"):
                seen.append(another_may_begin())

    model = two_layers(SGD(0.001))
    compute_loss = model.compute_loss

    def traced(*arguments, **options):
        seen.append(another_may_begin())
        return compute_loss(*arguments, **options)

    model.compute_loss = traced
    checkpoints.write(Written(), checkpoints.Snapshot(0), tmp_path / "0.keras")
    one_step(model, ["one"])
    one_step(model)
    assert seen == [False, False, True]


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


MOVABLE = {
    "SGD": lambda momentum=0.9: SGD(0.1, momentum=momentum),
    "SGD, Nesterov": lambda momentum=0.9: SGD(0.1, momentum=momentum, nesterov=True),
    "TF1Momentum": lambda momentum=0.9: TF1Momentum(0.1, momentum=momentum),
    "LARS": lambda momentum=0.9: LARS(0.1, momentum=momentum),
    "Muon": lambda momentum=0.9: Muon(0.1, momentum=momentum),
    "groups": lambda momentum=0.9: OptimizerGroups(
        SGD(momentum=momentum), [Group("w", SGD(momentum=momentum), 2.0)]
    ),
}


def variables():
    return [keras.Variable([[1.0, 2.0]], name=name) for name in ("w", "v")]


@pytest.mark.parametrize("make", MOVABLE.values(), ids=MOVABLE)
@pytest.mark.parametrize("around", [lambda inner: inner, DistributedOptimizer, LossScaleOptimizer])
def test_a_momentum_moves_without_a_new_trace(make, around):
    """Each step is that of an optimizer of the step's momentum, in the same state."""
    moved, expected = variables(), variables()
    optimizer, state = around(make()), None
    saved = keras.saving.serialize_keras_object(optimizer)
    set_momentum = keras_patches.momentum_setter(optimizer)
    optimizer.build(moved)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, moved))
    for momentum in (0.9, 0.5, 0.99):
        gradients = [tf.constant([[momentum, 2 * momentum - 1.5]]), tf.constant([[1.0, momentum]])]
        set_momentum(momentum)
        step(*gradients)
        plain = around(make(momentum))
        plain.build(expected)
        for variable, value in zip(plain.variables, state or plain.variables, strict=True):
            variable.assign(value)
        plain.apply(gradients, expected)
        state = [v.numpy() for v in plain.variables]
        for ours, theirs in zip(moved, expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)
    assert step.experimental_get_tracing_count() == 1
    # It is saved as before: the momentum is no part of its state.
    assert len(optimizer.variables) == len(state)
    assert keras.saving.serialize_keras_object(optimizer) == saved


def test_a_momentum_is_asked_for_twice():
    optimizer, (w, v) = SGD(1.0, momentum=0.5), variables()
    for momentum in (0.25, 0.125):
        keras_patches.momentum_setter(optimizer)(momentum)
        assert float(optimizer.momentum) == momentum
    optimizer.build([w, v])


def test_a_group_keeps_its_momentum():
    kept, rest = SGD(momentum=0.5), SGD(momentum=0.9)
    groups = OptimizerGroups(rest, [Group("w", kept, keeps_momentum=True)])
    keras_patches.momentum_setter(groups)(0.75)
    assert (kept.momentum, float(rest.momentum)) == (0.5, 0.75)


@pytest.mark.parametrize("optimizer", [SGD(), Adam(), RMSprop(momentum=0.9)])
def test_a_momentum_that_cannot_move_is_refused(optimizer):
    with pytest.raises(ValueError, match=f"Received: {type(optimizer).__name__}, momentum="):
        keras_patches.momentum_setter(optimizer)


def captured_arrays(model):
    """How many tensors, other than variables, a trace of the model takes from outside."""
    traced = tf.function(model).get_concrete_function(tf.TensorSpec((None, 3), tf.float32))
    return sum(tensor.dtype != tf.resource for tensor in traced.captured_inputs)


def test_keras_holds_given_means_outside_the_graph():
    layer = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 4.0, 4.0])
    model = keras.Sequential([keras.Input((3,)), layer])
    expected = model(X).numpy()
    assert captured_arrays(model) == 2
    keras_patches.constants_in_the_graph(model)
    assert captured_arrays(model) == 0
    assert model(X).numpy().tolist() == expected.tolist()
