"""Starting from a trained model: its weights by layer, and its architecture for other classes.

Both take functional models whose layers stand side by side, as those of this package do, and
many of `keras.applications`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Layers that scale pixels stay in float32: bfloat16 cannot tell 200 from 200.4.
SCALING = ("Normalization", "Rescaling")
SHOWN = 3  # layers that an error names

Scale = tuple[list[float], list[float]]


def load_source(path: Path) -> keras.Model:
    """A saved Keras model, not compiled. No code in the file is run.

    Raises:
        ValueError: Keras cannot load it; the message is Keras's, in a line.
    """
    try:
        return keras.saving.load_model(str(path), compile=False)
    except Exception as error:  # Keras, h5py and zipfile raise of every class on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Keras cannot load it: {reason[:300]}") from None


def head_of(model: keras.Model) -> keras.Layer:
    """The last layer with weights, which makes the logits.

    Raises:
        ValueError: no layer has weights.
    """
    with_weights = [layer for layer in model.layers if layer.weights]
    if not with_weights:
        raise ValueError(f"model '{model.name}' has no layer with weights")
    return with_weights[-1]


def transfer_weights(
    source: keras.Model, target: keras.Model, new_head: bool = False
) -> tuple[str, ...]:
    """Gives the layers of a model the weights of those of the same names in another one.

    Args:
        source, target: their layers have the same names and shapes; the heads, `head_of`, may
            differ. The statistics of BatchNorm are weights, too.
        new_head: the head of the target stays as it is even where the source's would fit.

    Returns:
        The names of the layers with weights that stay as they are: the head's, or none.

    Raises:
        ValueError: it names what does not fit, with the shapes; nothing has been changed.
    """
    given = {layer.name: layer for layer in source.layers if layer.weights}
    wanted = {layer.name: layer for layer in target.layers if layer.weights}
    fresh: tuple[str, ...] = ()
    head, its_head = head_of(target), head_of(source)
    if new_head or head.name != its_head.name or _shapes(head) != _shapes(its_head):
        fresh = (head.name,)
        wanted.pop(head.name)
        given.pop(its_head.name)
    problems = []
    for name in sorted({*given, *wanted}, key=[*wanted, *given].index):
        if name not in given:
            problems.append(f"layer '{name}' ({_text(wanted[name])}) is not in it")
        elif name not in wanted:
            problems.append(f"its layer '{name}' ({_text(given[name])}) has no counterpart")
        elif _shapes(given[name]) != _shapes(wanted[name]):
            both = f"{_text(given[name])} in it, {_text(wanted[name])} here"
            problems.append(f"layer '{name}' is {both}")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if problems[SHOWN:] else ""
        raise ValueError(
            f"{len(problems)} of {len({*given, *wanted})} layers do not fit: "
            f"{'; '.join(problems[:SHOWN])}{more}"
        )
    for name, layer in wanted.items():
        for variable, value in zip(layer.weights, given[name].weights, strict=True):
            variable.assign(value)
    return fresh


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in layer.weights]


def _text(layer: keras.Layer) -> str:
    """Names and shapes of a layer's weights, such as `kernel 3x3x16x32`."""
    return ", ".join(
        f"{variable.name} {'x'.join(map(str, variable.shape)) or 'scalar'}"
        for variable in layer.weights
    )


def scale_of(model: keras.Model) -> Scale | None:
    """Mean and standard deviation by which a model normalises R, G and B, from 0 to 255.

    None where its first layer does no such thing.
    """
    first = next((x for x in model.layers if not isinstance(x, keras.layers.InputLayer)), None)
    if not isinstance(first, keras.layers.Normalization) or first.invert:
        return None
    config = first.get_config()
    if config["mean"] is None:  # adapted to data
        config = {"mean": np.array(first.mean), "variance": np.array(first.variance)}
    mean, variance = (np.ravel(config[name]).astype(float) for name in ("mean", "variance"))
    if mean.size not in (1, 3) or not np.all(variance > 0):
        return None
    mean, std = (np.broadcast_to(values, 3).tolist() for values in (mean, np.sqrt(variance)))
    return mean, std


def architecture_of(model: keras.Model, classes: int) -> str:
    """A model's architecture as a classifier that this project can train, as JSON.

    It takes images of any size, and ends in float32 logits for so many classes: the last
    `Dense` gets their number, and loses its softmax. The layers follow the dtype policy under
    which `from_architecture` builds them.

    Raises:
        ValueError: the model is none of images, is not functional, has layers within layers, or
            does not end in a `Dense`.
    """
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    config = json.loads(model.to_json())["config"]
    if not {"layers", "input_layers", "output_layers"} <= set(config):
        raise ValueError(f"it is a {type(model).__name__}, which is no functional model")
    if len(model.inputs) != 1 or len(model.outputs) != 1 or model.inputs[0].shape[3:] != (3,):
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
        raise ValueError(f"it takes {shapes}, not RGB images (batch, height, width, 3) alone")
    for layer in model.layers:
        own: dict[str, Any] = {}
        layer.save_own_variables(own)
        if len(own) < len(layer.weights):
            raise ValueError(
                f"its layer '{layer.name}' ({type(layer).__name__}) holds other layers; only "
                "models whose layers stand side by side can be trained in phases"
            )
    head = head_of(model)
    if not isinstance(head, keras.layers.Dense):
        kind = type(head).__name__
        raise ValueError(f"its last layer with weights, '{head.name}', is no Dense but a {kind}")
    place = [layer["name"] for layer in config["layers"]].index(head.name)
    for number, layer in enumerate(config["layers"]):
        kind, settings = layer["class_name"], layer["config"]
        layer.pop("build_config", None)  # it holds the image size
        if kind == "InputLayer":
            settings["batch_shape"] = [None, None, None, 3]
        elif number >= place or kind in SCALING:
            settings["dtype"] = "float32"
        else:
            settings.pop("dtype", None)
        if number > place and kind != "Rescaling":
            raise ValueError(
                f"it ends in '{layer['name']}', a {kind}; it has to end in logits, so save "
                f"it without what follows '{head.name}'"
            )
    config["layers"][place]["config"] |= {"units": classes, "activation": "linear"}
    return json.dumps(config)


def from_architecture(text: str) -> keras.Model:
    """A model with random weights of an architecture of `architecture_of`.

    Raises:
        ValueError: it cannot be built for images of any size.
    """
    try:
        return keras.Model.from_config(json.loads(text))
    except Exception as error:  # each layer has its own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"it cannot be built for images of any size: {reason}") from None


def frozen_in(model: keras.Model) -> Sequence[str]:
    """The names of layers with weights of which none trains."""
    return [
        layer.name
        for layer in model.layers
        if layer.weights and not any(variable.trainable for variable in layer.weights)
    ]
