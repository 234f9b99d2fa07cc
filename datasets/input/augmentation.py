"""From JPEGs to a batch of uint8 images, by draws from a given seed.

Each draw is a function of the seed alone. So an image looks the same for any number of
threads, and a resumed run sees the same images as one that was never interrupted.
"""

import importlib
import math
import os
import sys
import warnings
from typing import Any

import tensorflow as tf

from core.settings import Augmentation, ColourJitter
from datasets.input.fused_jpeg import decode_windows, sizes_of, to_uint8

TRIES = 10  # of a random crop, as in torchvision


def random_windows(
    sizes: Any, seed: Any, area: tuple[float, float], aspect: tuple[float, float], flip: Any = True
) -> Any:
    """The windows of a random resized crop, as `decode_windows` takes them.

    The algorithm of torchvision's `RandomResizedCrop` for a whole batch. It draws ten windows:
    an area, uniform in its range, and an aspect ratio, uniform in its logarithm. The first that
    fits gets a uniform place. If none fits, it is the largest centred window whose aspect lies
    in the range. (TensorFlow's `sample_distorted_bounding_box` draws areas that are not uniform.)

    Args:
        sizes: `[n, 2]` int32, heights and widths of the images in pixels.
        seed: `[2]` int64.
        area: smallest and largest share of the image.
        aspect: smallest and largest width / height.
        flip: whether to mirror half of them, drawn at random; or which to mirror, `[n]` bool.
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
    mirrored = tf.cast(_mirrored(draws[:, -1], flip), tf.float32)
    return tf.cast(tf.stack([top, left, height, width, mirrored], axis=1), tf.int32)


def _mirrored(draws: Any, flip: Any) -> Any:
    """Which images to mirror: half of them, none, or those that are given."""
    return draws < (0.5 if flip else 0.0) if isinstance(flip, bool) else flip


def alternating_flips(jpegs: Any, labels: Any, names: Any, seed: int, epoch: Any) -> Any:
    """Which of `n` images are mirrored in an epoch, `[n]` bool: each of them in every other one.

    The alternating flip of airbench (Jordan 2024, https://arxiv.org/abs/2404.00498). Which half
    begins mirrored is a hash of the seed, the label and the file name without folder and
    extension. So nothing is remembered, and records of the same images at several sizes agree.
    An image without a name is known by the bytes of its JPEG, which differ between sizes.

    Args:
        jpegs, labels, names: `[n]` each; strings, integers and strings.
        epoch: number of the pass over the data, from the beginning of the run.
    """
    stems = tf.strings.regex_replace(names, r"^.*/|\.[^./]*$", "")
    known = tf.strings.join([tf.strings.as_string(labels), stems], "/")
    first = tf.strings.to_hash_bucket_strong(
        tf.where(tf.equal(names, ""), jpegs, known), 2, [seed, 0]
    )
    return (first + epoch) % 2 == 1


def load(
    jpegs: Any, seed: Any, height: int, width: int, settings: Augmentation, mirrored: Any = None
) -> Any:
    """A batch of augmented images, `[n, height, width, 3]` uint8, RGB, from `[n]` JPEGs.

    `seed` is `[2]` int64, for the whole batch. `mirrored`, `[n]` bool, is which images to mirror;
    without it, the settings' `flip` decides.
    """
    sizes = sizes_of(jpegs)
    flip = settings.flip if mirrored is None else mirrored
    if settings.crop == "random_resized":
        windows = random_windows(sizes, seed, settings.area, settings.aspect, flip)
    else:
        windows = tf.pad(sizes, [[0, 0], [2, 1]])  # the whole image, not mirrored
    decoder = {"exact": settings.exact_decode, "scaled": settings.scaled_decode}
    images = decode_windows(jpegs, windows, height, width, **decoder)
    if settings.colour:
        seeds = tf.random.split(seed, jpegs.shape[0])
        images = tf.map_fn(
            lambda x: to_uint8(jitter(tf.cast(x[0], tf.float32), x[1], settings.colour)),
            (images, seeds),
            fn_output_signature=tf.uint8,
        )
    if settings.crop == "random_resized":
        return images
    return shift_and_flip(images, seed, settings, mirrored)


# What addons imports from Keras 2, and where tf-keras has it.
STAND_INS = {
    "keras.src.engine": "tf_keras.src.engine",
    "keras.src.engine.keras_tensor": "tf_keras.src.engine.keras_tensor",
    "tensorflow.keras": "tf_keras",
    "tensorflow.keras.optimizers": "tf_keras.optimizers",
    "tensorflow.keras.optimizers.legacy": "tf_keras.optimizers.legacy",
}


def import_addons() -> Any:
    """The module `tensorflow_addons`, imported with tf-keras in place of Keras 3.

    It is at its end of life and needs Keras 2. Its compiled kernels were built for another
    TensorFlow, so its Python ops are used.
    """
    if "tensorflow_addons" in sys.modules:
        return sys.modules["tensorflow_addons"]
    before = {name: sys.modules.get(name) for name in STAND_INS}
    keras_of_tensorflow = tf.__dict__["keras"]
    os.environ["TF_ADDONS_PY_OPS"] = "1"
    try:
        for name, stand_in in STAND_INS.items():
            sys.modules[name] = importlib.import_module(stand_in)
        tf.__dict__["keras"] = sys.modules["tensorflow.keras"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is at its end of life
            return importlib.import_module("tensorflow_addons")
    finally:
        tf.__dict__["keras"] = keras_of_tensorflow
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def jitter(image: Any, seed: Any, settings: ColourJitter) -> Any:
    """Changes brightness, saturation, hue and contrast of a float32 image at random.

    Hue and saturation change in YIQ, as in the original, by addons' op. That op draws from
    TensorFlow's global generator, so this augmentation is the only one that `seed` does not
    repeat. The image is on the scale 0 to 255; the result may lie outside it.
    """
    first_seed, second_seed = tf.unstack(tf.random.split(seed, 2))
    image = tf.image.stateless_random_brightness(image, 255.0 * settings.brightness, first_seed)
    image = import_addons().image.random_hsv_in_yiq(
        image,
        max_delta_hue=settings.hue * math.pi,
        lower_saturation=1 - settings.saturation,
        upper_saturation=1 + settings.saturation,
    )
    if settings.contrast:  # TensorFlow refuses a range of none
        low, high = 1 - settings.contrast, 1 + settings.contrast
        image = tf.image.stateless_random_contrast(image, low, high, second_seed)
    return image


def shift_and_flip(images: Any, seed: Any, settings: Augmentation, mirrored: Any = None) -> Any:
    """Pads and crops each image at random, and flips half of them, or those of `mirrored`.

    A crop and a flip only choose rows and columns: two gathers over the batch, instead of
    several ops for each image.
    """
    batch, height, width, _ = images.shape
    pads = settings.crop == "pad"
    rows, columns = (round(n * settings.padding) if pads else 0 for n in (height, width))
    if not (rows or columns or settings.flip):
        return images
    padded = tf.pad(images, [[0, 0], [rows] * 2, [columns] * 2, [0, 0]], settings.fill.upper())
    down, right, flip = tf.unstack(tf.random.stateless_uniform((3, batch, 1), seed))
    x = tf.range(width)
    flip = _mirrored(flip, settings.flip if mirrored is None else mirrored[:, None])
    x = tf.where(flip, x[::-1], x)
    x += tf.cast(right * (2 * columns + 1), tf.int32)
    if rows:
        y = tf.range(height) + tf.cast(down * (2 * rows + 1), tf.int32)
        padded = tf.gather(padded, y, axis=1, batch_dims=1)
    return tf.ensure_shape(tf.gather(padded, x, axis=2, batch_dims=1), images.shape)
