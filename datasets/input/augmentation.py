"""From JPEGs to a batch of uint8 images, by draws from a given seed.

Each draw is a function of the seed alone. So an image looks the same for any number of
threads, and a resumed run sees the same images as one that was never interrupted.
"""

import math
from typing import Any

import tensorflow as tf

from core.settings import Augmentation
from datasets.input.fused_jpeg import EXACT, decode_windows, sizes_of

TRIES = 10  # of a random crop, as in torchvision


def to_uint8(image: Any) -> Any:
    """Rounds and clips a float image on the scale 0 to 255 to uint8."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


def random_windows(
    sizes: Any, seed: Any, area: tuple[float, float], aspect: tuple[float, float], flip: bool = True
) -> Any:
    """The window of each image that a random resized crop takes, and whether it is mirrored.

    The algorithm of torchvision's `RandomResizedCrop` for a whole batch. It draws ten windows:
    an area, uniform in its range, and an aspect ratio, uniform in its logarithm. The first that
    fits gets a uniform place. If none fits, it is the largest centred window whose aspect lies
    in the range. (TensorFlow's `sample_distorted_bounding_box` draws areas that are not uniform.)

    Args:
        sizes: `[n, 2]` int32, heights and widths of the images in pixels.
        seed: `[2]` int64.
        area: smallest and largest share of the image.
        aspect: smallest and largest width / height.
        flip: mirror half of them.

    Returns:
        `[n, 5]` int32: top, left, height, width, mirrored (0 or 1).
    """
    count = tf.shape(sizes)[0]
    draws = tf.random.stateless_uniform((count, 2 * TRIES + 3), seed)
    high, wide = (tf.cast(sizes[:, i], tf.float32) for i in (0, 1))
    areas = (high * wide)[:, None] * (area[0] + (area[1] - area[0]) * draws[:, :TRIES])
    low, upper = math.log(aspect[0]), math.log(aspect[1])
    ratios = tf.exp(low + (upper - low) * draws[:, TRIES : 2 * TRIES])
    heights, widths = tf.round(tf.sqrt(areas / ratios)), tf.round(tf.sqrt(areas * ratios))
    fits = (heights >= 1) & (heights <= high[:, None]) & (widths >= 1) & (widths <= wide[:, None])
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)[:, None]
    any_fits = tf.reduce_any(fits, axis=1)

    def chosen(drawn: Any, otherwise: Any) -> Any:
        return tf.where(any_fits, tf.gather(drawn, first, batch_dims=1)[:, 0], otherwise)

    height = chosen(heights, tf.clip_by_value(tf.round(wide / aspect[0]), 1, high))
    width = chosen(widths, tf.clip_by_value(tf.round(high * aspect[1]), 1, wide))
    top, left = (
        tf.where(any_fits, tf.minimum(tf.floor(draws[:, -3 + i] * (f + 1)), f), tf.floor(f / 2))
        for i, f in enumerate((high - height, wide - width))
    )
    mirrored = tf.cast(draws[:, -1] < (0.5 if flip else 0.0), tf.float32)
    return tf.cast(tf.stack([top, left, height, width, mirrored], axis=1), tf.int32)


def load(jpegs: Any, seed: Any, height: int, width: int, settings: Augmentation) -> Any:
    """A batch of augmented training images, `[n, height, width, 3]` uint8, RGB.

    Args:
        jpegs: `[n]` strings, the encoded images.
        seed: `[2]` int64, for the whole batch.
        height, width: of the result, in pixels.
        settings: which augmentations.
    """
    sizes = sizes_of(jpegs)
    if settings.crop == "random_resized":
        windows = random_windows(sizes, seed, settings.area, settings.aspect, settings.flip)
    else:
        windows = tf.pad(sizes, [[0, 0], [2, 1]])  # the whole image, not mirrored
    images = decode_windows(jpegs, windows, height, width, scaled=settings.scaled_decode)
    if settings.colour:
        from datasets.input.colour import jitter

        seeds = tf.random.split(seed, jpegs.shape[0])
        images = tf.map_fn(
            lambda x: to_uint8(jitter(tf.cast(x[0], tf.float32), x[1], settings.colour)),
            (images, seeds),
            fn_output_signature=tf.uint8,
        )
    if settings.crop != "random_resized":
        images = shift_and_flip(images, seed, settings)
    return images


def shift_and_flip(images: Any, seed: Any, settings: Augmentation) -> Any:
    """Pads and crops each image at random, and flips half of them.

    A crop and a flip only choose rows and columns: two gathers over the batch, instead of
    several ops for each image.

    Args:
        images: `[batch, height, width, 3]` uint8, as the result.
        seed: `[2]` int64.
        settings: `crop: pad` shifts, `flip` flips.
    """
    batch, height, width, _ = images.shape
    pads = settings.crop == "pad"
    rows, columns = (round(n * settings.padding) if pads else 0 for n in (height, width))
    if not (rows or columns or settings.flip):
        return images
    padded = tf.pad(images, [[0, 0], [rows] * 2, [columns] * 2, [0, 0]], settings.fill.upper())
    down, right, flip = tf.unstack(tf.random.stateless_uniform((3, batch, 1), seed))
    x = tf.range(width)
    flip = flip < (0.5 if settings.flip else 0.0)
    x = tf.where(flip, x[::-1], x)
    x += tf.cast(right * (2 * columns + 1), tf.int32)
    if rows:
        y = tf.range(height) + tf.cast(down * (2 * rows + 1), tf.int32)
        padded = tf.gather(padded, y, axis=1, batch_dims=1)
    return tf.ensure_shape(tf.gather(padded, x, axis=2, batch_dims=1), images.shape)


def centre_crop(jpeg: Any, height: Any, width: Any = None) -> Any:
    """The `[height, width, 3]` uint8 centre of the image, for evaluation; by default a square.

    The image keeps its resolution. One that is too small is first enlarged to hold the crop.
    """

    def crop_only() -> Any:
        corner = (shape - crop) // 2
        return tf.image.decode_and_crop_jpeg(
            jpeg, tf.concat([corner, crop], 0), channels=3, **EXACT
        )

    def enlarge() -> Any:
        scale = tf.reduce_max(crop / shape)
        new = tf.maximum(crop, tf.cast(tf.round(tf.cast(shape, tf.float64) * scale), tf.int32))
        image = tf.image.resize(tf.io.decode_jpeg(jpeg, channels=3, **EXACT), new)
        corner = (new - crop) // 2
        return to_uint8(tf.slice(image, [*tf.unstack(corner), 0], [*tf.unstack(crop), 3]))

    width = height if width is None else width
    shape = tf.io.extract_jpeg_shape(jpeg)[:2]
    crop = tf.stack([height, width])
    image = tf.cond(tf.reduce_all(shape >= crop), crop_only, enlarge)
    if isinstance(height, int) and isinstance(width, int):
        return tf.ensure_shape(image, (height, width, 3))
    return image
