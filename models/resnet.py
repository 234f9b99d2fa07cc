"""ResNets (He et al. 2015) in the ImageNet form and in a small one for 28 to 32 pixels.

Both are functional models of Keras's own layers: a saved `.keras` file loads without this
module, on any backend. They normalise RGB on the scale 0 to 255 and return float32 logits,
also under a mixed-precision policy. Layers have fixed names, such as `stage2_block1_conv2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import layers

from models.parts import MEAN, STD, Size, Tensor, normalised_input

# Depth: (bottleneck blocks?, blocks of each stage). He et al. 2015, table 1.
IMAGENET: dict[int, tuple[bool, tuple[int, ...]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
IMAGENET_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # channels out of a bottleneck over those of its 3x3

# Depth: blocks of each of the three stages; two convolutions a block, stem and head.
SMALL: dict[int, int] = {8: 1, 14: 2, 20: 3}

# The original run's batch normalisation.
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-4
BLURRED_CHANNELS = 16  # from so many, `blur_pool` blurs; FFCV's number


def imagenet_resnet(
    depth: int,
    image_size: Size,
    classes: int,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    initial_scale: float = 1.0,
    zero_gamma: bool = True,
    blur_pool: bool = False,
) -> keras.Model:
    """The ResNet of the original run, v1.5 of NVIDIA and torchvision; `build_model` says more.

    A bottleneck strides in its 3x3 convolution, a basic block in its first one; a shortcut is
    a strided 1x1 convolution where the shape changes. The total stride is 32.

    Args:
        depth: 18, 34, 50, 101 or 152.
        image_size: `(height, width)` in pixels; None for any.
        classes: number of logits.
        mean, std: of the R, G and B channels, 0 to 255; by default the original's.
        initial_scale: variance of a convolution's initial kernel times its fan-in. 1 is
            TF1's and the original's: its log begins with an L2 term of 2.676, which is
            2e-4 / 2 * sum(kernel ** 2) at scale 1. He et al. use 2.
        zero_gamma: whether the gamma of each block's last batch normalisation starts at 0;
            the block then starts as its shortcut (Goyal et al. 2017).
        blur_pool: blur the input of each strided convolution of 16 or more channels (Zhang
            2019), as FFCV's `BlurPoolConv2d` does; `_Builder.blurred` says how.
    """
    if depth not in IMAGENET:
        raise ValueError(f"Received: depth={depth!r}; known: {', '.join(map(str, IMAGENET))}")
    bottleneck, blocks = IMAGENET[depth]
    net = _Builder(initial_scale, zero_gamma, bottleneck, blur_pool)
    inputs, x = normalised_input(image_size, mean, std)
    # 3 on every side whatever the size; 'same' would pad even sizes by 2 and 3.
    x = layers.ZeroPadding2D(3, name="stem_pad")(x)
    x = layers.ReLU(name="stem_relu")(net.conv_bn(x, 64, 7, 2, "stem_{}"))
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    x = net.stages(x, blocks, IMAGENET_WIDTHS)
    return _classifier(inputs, x, classes, name=f"resnet{depth}")


def small_resnet(
    depth: int,
    image_size: Size,
    classes: int,
    *,
    widths: Sequence[int] = (32, 64, 128),
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    initial_scale: float = 1.0,
    zero_gamma: bool = True,
) -> keras.Model:
    """A ResNet for 28 to 32 pixels: a 3x3 stem of stride 1, stages of strides 1, 2 and 2.

    After the CIFAR form of He et al. 2015, section 4.2, but wider and with 1x1
    convolutions where the shape changes.

    Args:
        depth: 8, 14 or 20: one, two or three blocks a stage.
        widths: channels of the three stages.
        image_size, classes, mean, std, initial_scale, zero_gamma: as in `imagenet_resnet`.
    """
    if depth not in SMALL:
        raise ValueError(f"Received: depth={depth!r}; known: {', '.join(map(str, SMALL))}")
    if len(widths) != 3:
        raise ValueError(f"widths must be three numbers. Received: {widths!r}")
    net = _Builder(initial_scale, zero_gamma, bottleneck=False)
    inputs, x = normalised_input(image_size, mean, std)
    x = layers.ReLU(name="stem_relu")(net.conv_bn(x, widths[0], 3, 1, "stem_{}"))
    x = net.stages(x, (SMALL[depth],) * 3, widths)
    return _classifier(inputs, x, classes, name=f"resnet{depth}")


def _classifier(inputs: Tensor, x: Tensor, classes: int, name: str) -> keras.Model:
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    kernel = keras.initializers.RandomNormal(stddev=0.01)  # the original's
    head = layers.Dense(classes, kernel_initializer=kernel, dtype="float32", name="logits")
    return keras.Model(inputs, head(x), name=name)


@dataclass(frozen=True)
class _Builder:
    """Adds a network's layers to a tensor `x`; they share its options."""

    initial_scale: float
    zero_gamma: bool
    bottleneck: bool
    blur_pool: bool = False

    def stages(self, x: Tensor, blocks: Sequence[int], widths: Sequence[int]) -> Tensor:
        """Stages of residual blocks; each but the first halves the resolution."""
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            for block in range(1, count + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = self._block(x, width, stride, f"stage{stage}_block{block}")
        return x

    def _block(self, x: Tensor, width: int, stride: int, name: str) -> Tensor:
        # (channels, kernel size, stride) of each convolution
        if self.bottleneck:
            plan = [(width, 1, 1), (width, 3, stride), (width * EXPANSION, 1, 1)]
        else:
            plan = [(width, 3, stride), (width, 3, 1)]
        channels = plan[-1][0]
        shortcut = x
        if stride != 1 or x.shape[-1] != channels:
            shortcut = self.conv_bn(x, channels, 1, stride, f"{name}_shortcut_{{}}")
        for number, convolution in enumerate(plan, 1):
            last = number == len(plan)
            x = self.conv_bn(x, *convolution, f"{name}_{{}}{number}", last and self.zero_gamma)
            if not last:
                x = layers.ReLU(name=f"{name}_relu{number}")(x)
        x = layers.Add(name=f"{name}_add")([shortcut, x])
        return layers.ReLU(name=f"{name}_out")(x)

    def conv_bn(
        self, x: Tensor, filters: int, size: int, stride: int, name: str, zero_gamma: bool = False
    ) -> Tensor:
        """A convolution and its batch normalisation; `{}` in `name` becomes `conv` or `bn`."""
        if self.blur_pool and stride > 1 and x.shape[-1] >= BLURRED_CHANNELS:
            x = self.blurred(x, name.format("blur"))
        # An initializer for each layer: a shared one repeats its values for equal shapes.
        kernel = keras.initializers.VarianceScaling(
            self.initial_scale, mode="fan_in", distribution="truncated_normal"
        )
        options = {"use_bias": False, "kernel_initializer": kernel, "name": name.format("conv")}
        padding = "valid" if size == 7 else "same"  # the 7x7 one has a padding layer before it
        x = layers.Conv2D(filters, size, stride, padding, **options)(x)
        gamma = "zeros" if zero_gamma else "ones"
        options = {"gamma_initializer": gamma, "name": name.format("bn")}
        return layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, **options)(x)

    def blurred(self, x: Tensor, name: str) -> Tensor:
        """`x`, each channel blurred by (1, 2, 1) / 4 in both directions, black beyond the edge.

        What is finer than the stride is taken away before the convolution leaves pixels out.
        The kernel never trains.
        """
        kernel = keras.initializers.Constant(
            [[[[a * b / 16]] for a in (1, 2, 1)] for b in (1, 2, 1)]
        )
        options = {"use_bias": False, "depthwise_initializer": kernel, "trainable": False}
        return layers.DepthwiseConv2D(3, padding="same", name=name, **options)(x)
