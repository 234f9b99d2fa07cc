"""The networks by their names in a recipe."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from models.parts import Size
from models.resnet import IMAGENET, SMALL, imagenet_resnet, small_resnet
from models.speedrun import whitened_cnn

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    **{f"resnet{depth}": partial(imagenet_resnet, depth) for depth in IMAGENET},
    **{f"resnet{depth}": partial(small_resnet, depth) for depth in SMALL},
    "whitened_cnn": whitened_cnn,
}


def names() -> tuple[str, ...]:
    """The names that `build_model` knows."""
    return tuple(_BUILDERS)


def build_model(name: str, image_size: Size, classes: int, **arguments: Any) -> keras.Model:
    """A new classifier with random weights.

    Args:
        name: one of `names()`.
        image_size: `(height, width)` in pixels, None for any. The weights fit any size.
        classes: number of logits.
        **arguments: see `imagenet_resnet`, `small_resnet` and `whitened_cnn`.

    Returns:
        A functional `keras.Model` from RGB images on the scale 0 to 255, float32
        `(batch, height, width, 3)` (uint8 is cast), to float32 logits `(batch, classes)`.

    Raises:
        ValueError: an unknown name or argument.

    Example:
        >>> build_model("resnet8", (32, 32), classes=10, widths=(16, 32, 64)).output_shape
        (None, 10)
    """
    if name not in _BUILDERS:
        raise ValueError(f"Unknown model. Received: name={name!r}; known: {', '.join(names())}")
    known = list(inspect.signature(_BUILDERS[name]).parameters)[2:]
    if unknown := ", ".join(sorted(set(arguments) - set(known))):
        raise ValueError(
            f"Unknown arguments for {name}. Received: {unknown}; known: {', '.join(known)}"
        )
    return _BUILDERS[name](image_size, classes, **arguments)
