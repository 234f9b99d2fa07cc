"""The model of a run: built, compiled with loss, decay and optimizer, and saved as a plain one."""

from pathlib import Path
from typing import Any

import keras
from keras import ops

from core import devices, keras_patches
from core.checkpoints import load_weights
from core.errors import UserError
from core.files import whole
from models.resnet import build_model
from optimizers.distributed import DistributedOptimizer
from optimizers.tf1_momentum import TF1Momentum, add_l2_to_loss
from training import recipes


def build(recipe: recipes.Recipe) -> keras.Model:
    """The recipe's model for images of any size, under the current dtype policy."""
    scale = {"mean": recipe.mean, "std": recipe.std}
    try:
        model = build_model(
            recipe.model, (None, None), recipe.classes, **scale, **recipe.model_arguments
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe '{recipe.name}', key 'model': {error}") from None
    devices.avoid_overrun(model)
    return model


def make_optimizer(
    settings: recipes.Optimizer, ema: float | None = None
) -> keras.optimizers.Optimizer:
    """The recipe's optimizer, for one worker and without a loss scale.

    With `ema`, it keeps an average of the weights, of that decay per step.
    """
    if settings.name == TF1Momentum.__name__:
        cls: Any = TF1Momentum
    else:
        cls = getattr(keras.optimizers, settings.name, None)
        if not (isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)):
            raise UserError(
                f"key 'optimizer.name': received {settings.name!r}; use TF1Momentum or the "
                "name of a Keras optimizer, such as SGD or AdamW"
            )
    average = {"use_ema": True, "ema_momentum": ema} if ema else {}
    try:
        return cls(**{"learning_rate": 0.0, **average, **settings.arguments})
    except (TypeError, ValueError) as error:
        raise UserError(f"key 'optimizer.arguments': {error}") from None


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
        loss=cross_entropy(recipe.label_smoothing),
        metrics=[
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
            *accuracy_metrics(),
        ],
        jit_compile=False,  # XLA cannot compile Horovod's all-reduce
        auto_scale_loss=False,  # done above, outermost
    )
    optimizer.build(model.trainable_variables)
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
    optimizer.build(model.trainable_variables)
    return optimizer


def cross_entropy(smoothing: float) -> Any:
    """Loss of logits against integer labels, with `smoothing` spread over all classes."""
    if not smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed_cross_entropy(labels: Any, logits: Any) -> Any:
        targets = ops.one_hot(ops.reshape(labels, (-1,)), logits.shape[-1])
        targets = targets * (1.0 - smoothing) + smoothing / logits.shape[-1]
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


def save_result(recipe: recipes.Recipe, checkpoint: Path, path: Path) -> None:
    """Saves a checkpoint's weights as the run's result: a plain float32 `keras.Model`.

    They are the weights that the recipe evaluates: with `evaluation.ema`, the average.
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
    with whole(path) as unfinished:
        result.save(unfinished)
