"""The plain network of the CIFAR-10 speedruns, and the whitening of its first convolution.

The network is that of Jordan's airbench94 (arXiv 2404.00498; the constants are those of its
`airbench94_muon.py`), which descends from Tysam's hlb-CIFAR10. It is a functional model of
Keras's own layers, as those of `models/resnet.py`. `models/whitening.py` sets its first
convolution by the training images, before the first step.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from models.parts import MEAN, STD, Size, Tensor, normalised_input
from models.whitening import PATCH, WHITENING

GROUPS = 3
# Keras's momentum is the share of the old statistics, as the recipe counts; PyTorch's is 0.4.
# PyTorch's moving variance is the unbiased one, n / (n - 1) times Keras's; over the 1,000 and
# more pixels of a batch that is nothing.
BN_MOMENTUM = 0.6
BN_EPSILON = 1e-12


def whitened_cnn(
    image_size: Size,
    classes: int,
    *,
    widths: Sequence[int] = (64, 256, 256),
    activation: str = "gelu",
    head_std: float = 1.0,
    logit_scale: float = 1 / 256,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> keras.Model:
    """A frozen 2x2 convolution, three groups of two 3x3 convolutions, a global max pool.

    The first convolution has 24 filters and no padding. Its kernel does not train, its bias
    does: the layer `whitening` counts as frozen, so that a copy or a saved model never trains
    the kernel, and the bias is let out of it. A group is [convolution, 2x2 max pool, batch
    normalisation, activation, convolution, batch normalisation, activation]; no batch
    normalisation has a gamma. Convolutions begin as PyTorch's do (uniform, to 1 / sqrt(fan-in)),
    but the first filters of a 3x3 one, as many as it has inputs, begin as the identity.

    Args:
        image_size: `(height, width)` in pixels, from 9; None for any.
        classes: number of logits.
        widths: channels of the three groups.
        activation: a name of Keras's. `gelu` is the exact one, by erf; on a CPU its
            approximation by tanh takes as long, `silu` half of that.
        head_std: standard deviation of the head's initial weights, which are uniform: 1 in
            airbench94_muon; PyTorch's default, 1 / sqrt(3 * inputs) = 0.036, in airbench94.
        logit_scale: what the head's output is multiplied by: 1/256 in airbench94_muon, 1/9
            in airbench94.
        mean, std: of the R, G and B channels, 0 to 255.
    """
    if len(widths) != GROUPS:
        raise ValueError(f"widths must be three numbers. Received: {widths!r}")
    inputs, x = normalised_input(image_size, mean, std)
    least = PATCH - 1 + 2**GROUPS  # one pixel is left for the last group
    if any(side is not None and side < least for side in image_size):
        raise ValueError(f"image_size must be {least} or more. Received: {image_size!r}")
    patch = PATCH * PATCH * 3
    whitening = layers.Conv2D(
        2 * patch,
        PATCH,
        kernel_initializer=_as_in_pytorch(),
        bias_initializer=keras.initializers.RandomUniform(-(patch**-0.5), patch**-0.5),
        trainable=False,
        name=WHITENING,
    )
    x = layers.Activation(activation, name="whitening_out")(whitening(x))
    whitening.bias.trainable = True
    for group, width in enumerate(widths, 1):
        for number in (1, 2):
            name = f"group{group}_{{}}{number}".format
            x = _convolution(x, width, name("conv"))
            if number == 1:
                x = layers.MaxPooling2D(2, name=f"group{group}_pool")(x)
            options = {"momentum": BN_MOMENTUM, "epsilon": BN_EPSILON, "name": name("bn")}
            x = layers.BatchNormalization(scale=False, **options)(x)
            x = layers.Activation(activation, name=name("out"))(x)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    edge = 3**0.5 * head_std  # of a uniform distribution of that standard deviation
    kernel = keras.initializers.RandomUniform(-edge, edge)
    options = {"use_bias": False, "kernel_initializer": kernel, "dtype": "float32"}
    x = layers.Dense(classes, **options, name="head")(x)
    x = layers.Rescaling(logit_scale, dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name="whitened_cnn")


def _as_in_pytorch() -> keras.initializers.Initializer:
    """PyTorch's default for kernels: uniform from -1 / sqrt(fan-in) to 1 / sqrt(fan-in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def _convolution(x: Tensor, filters: int, name: str) -> Tensor:
    """A 3x3 convolution of `x` whose first filters hand on the channels as they are.

    The values are set here: an initializer of this project's would stand in a saved model.
    """
    options = {"use_bias": False, "kernel_initializer": _as_in_pytorch(), "name": name}
    layer = layers.Conv2D(filters, 3, padding="same", **options)
    y = layer(x)
    kernel = np.array(layer.kernel)
    same = min(x.shape[-1], filters)
    kernel[..., :same] = 0
    kernel[1, 1, range(same), range(same)] = 1
    layer.kernel.assign(kernel)
    return y
