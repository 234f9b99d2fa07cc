"""The model of a run: built, compiled with loss, decay and optimizer, and saved as a plain one."""

import contextlib
import hashlib
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from core import checkpoints, devices, keras_patches, workers
from core.checkpoints import load_weights
from core.errors import UserError
from core.files import whole
from models.fused_batch_norm import fuse_batch_norm
from models.registry import build_model
from models.transfer import (
    SCALING,
    architecture_of,
    from_architecture,
    frozen_in,
    load_source,
    scale_of,
    transfer_weights,
)
from models.whitening import WHITENING, has_whitening
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import OF_THE_WHOLE, Group, OptimizerGroups
from optimizers.lars import LARS
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum, add_l2_to_loss
from training import recipes
from training.run_folder import RunFolder

# Optimizers of this project, by the names that a recipe uses; Muon goes before Keras's own.
OURS = {cls.__name__: cls for cls in (TF1Momentum, Muon, LARS)}


@dataclass(frozen=True)
class Initial:
    """The model that a run starts from, `init_from`; all empty for a run that starts anew.

    Attributes:
        digest: of its weights.
        architecture: the run's own, as JSON, where the recipe says `model: initial`.
        taken: keys of the recipe that it decides: `mean` and `std`.
        source: the model itself, on rank 0 of a new run.
        classes: the names of its classes; empty where they are not known.
    """

    digest: str | None = None
    architecture: str | None = None
    taken: dict[str, Any] = field(default_factory=dict)
    source: keras.Model | None = None
    classes: tuple[str, ...] = ()


def find_initial(recipe: recipes.Recipe, folder: RunFolder, resume: bool) -> Initial:
    """The model that a run starts from, as rank 0 finds it; a collective.

    A resumed run has all but the weights in its folder, and these in its checkpoints.

    Raises:
        SharedUserError: it cannot be read, or trained.
    """
    facts = folder.environment().get("facts", {}) if resume else {}
    if not (recipe.init_from or facts.get("initial")):
        return Initial()

    def look() -> Initial:
        if not workers.current().is_first:
            return Initial()
        if resume:
            return Initial(_digest_if_there(recipe) or facts.get("initial"), folder.architecture())
        path = recipes.initial_file(str(recipe.init_from))
        try:
            source = load_source(path)
            is_own = recipe.model == recipes.INITIAL
            architecture = architecture_of(source, recipe.classes) if is_own else None
        except ValueError as error:
            raise UserError(f"--init_from {path}: {error}") from None
        scale = scale_of(source)
        given = {} if scale is None else {"mean": scale[0], "std": scale[1]}
        # With its own architecture, its own layer normalises.
        taken = {k: v for k, v in given.items() if is_own or k not in recipe.model_fields_set}
        classes = _class_names(path, source.output_shape[-1])
        return Initial(weights_digest(path), architecture, taken, source, classes)

    own = workers.together(look)
    digest, architecture, taken, classes = workers.from_first(
        (own.digest, own.architecture, own.taken, own.classes)
    )
    return Initial(digest, architecture, taken, own.source, tuple(classes))


def _digest_if_there(recipe: recipes.Recipe) -> str | None:
    """For a resume, which does not need the file, but does not take another one either."""
    with contextlib.suppress(UserError, OSError, KeyError, zipfile.BadZipFile):
        return weights_digest(recipes.initial_file(str(recipe.init_from)))
    return None


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of a model's classes, from the run in whose folder it lies; else none."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    names = RunFolder(folder).classes()
    return names if len(names) == count else ()


def weights_digest(path: Path) -> str:
    """Hex SHA-256 of the weights in a `.keras` file; of the whole file where it is another one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, archive.open(checkpoints.WEIGHTS) as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()  # type: ignore[arg-type]
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_from(
    net: keras.Model, initial: Initial, recipe: recipes.Recipe, classes: Sequence[str]
) -> list[str]:
    """Gives a new model the weights of the initial one, on rank 0; returns lines for the user.

    `BroadcastFromFirst` gives the other workers rank 0's weights.

    Args:
        classes: of the run's data; where they are others than the initial model's, the head
            starts anew, even if there are as many. Empty where they are not known.

    Raises:
        UserError: the names and shapes of the layers that do not fit.
    """
    if not workers.current().is_first:
        return []
    path = recipes.initial_file(str(recipe.init_from))
    try:
        source = initial.source or load_source(path)
        others = bool(classes and initial.classes) and tuple(classes) != initial.classes
        fresh = transfer_weights(source, net, new_head=others)
    except ValueError as error:
        raise UserError(
            f"--init_from {path} does not fit model '{recipe.model}' of recipe '{recipe.name}': "
            f"{error}"
        ) from None
    count = sum(bool(layer.weights) for layer in net.layers)
    line = f"starting from {path}: weights of {count - len(fresh)} of {count} layers"
    if fresh:
        there = source.output_shape[-1]
        differ = f"{there} classes there, {recipe.classes} here"
        line += f"; new: {', '.join(fresh)} ({differ if there != recipe.classes else 'others'})"
    elif not (classes and initial.classes):
        line += ", the head too, though the names of its classes are not known"
    lines = [line]
    scale = scale_of(source)
    if scale and not np.allclose(scale, (recipe.mean, recipe.std), rtol=1e-6):
        lines.append(
            f"it was trained with mean {_numbers(scale[0])} and std {_numbers(scale[1])}; the "
            f"recipe has {_numbers(recipe.mean)} and {_numbers(recipe.std)}"
        )
    if recipe.model == recipes.INITIAL:
        if not any(type(layer).__name__ in SCALING for layer in net.layers):
            lines.append("it has no layer that scales pixels: it gets them from 0 to 255")
        if still := frozen_in(net):
            more = f" and {len(still) - 3} more" if still[3:] else ""
            lines.append(f"these of its layers never train: {', '.join(still[:3])}{more}")
    return lines


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def build(recipe: recipes.Recipe, architecture: str | None = None) -> keras.Model:
    """The recipe's model for images of any size, under the current dtype policy.

    With `model: initial`, it is of this `architecture` (`architecture_of`).
    """
    scale = {"mean": recipe.mean, "std": recipe.std}
    try:
        if recipe.model == recipes.INITIAL:
            if architecture is None:
                raise ValueError("'initial' is the model of --init_from; name one")
            model = from_architecture(architecture)
        else:
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


def compile_for_training(model: keras.Model, recipe: recipes.Recipe, policy: str) -> list[str]:
    """Compiles the model with the recipe's loss, decay, optimizer and loss scale.

    The optimizer averages gradients over the workers. It and the metrics are built here, so
    that the first step is traced once and a checkpoint's state can be loaded.

    Returns:
        Lines for the user: how it trains otherwise than by Keras's own ops.

    Raises:
        UserError: the optimizer or the key `batch_norm` does not fit the model.
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
    return _faster(model, recipe)


def _faster(model: keras.Model, recipe: recipes.Recipe) -> list[str]:
    """Has a compiled model train by XLA or the fused BatchNorm, and says so in lines."""
    lines = []
    if devices.fuses_batch_norm(recipe.batch_norm, recipe.xla, recipe.deterministic):
        fused = fuse_batch_norm(model)
        if not fused and recipe.batch_norm == "fused":
            raise UserError(
                f"recipe '{recipe.name}', key 'batch_norm': received 'fused', but '{model.name}' "
                "has no BatchNormalization that TensorFlow's op can replace; use auto or keras"
            )
        lines += [f"BatchNorm: {fused} layers train by TensorFlow's fused op"] if fused else []
    if recipe.xla:
        keras_patches.jit_gradients(model)
        lines.append("XLA compiles loss and gradients, at the first step of each stage")
    return lines


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
    architecture: str | None = None,
) -> None:
    """Saves a checkpoint's weights as the run's result: a plain float32 `keras.Model`.

    They are the weights that the recipe evaluates: with `evaluation.ema`, the average. `finish`
    may change the model before it is saved; `architecture` is that of `model: initial`.
    The model is not compiled and has no class of this project, so it loads wherever Keras 3
    is. It takes RGB images of any size, on the scale 0 to 255.
    """
    trained_under = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float32")
        result = build(recipe, architecture)
    finally:
        keras.config.set_dtype_policy(trained_under)
    averaged_by = averaging_optimizer(recipe, result) if recipe.evaluation.ema else None
    load_weights(result, checkpoint, averaged_by)
    if finish:
        finish(result)
    with whole(path) as unfinished:
        result.save(unfinished)
