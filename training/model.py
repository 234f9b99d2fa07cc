"""The model of a run: built, compiled with loss, decay and optimizer, and saved as a plain one."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import ops

from core import devices, keras_patches
from core.checkpoints import load_weights
from core.errors import UserError
from core.files import whole
from models.registry import build_model
from models.whitening import WHITENING, has_whitening
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import OF_THE_WHOLE, Group, OptimizerGroups
from optimizers.lars import LARS
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum, add_l2_to_loss
from training import recipes

# Optimizers of this project, by the names that a recipe uses; Muon goes before Keras's own.
OURS = {cls.__name__: cls for cls in (TF1Momentum, Muon, LARS)}


def build(recipe: recipes.Recipe) -> keras.Model:
    """The recipe's model for images of any size, under the current dtype policy."""
    scale = {"mean": recipe.mean, "std": recipe.std}
    try:
        model = build_model(
            recipe.model, (None, None), recipe.classes, **scale, **recipe.model_arguments
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe '{recipe.name}', key 'model': {error}") from None
    if recipe.whitening_images and not has_whitening(model):
        raise UserError(
            f"recipe '{recipe.name}', key 'whitening_images': model '{recipe.model}' has no layer "
            f"'{WHITENING}'; use whitened_cnn, or leave the key out"
        )
    if recipe.loss == "binary_cross_entropy":
        start_rare(model, recipe.classes)
    devices.avoid_overrun(model)
    return model


def start_rare(model: keras.Model, classes: int) -> None:
    """Lets each class begin with a probability of about 1 / classes, also under a sigmoid.

    The head's bias, where it has one, becomes -log(classes), as in MosaicML's ResNets: with 0,
    each of 1,000 classes would begin at a half.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense) and layer.use_bias:
            layer.bias.assign(ops.full_like(layer.bias, -math.log(classes)))


def make_optimizer(
    settings: recipes.Optimizer, ema: float | None = None
) -> keras.optimizers.Optimizer:
    """The recipe's optimizer, for one worker and without a loss scale.

    With `ema`, it keeps an average of the weights, of that decay per step.
    """
    average = {"use_ema": True, "ema_momentum": ema} if ema else {}
    options = {"learning_rate": 0.0, **average, **settings.arguments}
    if not settings.groups:
        return _optimizer("optimizer", settings.name, options)
    whole = {name: options.pop(name) for name in OF_THE_WHOLE if name in options}
    groups = []
    for number, group in enumerate(settings.groups, 1):
        inherits = group.name is None
        arguments = {**(options if inherits else {"learning_rate": 0.0}), **group.arguments}
        key = f"optimizer.groups, group {number}"
        optimizer = _optimizer(key, group.name or settings.name, arguments)
        keeps_momentum = not inherits or "momentum" in group.arguments
        groups.append(Group(group.variables, optimizer, group.rate, keeps_momentum))
    rest = _optimizer("optimizer", settings.name, options)
    try:
        return OptimizerGroups(rest, groups, learning_rate=0.0, **whole)
    except ValueError as error:
        raise UserError(f"key 'optimizer.groups': {error}") from None


def _optimizer(key: str, name: str, arguments: dict[str, Any]) -> keras.optimizers.Optimizer:
    """An optimizer by its name; `key` is the place in the recipe, for messages."""
    cls: Any = OURS.get(name) or getattr(keras.optimizers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)):
        raise UserError(
            f"key '{key}.name': received {name!r}; use {', '.join(OURS)} or the name of a Keras "
            "optimizer, such as SGD or AdamW"
        )
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"key '{key}.arguments': {error}") from None


def build_optimizer(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Makes the optimizer's variables, for those of the model that train."""
    try:
        optimizer.build(model.trainable_variables)
    except ValueError as error:
        raise UserError(f"key 'optimizer': {error}") from None


def compile_for_training(model: keras.Model, recipe: recipes.Recipe, policy: str) -> None:
    """Compiles the model with the recipe's loss, decay, optimizer and loss scale.

    The optimizer averages gradients over the workers. It and the metrics are built here, so
    that the first step is traced once and a checkpoint's state can be loaded.
    """
    optimizer = make_optimizer(recipe.optimizer, recipe.ema)
    if policy == "mixed_float16":
        if recipe.loss_scale == "dynamic":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        else:
            optimizer.loss_scale_factor = recipe.loss_scale
    optimizer = DistributedOptimizer(optimizer, compression=recipe.optimizer.compression)
    add_l2_to_loss(model, recipe.l2, recipe.l2_variables)
    model.compile(
        optimizer,
        loss=cross_entropy(recipe.label_smoothing, recipe.loss == "binary_cross_entropy"),
        metrics=[
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
            *accuracy_metrics(),
        ],
        jit_compile=False,  # XLA cannot compile Horovod's all-reduce
        auto_scale_loss=False,  # done above, outermost
    )
    build_optimizer(optimizer, model)
    model.compute_metrics(None, ops.zeros((1,), "int32"), ops.zeros((1, recipe.classes)))
    model.reset_metrics()
    keras_patches.keep_weights_after_fit(optimizer)


def accuracy_metrics() -> list[keras.metrics.Metric]:
    """Top-1 and top-5 of logits against integer labels."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]


def averaging_optimizer(recipe: recipes.Recipe, model: keras.Model) -> Any:
    """An optimizer with the same variables as the run's, to find the average among them."""
    optimizer = make_optimizer(recipe.optimizer, recipe.ema)
    build_optimizer(optimizer, model)
    return optimizer


def cross_entropy(smoothing: float, binary: bool = False) -> Any:
    """Loss of logits against integer labels, with `smoothing` spread over all classes.

    With `binary`, each class is a question of its own (a sigmoid), and an image's loss is the
    sum over the classes, as in composer's `binary_cross_entropy_with_logits`.

    Returns:
        A function of labels `(batch,)` and logits `(batch, classes)`. Keras takes the mean over
        the batch.
    """
    if not (smoothing or binary):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed_cross_entropy(labels: Any, logits: Any) -> Any:
        targets = ops.one_hot(ops.reshape(labels, (-1,)), logits.shape[-1])
        targets = targets * (1.0 - smoothing) + smoothing / logits.shape[-1]
        if binary:
            losses = ops.binary_crossentropy(targets, logits, from_logits=True)
            return ops.sum(losses, axis=-1)
        return ops.categorical_crossentropy(targets, logits, from_logits=True)

    return smoothed_cross_entropy


def load_checkpoint(model: keras.Model, checkpoint: Path) -> None:
    """Loads weights and optimizer state into a model compiled for training.

    Only arrays are read: nothing in the file is unpickled or run.
    """
    try:
        model.load_weights(str(checkpoint))
    except Exception as error:  # Keras, h5py and zipfile raise of every class on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"checkpoint '{checkpoint}' cannot be loaded: {reason}") from None


def save_result(
    recipe: recipes.Recipe,
    checkpoint: Path,
    path: Path,
    finish: Callable[[keras.Model], None] | None = None,
) -> None:
    """Saves a checkpoint's weights as the run's result: a plain float32 `keras.Model`.

    They are the weights that the recipe evaluates: with `evaluation.ema`, the average. `finish`
    may change the model before it is saved.
    The model is not compiled and has no class of this project, so it loads wherever Keras 3
    is. It takes RGB images of any size, on the scale 0 to 255.
    """
    trained_under = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float32")
        result = build(recipe)
    finally:
        keras.config.set_dtype_policy(trained_under)
    averaged_by = averaging_optimizer(recipe, result) if recipe.evaluation.ema else None
    load_weights(result, checkpoint, averaged_by)
    if finish:
        finish(result)
    with whole(path) as unfinished:
        result.save(unfinished)
