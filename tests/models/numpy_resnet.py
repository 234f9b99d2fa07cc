"""ResNet-50's forward pass in NumPy, in float64, written from the papers.

It shares nothing with `models` but the names under which the weights are found.
Arrays are `(batch, height, width, channels)`, kernels `(height, width, in, out)`.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Weights = Callable[[str], list[np.ndarray]]  # layer name -> its arrays

# He et al. 2015, table 1, column "50-layer".
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
BN_EPSILON = 1e-4


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after, by the formula in TensorFlow's `tf.nn` documentation."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def windows(x: np.ndarray, kernel: int, stride: int, padding: str, fill: float) -> np.ndarray:
    """All windows of `x`, `(batch, rows, columns, channels, kernel, kernel)`."""
    if padding == "same":
        rows, columns = (same_padding(size, kernel, stride) for size in x.shape[1:3])
        x = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=fill)
    return sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, padding: str = "same") -> np.ndarray:
    patches = windows(x, kernel.shape[0], stride, padding, fill=0.0)
    return np.tensordot(patches, kernel, axes=((4, 5, 3), (0, 1, 2)))


def max_pool(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    return windows(x, size, stride, "same", fill=-np.inf).max(axis=(4, 5))


def batch_norm(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    gamma, beta, mean, variance = weights
    return gamma * (x - mean) / np.sqrt(variance + BN_EPSILON) + beta


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def bottleneck(x: np.ndarray, weights: Weights, name: str, width: int, stride: int) -> np.ndarray:
    """1x1, 3x3 with the stride (v1.5), 1x1 to four times the channels."""
    y = relu(batch_norm(convolve(x, *weights(f"{name}_conv1"), 1), weights(f"{name}_bn1")))
    y = relu(batch_norm(convolve(y, *weights(f"{name}_conv2"), stride), weights(f"{name}_bn2")))
    y = batch_norm(convolve(y, *weights(f"{name}_conv3"), 1), weights(f"{name}_bn3"))
    if x.shape[-1] != 4 * width:
        x = convolve(x, *weights(f"{name}_shortcut_conv"), stride)
        x = batch_norm(x, weights(f"{name}_shortcut_bn"))
    return relu(x + y)


def resnet50(
    images: np.ndarray, weights: Weights, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Logits `(batch, classes)` of RGB `images` on the scale 0 to 255."""
    x = (images.astype(np.float64) - mean) / std
    x = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = convolve(x, *weights("stem_conv"), 2, padding="valid")
    x = max_pool(relu(batch_norm(x, weights("stem_bn"))), 3, 2)
    for stage, (blocks, width) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = bottleneck(x, weights, f"stage{stage}_block{block}", width, stride)
    kernel, bias = weights("logits")
    return x.mean(axis=(1, 2)) @ kernel + bias
