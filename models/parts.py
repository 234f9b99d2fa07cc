"""What the networks share: an input on the scale 0 to 255, and how it is normalised."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

# The original run's input, (RGB - MEAN) / STD on the scale 0 to 255.
MEAN = (121.0, 115.0, 100.0)
STD = (70.0, 68.0, 71.0)

Size = tuple[int | None, int | None]
Tensor = Any  # symbolic; Keras exports no type that covers every backend


def normalised_input(
    image_size: Size, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The input `image` of a network, and the same normalised by its layer `normalise`."""
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise ValueError(f"image_size must be (height, width). Received: {image_size!r}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std need 3 numbers, of std above 0. Received: {mean=}, {std=}")
    inputs = keras.Input((*image_size, 3), dtype="float32", name="image")
    scale = {"mean": [float(m) for m in mean], "variance": [float(s) ** 2 for s in std]}
    # In float32 under every policy: bfloat16 cannot tell 200 from 200.4.
    return inputs, layers.Normalization(**scale, dtype="float32", name="normalise")(inputs)
