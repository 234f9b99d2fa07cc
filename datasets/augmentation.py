"""From one JPEG to one uint8 image, in TensorFlow ops that draw by a given seed.

Each draw is a function of the seed alone, so an image looks the same whatever the
number of threads, and a run that is resumed sees what it would have seen.
"""

from typing import Any

import tensorflow as tf

from datasets.settings import Augmentation

# libjpeg-turbo's fast DCT, and no smoothing of the chroma: the decoder of a training
# pipeline; evaluation uses the exact one.
FAST = {"dct_method": "INTEGER_FAST", "fancy_upscaling": False}
EXACT = {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": True}


def to_uint8(image: Any) -> Any:
    """Rounds and clips a float image on the scale 0 to 255 to uint8."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


def resize(image: Any, height: int, width: int) -> Any:
    """Bilinear resize of a `[h, w, 3]` uint8 image; none where it has the size."""
    same = tf.reduce_all(tf.equal(tf.shape(image)[:2], [height, width]))
    image = tf.cond(same, lambda: image, lambda: to_uint8(tf.image.resize(image, (height, width))))
    return tf.ensure_shape(image, (height, width, 3))


def random_resized_crop(
    jpeg: Any,
    seed: Any,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Any:
    """A random crop of the image, of random size and shape, resized to (height, width).

    The crop of the Inception papers: an area and an aspect ratio within the ranges,
    and the whole image where ten draws do not fit. Only the crop is decoded.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(jpeg),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    return resize(tf.image.decode_and_crop_jpeg(jpeg, window, channels=3, **FAST), height, width)


def pad_and_crop(image: Any, seed: Any, padding: float, fill: str) -> Any:
    """Pads a `[height, width, 3]` image by a share of its size and crops it at random."""
    height, width, _ = image.shape
    rows, columns = round(height * padding), round(width * padding)
    padded = tf.pad(image, [[rows, rows], [columns, columns], [0, 0]], mode=fill.upper())
    corners = tf.constant([2 * rows + 1, 2 * columns + 1], tf.float32)
    corner = tf.cast(tf.random.stateless_uniform((2,), seed) * corners, tf.int32)
    return tf.slice(padded, tf.concat([corner, [0]], 0), image.shape)


def augment(jpeg: Any, seed: Any, height: int, width: int, settings: Augmentation) -> Any:
    """A training image.

    Args:
        jpeg: scalar string, the encoded image.
        seed: `[2]` int64.
        height, width: of the result, in pixels.
        settings: which augmentations.

    Returns:
        `[height, width, 3]` uint8, RGB.
    """
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    if settings.crop == "random_resized":
        image = random_resized_crop(jpeg, crop_seed, height, width, settings.area, settings.aspect)
    else:
        image = resize(tf.io.decode_jpeg(jpeg, channels=3, **FAST), height, width)
    if settings.crop == "pad":
        image = pad_and_crop(image, crop_seed, settings.padding, settings.fill)
    if settings.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    if settings.colour:
        from datasets.colour import jitter

        image = to_uint8(jitter(tf.cast(image, tf.float32), flip_seed, settings.colour))
    return tf.ensure_shape(image, (height, width, 3))


def centre_crop(jpeg: Any, size: int) -> Any:
    """The `[size, size, 3]` uint8 centre of the image, for evaluation.

    The image is used at its own resolution; one whose short side is below `size` is
    enlarged to it first.
    """

    def crop_only() -> Any:
        corner = (shape - size) // 2
        return tf.image.decode_and_crop_jpeg(
            jpeg, tf.concat([corner, [size, size]], 0), channels=3, **EXACT
        )

    def enlarge() -> Any:
        scale = size / tf.reduce_min(shape)
        new = tf.maximum(size, tf.cast(tf.round(tf.cast(shape, tf.float64) * scale), tf.int32))
        image = tf.image.resize(tf.io.decode_jpeg(jpeg, channels=3, **EXACT), new)
        corner = (new - size) // 2
        return to_uint8(image[corner[0] : corner[0] + size, corner[1] : corner[1] + size])

    shape = tf.io.extract_jpeg_shape(jpeg)[:2]
    image = tf.cond(tf.reduce_min(shape) >= size, crop_only, enlarge)
    return tf.ensure_shape(image, (size, size, 3))
