"""The weights of a checkpoint, straight from its file.

Keras's own loading walks the whole model for anything that could hold state. Here the
archive is read once, which checks it against its checksum, and each layer takes what was
saved under its name; optimizer and architecture are left alone.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from core.checkpoints import BadCheckpoint

WEIGHTS = "model.weights.h5"  # Keras 3's name of them in a `.keras` archive
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError)


def load_weights(
    model: keras.Model, checkpoint: Path, averaged_by: keras.optimizers.Optimizer | None = None
) -> None:
    """Loads a checkpoint's weights into a built functional model of the same layers.

    Args:
        checkpoint: a `.keras` file.
        averaged_by: the optimizer of the run (without a loss scale), built on the model
            with `use_ema`: its averages of the weights are loaded in their place, but for the
            statistics of BatchNorm, which Keras does not average. Before the first step there
            is no average; the weights are then loaded.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        BadCheckpoint: it is cut short, damaged or of another model; the model may then
            hold a part of it.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            saved = io.BytesIO(archive.read(WEIGHTS))
        with h5py.File(saved, "r") as file:
            _load_layers(model, file["layers"])
            if averaged_by is not None:
                _load_averages(model, file["optimizer"], averaged_by)
    except FileNotFoundError:
        raise
    except (*DAMAGED, ValueError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        is_damaged = isinstance(error, DAMAGED)
        what = "cut short or damaged" if is_damaged else "of another model than the run's recipe"
        raise BadCheckpoint(f"checkpoint '{checkpoint}': {what} ({reason})") from None


def _load_layers(model: keras.Model, groups: Mapping[str, Any]) -> None:
    saved = {group["vars"].attrs["name"]: group["vars"] for group in groups.values()}
    for layer in model.layers:
        if layer.weights:
            if layer.name not in saved:
                raise ValueError(f"it has no layer '{layer.name}'")
            layer.load_own_variables(_arrays(saved[layer.name]))


def _load_averages(
    model: keras.Model, group: Mapping[str, Any], optimizer: keras.optimizers.Optimizer
) -> None:
    saved = _arrays(group.get("inner_optimizer", group)["vars"])  # where there is a loss scale
    known = len(optimizer.variables)
    if len(saved) != known:
        raise ValueError(f"its optimizer has {len(saved)} variables, the recipe's {known}")
    state = {id(v): saved[str(i)] for i, v in enumerate(optimizer.variables)}
    if int(state[id(optimizer.iterations)]) > 0:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            variable.assign(state[id(average)])


def _arrays(group: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The saved variables, by their numbers. HDF5 has no bfloat16; Keras notes it apart."""
    types = {"bfloat16": ml_dtypes.bfloat16}
    return {key: np.array(v, types.get(v.attrs.get("dtype"))) for key, v in group.items()}
