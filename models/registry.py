"""Models by name."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from models import resnet

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    **{f"resnet{depth}": partial(resnet.imagenet_resnet, depth) for depth in resnet.IMAGENET},
    **{f"resnet{depth}": partial(resnet.small_resnet, depth) for depth in resnet.SMALL},
}


def names() -> tuple[str, ...]:
    """The names that `build_model` knows."""
    return tuple(_BUILDERS)


def build_model(name: str, image_size: resnet.Size, classes: int, **arguments: Any) -> keras.Model:
    """A new classifier with random weights.

    Args:
        name: one of `names()`.
        image_size: `(height, width)` in pixels; `(None, None)` takes any size. The
            weights fit a model of any other size.
        classes: number of logits.
        **arguments: see `resnet.imagenet_resnet` and `resnet.small_resnet`.

    Returns:
        A functional `keras.Model` from RGB images on the scale 0 to 255, float32
        `(batch, height, width, 3)` (uint8 is cast), to float32 logits `(batch, classes)`.

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
