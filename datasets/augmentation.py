"""From JPEGs to a batch of uint8 images, in TensorFlow ops that draw by a given seed.

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


def load(jpeg: Any, seed: Any, height: int, width: int, settings: Augmentation) -> Any:
    """A training image, before what `shift_and_flip` does to the whole batch.

    Args:
        jpeg: scalar string, the encoded image.
        seed: `[2]` int64.
        height, width: of the result, in pixels.
        settings: which augmentations.

    Returns:
        `[height, width, 3]` uint8, RGB.
    """
    if settings.crop == "random_resized":
        image = random_resized_crop(jpeg, seed, height, width, settings.area, settings.aspect)
    else:
        image = resize(tf.io.decode_jpeg(jpeg, channels=3, **FAST), height, width)
    if settings.colour:
        from datasets.colour import jitter

        image = to_uint8(jitter(tf.cast(image, tf.float32), seed, settings.colour))
    return image


def shift_and_flip(images: Any, seed: Any, settings: Augmentation) -> Any:
    """Pads and crops each image at random, and flips half of them.

    A crop and a flip only choose rows and columns, so both are two gathers over the
    batch instead of several ops for each image.

    Args:
        images: `[batch, height, width, 3]` uint8.
        seed: `[2]` int64.
        settings: `crop: pad` shifts, `flip` flips.

    Returns:
        The same shape and dtype.
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

    The image is used at its own resolution; one that is too small is enlarged first,
    until it just holds the crop.
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
