"""Whitening: the first convolution of a network, set by what patches of the images look like."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

WHITENING = "whitening"  # the name of the convolution that `whiten` sets
PATCH = 2  # pixels; the side of its kernel
EPSILON = 5e-4  # added to the variances that whitening divides by


def whitening_kernel(images: Iterable[Any], epsilon: float = EPSILON) -> np.ndarray:
    """A kernel that makes the 2x2 patches of these images white: uncorrelated, of variance 1.

    With the eigenvalues s and the eigenvectors v of the patches' second moments (their mean is
    not subtracted), the filters are v / sqrt(s + epsilon), the smallest s first, and then
    their negatives. So says `init_whiten` of airbench94_muon. An eigenvector's sign is free:
    here its largest entry is positive.

    Args:
        images: normalised, `(height, width, channels)` or batches `(n, height, width,
            channels)`; one array or any iterable of them.
        epsilon: keeps directions without variance from growing without bounds.

    Returns:
        float32 `(2, 2, channels, 8 * channels)`.

    Raises:
        ValueError: no images, or values that are not finite.
    """
    total: Any = 0.0
    count = 0
    for some in images:
        some = np.asarray(some)
        high, wide = (side - PATCH + 1 for side in some.shape[-3:-1])
        shifts = [(y, x) for y in range(PATCH) for x in range(PATCH)]
        parts = [some[..., y : y + high, x : x + wide, :] for y, x in shifts]
        patches = np.concatenate(parts, axis=-1, dtype=np.float64)
        patches = patches.reshape(-1, patches.shape[-1])
        total += patches.T @ patches
        count += len(patches)
    if not count or not np.all(np.isfinite(total)):
        raise ValueError(f"whitening needs images of finite numbers. Received: {count} patches")
    variances, vectors = np.linalg.eigh(total / count)  # a column for each eigenvector
    largest = np.abs(vectors).argmax(axis=0)
    vectors *= np.sign(vectors[largest, range(len(largest))])
    filters = vectors / np.sqrt(np.maximum(variances, 0) + epsilon)
    kernel = np.concatenate([filters, -filters], axis=1, dtype=np.float32)
    return kernel.reshape(PATCH, PATCH, -1, kernel.shape[-1])


def whiten(model: keras.Model, images: Iterable[Any], epsilon: float = EPSILON) -> None:
    """Sets the kernel of the model's layer `whitening` by images of its training set.

    Args:
        model: one with layers `normalise` and `whitening`, such as `whitened_cnn`'s.
        images: RGB on the scale 0 to 255, as the model takes them, in batches `(n, height,
            width, 3)`; a single such array is a list of one. 5,000 images of 32 pixels do.
        epsilon: as in `whitening_kernel`.

    Raises:
        ValueError: the model has no such layer, or there are no images.

    Example:
        >>> model = whitened_cnn((32, 32), classes=10)
        >>> whiten(model, [images[:5000]])
    """
    if not has_whitening(model):
        raise ValueError(f"model '{model.name}' has no layer '{WHITENING}'; whitened_cnn has one")
    normalise = model.get_layer("normalise")
    normalised = (keras.ops.convert_to_numpy(normalise(np.asarray(some))) for some in images)
    model.get_layer(WHITENING).kernel.assign(whitening_kernel(normalised, epsilon))


def has_whitening(model: keras.Model) -> bool:
    """Whether `whiten` knows what to set."""
    return any(layer.name == WHITENING for layer in model.layers)
