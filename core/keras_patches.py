"""What this project changes in Keras, and what it reads of Keras's private parts.

`tests/core/test_keras_patches.py` fails when Keras no longer needs one or no longer allows it.
These have to stand elsewhere:

- `optimizers/distributed.py` overrides the private `_clip_gradients`, the only place where
  accumulated gradients can be averaged, and looks for a loss scale among the running functions.
- `optimizers/groups.py` overrides the private `_backend_update_step` and `_apply_weight_decay`, and
  gives the optimizers of its groups its own `_iterations`.
- `models/fused_batch_norm.py` replaces the `call` of `BatchNormalization` layers, which it finds by
  the private `_flatten_layers`.
- `core/checkpoints.py` reads `_model_variables_moving_average` and the layout of `.keras` files.
- `callbacks/input_balance.py` asks a private module of TensorFlow whether ops are deterministic.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

TESTED_WITH = "3.15.1"


def note_losses(model: keras.Model, note: Callable[[Any], Any]) -> None:
    """Has `note` called with the loss of each training step, inside the train function.

    Callbacks see the loss only as a Python number, for which Keras waits for the device at
    every step. The train function is made anew: Keras would reuse that of an earlier `fit`.
    """
    if getattr(model.compute_loss, "note", None) == note:
        return
    plain = model.compute_loss

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = plain(x, y, y_pred, sample_weight, training=training)
        if training:
            note(loss)
        return loss

    compute_loss.note, compute_loss.plain = note, plain  # type: ignore[attr-defined]
    model.compute_loss = compute_loss
    model.make_train_function(force=True)


def stop_noting_losses(model: keras.Model, note: Callable[[Any], Any]) -> None:
    """Undoes `note_losses`; the next `fit` traces the model anew."""
    if getattr(model.compute_loss, "note", None) == note:
        model.compute_loss = model.compute_loss.plain
        model.train_function = None


def jit_gradients(model: keras.Model) -> None:
    """Has XLA compile the loss and the gradients of a compiled model's training steps.

    XLA cannot compile Horovod's all-reduce, so Keras's own `jit_compile` has to be False. What
    the optimizer does, the metrics and the `note` of `note_losses` stay outside of what is
    compiled: on a GPU, XLA cannot assign int32 variables, which are the host's.

    Each trace of a step compiles anew, for its static shapes and the layers that train in it.

    Example:
        >>> model.compile(DistributedOptimizer(SGD(0.1)), "mse", jit_compile=False)
        >>> jit_gradients(model)
    """
    import tensorflow as tf

    def train_step(data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        note = getattr(model.compute_loss, "note", None)
        compute_loss = getattr(model.compute_loss, "plain", model.compute_loss)
        weights = model.trainable_weights

        # Made in each trace: its own cache knows the shapes, but not which layers are frozen.
        @tf.function(jit_compile=True, autograph=False)
        def loss_and_gradients(x: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                y_pred = model(x, training=True)
                loss = compute_loss(x, y, y_pred, sample_weight, training=True)
                scaled = model.optimizer.scale_loss(loss)
            return loss, y_pred, tape.gradient(scaled, weights)

        loss, y_pred, gradients = loss_and_gradients(x, y, sample_weight)
        if note is not None:
            note(loss)
        model._loss_tracker.update_state(loss, sample_weight=tf.shape(x)[0])
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    model.train_step, model.train_function = train_step, None


def train_on_one_batch(model: keras.Model, batch: tuple[Any, ...]) -> None:
    """Has each training step use `batch`, without the copy to the device of a dataset's batch."""
    step = getattr(model.train_step, "of_any_batch", model.train_step)

    def train_step(_: Any) -> Any:
        return step(batch)

    train_step.of_any_batch = step  # type: ignore[attr-defined]  # for the next batch
    model.train_step = train_step


def constants_in_the_graph(model: keras.Model) -> None:
    """Makes the given means and variances of `Normalization` layers constants of a traced graph.

    Keras holds them as tensors, which a trace captures from outside. tf2onnx takes what is
    captured, and is no variable, for further inputs of the model.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
            layer.mean = keras.ops.convert_to_numpy(layer.mean)
            layer.variance = keras.ops.convert_to_numpy(layer.variance)


# Held while layers are not trainable for a trace, and while a thread reads what they are.
TRAINABLE = threading.RLock()


@contextlib.contextmanager
def frozen(model: keras.Model, layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Has the training steps of a `fit` within it leave `layers` as they are.

    They are not trainable while a step is traced, and at no other time: its graph has no
    gradient of them, and no update. Whoever looks at the model beside it, such as a checkpoint
    or another worker, sees it as it was built. `BatchNormalization` that is not trainable uses
    its moving statistics, and leaves them as they are.
    """
    if not layers:
        yield
        return
    plain = model.train_step

    def train_step(data: Any) -> Any:
        with TRAINABLE, _not_trainable(layers):
            return plain(data)

    model.train_step, model.train_function = train_step, None
    try:
        yield
    finally:
        model.train_step, model.train_function = plain, None


@contextlib.contextmanager
def _not_trainable(layers: Sequence[keras.Layer]) -> Iterator[None]:
    # Outer layers come first: setting theirs sets all that is inside.
    within = [inner for layer in layers for inner in layer._flatten_layers()]
    within += [variable for layer in layers for variable in layer.variables]
    before = [(part, part.trainable) for part in within]
    try:
        for part, _ in before:
            part.trainable = False
        yield
    finally:
        for part, trainable in before:
            part.trainable = trainable


def keep_weights_after_fit(optimizer: keras.optimizers.Optimizer) -> None:
    """Keeps Keras from replacing the weights by their average when a `fit`, a stage, ends."""
    optimizer.finalize_variable_values = lambda variables: None


def remember_what_saving_skips() -> None:
    """Mends a mistake of Keras for this thread, so that it can save in a `StatelessScope`.

    Keras makes a reference object for each layer, whose variables cannot be made in the scope:
    it remembers which attributes to leave alone under another name than it looks up.
    """
    from keras.src.backend.common import global_state
    from keras.src.saving import saving_lib

    for kind in ("Operation", "Layer", "Functional", "Sequential", "Metric", "Optimizer", "Loss"):
        name = f"saving_attr_skiplist_{kind}"
        if global_state.get_global_attribute(name) is None:
            global_state.set_global_attribute(name, saving_lib.get_attr_skipset(kind))


def mix_in(optimizer: keras.optimizers.Optimizer, kinds: tuple[type, ...], **values: Any) -> None:
    """Puts the classes `kinds`, and class attributes, before the class of an optimizer.

    Only its class changes: a copy would lack what no configuration has, such as the
    variables that are excluded from weight decay. Keras saves an object, and finds it in
    `clone_model`, by its `__class__`, so there it sees the plain class.
    """
    plain, before = optimizer.__class__, type(optimizer)  # they differ where one is mixed in
    values |= {"__module__": plain.__module__, "__doc__": plain.__doc__}
    values["__class__"] = property(lambda self: plain)
    mixed = type(plain.__name__, (*kinds, before), values)
    # Not by `__setattr__`: Keras's own would track it, and the property above has no setter.
    vars(object)["__class__"].__set__(optimizer, mixed)


class NoSumOverReplicas:
    """For `mix_in`: leaves out Keras's sum over the replicas of tf.distribute where there is one.

    Its gradient has TensorFlow hold the graph for good, some 12 MB a phase for a small model.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        if self._distribution_strategy.num_replicas_in_sync > 1:  # type: ignore[attr-defined]
            return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        return grads_and_vars


def gradients_applied(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps whose gradients the optimizer took, skipped ones left out."""
    # The public `iterations` counts several steps as one where gradients are accumulated.
    return int(getattr(optimizer, "inner_optimizer", optimizer)._iterations)


def rate_setter(optimizer: keras.optimizers.Optimizer) -> Callable[[float], Any]:
    """A function that sets `optimizer`'s learning rate, at the least cost a call.

    Keras's own setter reads the variable back, and `assign` takes twice the time of its op.
    Before a step of 20 milliseconds they were most of what all our callbacks cost together.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    variable = getattr(optimizer, "_learning_rate", None)
    return _assignment(variable) or functools.partial(setattr, optimizer, "learning_rate")


def _assignment(variable: Any) -> Callable[[float], Any] | None:
    """TensorFlow's own op that assigns a float32 variable; None where there is none."""
    is_tensorflow = keras.backend.backend() == "tensorflow"
    # float32 is the op's own choice for a Python number.
    if is_tensorflow and isinstance(variable, keras.Variable) and variable.dtype == "float32":
        import tensorflow as tf

        handle = variable.value.handle
        return lambda value: tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return None


def momentum_setter(optimizer: keras.optimizers.Optimizer) -> Callable[[float], Any]:
    """A function that sets `optimizer`'s momentum between steps; they need no new trace.

    Keras has the momentum as a Python number, which a trace holds for good. From this call
    on it is a variable: call it before the first step is traced. The variable is none of the
    optimizer's, so checkpoints stay as they were; whoever moves it sets it before each step.
    Of `OptimizerGroups` it moves those that do not keep theirs, all to the same number.

    Raises:
        ValueError: an optimizer whose momentum cannot move. Keras's SGD has none to move
            where it was made without.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    several = getattr(optimizer, "with_moving_momentum", lambda: [optimizer])()
    for one in several:
        is_sgd = isinstance(one, keras.optimizers.SGD) and one.momentum != 0
        if not is_sgd and not getattr(one, "momentum_moves", False):
            raise ValueError(
                "The momentum can be moved of SGD that was made with one, TF1Momentum, Muon "
                f"and LARS. Received: {one.__class__.__name__}, momentum="
                f"{getattr(one, 'momentum', None)!r}"
            )
    made = [one.momentum for one in several if isinstance(one.momentum, _Momentum)]
    variable = (made or [_Momentum(0.0, dtype="float32", trainable=False, autocast=False)])[0]
    for one in several:
        if one.momentum is not variable:
            mix_in(one, (_HasMovingMomentum,), _plain_momentum=one.momentum)
            object.__setattr__(one, "momentum", variable)  # Keras's own would track it
    return _assignment(variable) or variable.assign


class _Momentum(keras.Variable):
    """A momentum that moves. Keras's SGD compares it with 0 to see whether there is one."""

    def __ne__(self, other: object) -> bool:
        return True


class _HasMovingMomentum:
    """For `mix_in`: the configuration has the momentum that the optimizer was made with."""

    _plain_momentum: float

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self._plain_momentum}  # type: ignore[misc]
