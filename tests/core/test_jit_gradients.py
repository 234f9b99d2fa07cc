"""`jit_gradients`: steps by XLA against the same steps without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, LossScaleOptimizer

from callbacks.finite_loss import FiniteLoss
from core import keras_patches
from core.errors import RunError
from models.fused_batch_norm import fuse_batch_norm
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import Group, OptimizerGroups
from optimizers.muon import Muon
from optimizers.tf1_momentum import add_l2_to_loss
from training.model import cross_entropy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 6, 3)).astype("float32")
Y = RNG.integers(0, 3, 24).astype("int32")
ALL_AT_ONCE = {
    "use_ema": True,
    "ema_momentum": 0.9,
    "global_clipnorm": 0.5,
    "gradient_accumulation_steps": 2,
}


def compiled(optimizer, xla, fused=False):
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((None, None, 3)),
        keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
        keras.layers.BatchNormalization(momentum=0.5, name="bn"),
        keras.layers.Activation("relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, name="head"),
    ]
    model = keras.Sequential(layers)
    add_l2_to_loss(model, 1.0)
    metric = keras.metrics.SparseCategoricalAccuracy(name="top1")
    model.compile(
        DistributedOptimizer(optimizer),
        cross_entropy(0.1),
        metrics=[metric],
        jit_compile=False,
        auto_scale_loss=False,
    )
    if fused:
        fuse_batch_norm(model)
    if xla:
        keras_patches.jit_gradients(model)
    keras_patches.keep_weights_after_fit(model.optimizer)
    return model


def after(model, x=X, callbacks=()):
    """All state of a model after an epoch of six steps, and what Keras reports of it."""
    reported = model.fit(x, Y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))
    state = [*model.variables, *model.optimizer.variables]
    return {v.path: v.numpy() for v in state} | {"history": list(reported.history.values())}


def in_groups():
    kernels = Group("kernel", Muon(momentum=0.6), rate=0.1)
    return OptimizerGroups(SGD(momentum=0.9), [kernels], 0.1, loss_scale_factor=256.0)


def with_dynamic_scale():
    # A loss above 2 becomes infinite by it: the scale halves, and doubles after two good steps.
    inner = SGD(0.1, momentum=0.9, nesterov=True, **ALL_AT_ONCE)
    return LossScaleOptimizer(inner, initial_scale=2.0**127, dynamic_growth_steps=2)


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [(in_groups, True), (with_dynamic_scale, False)],
    ids=["groups, static scale, fused BatchNorm", "accumulation, clipping, average, dynamic scale"],
)
def test_its_steps_are_those_without_it(optimizer, fused):
    """Weights, statistics, averages, the optimizer's state, loss and metrics; by L2, too."""
    models = [compiled(optimizer(), xla=False), compiled(optimizer(), xla=True, fused=fused)]
    expected, found = map(after, models)
    skips = isinstance(models[0].optimizer, LossScaleOptimizer)
    applied = keras_patches.gradients_applied(models[0].optimizer)
    assert (0 < applied < 6) if skips else applied == 6
    for ours, plain in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def functions(model):
    """Of a traced step: the nodes of each function that XLA compiles, and all the others."""
    shapes = tf.TensorSpec((4, 6, 6, 3)), tf.TensorSpec((4,), tf.int32)
    graph = tf.function(model.train_step).get_concrete_function(shapes).graph.as_graph_def()
    compiled, others = [], [graph.node]
    for function in graph.library.function:
        by_xla = function.attr["_XlaMustCompile"].b
        (compiled if by_xla else others).append(function.node_def)
    return [[n.op for n in nodes] for nodes in compiled], [n.op for nodes in others for n in nodes]


def test_xla_compiles_the_gradients_and_not_the_update():
    (inside,), outside = functions(compiled(SGD(0.1, momentum=0.9), xla=True))
    for op in ("Conv2D", "Conv2DBackpropFilter"):
        assert (op in inside, op in outside) == (True, False)
    # BatchNorm's two statistics; outside, the metrics, and weights and velocities.
    assert inside.count("AssignVariableOp") == 2
    assert outside.count("AssignVariableOp") >= 2 * 5
    assert functions(compiled(SGD(0.1), xla=False))[0] == []


def test_losses_are_noted_outside_of_what_is_compiled():
    """XLA on a GPU cannot assign the int32 counters of `FiniteLoss`, which are the host's."""
    last, graphs = keras.Variable(0.0), []

    def note(loss):
        graphs.append(tf.compat.v1.get_default_graph().name)
        last.assign(loss)

    noted = []
    for xla in (False, True):
        model = compiled(SGD(0.1), xla)
        keras_patches.note_losses(model, note)
        after(model)
        noted.append(float(last))
    assert noted[1] == pytest.approx(noted[0], rel=1e-5)
    assert len(graphs) == 2
    assert graphs[0] == graphs[1]
    keras_patches.stop_noting_losses(model, note)
    after(model)
    assert len(graphs) == 2


def test_a_loss_that_is_not_finite_is_found():
    spoilt = X.copy()
    spoilt[9] = np.inf  # of the third batch
    with pytest.raises(RunError, match="step 2: the loss of worker 0 is not finite"):
        after(compiled(SGD(0.1), xla=True), spoilt, [FiniteLoss(every=100)])
