"""The validation set as batches: every image once, in batches of static shapes."""

from typing import Any

import tensorflow as tf

from core.settings import Evaluation
from datasets.input.fused_jpeg import decode_windows, sizes_of
from datasets.input.pipeline import options, parse
from datasets.records.schema import Records

# Long over short side of the rectangular crops: common formats of photographs. Fixed,
# so that a crop does not depend on the other images, the batch size or the workers.
ASPECTS = (1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2)
MULTIPLE = 8  # pixels; fast.ai's, and kernels are fast on it
TOLERANCE = 1.01  # an image of such a format, resized to whole pixels, may be a little shorter
PADDING = -1  # the label of the images that fill up the last batch


def crop_shapes(size: int) -> list[tuple[int, int]]:
    """The (height, width) of all rectangular crops whose short side is `size` pixels."""
    sides = [max(size, round(size * aspect) // MULTIPLE * MULTIPLE) for aspect in ASPECTS]
    shapes = [shape for side in sides for shape in ((size, side), (side, size))]
    return list(dict.fromkeys(shapes))


def rectangles(sizes: Any, size: int) -> Any:
    """For each image the largest of the `crop_shapes` that fits into it, `[n, 2]` int32.

    After the validation of fast.ai's DAWNBench record (its `CropArTfm`), which sorts images by
    aspect and crops each batch to its mean aspect.

    Args:
        sizes: `[n, 2]` int32, heights and widths of the images in pixels.
        size: short side of the crops, in pixels.
    """
    crops = tf.constant(crop_shapes(size))
    # Compared at the scale at which the image's short side is `size`.
    room = tf.cast(sizes * size, tf.float64)[:, None] * TOLERANCE
    short = tf.reduce_min(sizes, axis=1)[:, None, None]
    fits = tf.reduce_all(tf.cast(crops * short, tf.float64) <= room, axis=2)
    return tf.gather(crops, tf.argmax(tf.where(fits, tf.reduce_prod(crops, axis=1), 0), axis=1))


def centre_windows(sizes: Any, crop: Any) -> Any:
    """The windows of central crops, as `decode_windows` takes them, `[n, 7]` int32.

    An image keeps its resolution. One that is too small is first enlarged to hold the crop.

    Args:
        sizes: `[n, 2]` int32, heights and widths of the images in pixels.
        crop: `[2]` int32, height and width of the crops in pixels.
    """
    scales = tf.reduce_max(crop / sizes, axis=1, keepdims=True)
    scaled = tf.cast(tf.round(tf.cast(sizes, tf.float64) * scales), tf.int32)
    enlarged = tf.where(scales > 1, tf.maximum(crop, scaled), 0)
    corners = (tf.where(scales > 1, enlarged, sizes) - crop) // 2
    crops = tf.broadcast_to(crop, tf.shape(sizes))
    return tf.concat([corners, crops, tf.zeros_like(sizes[:, :1]), enlarged], axis=1)


def centre_crops(jpegs: Any, height: Any, width: Any) -> Any:
    """The `[n, height, width, 3]` uint8 centres of `[n]` JPEGs, decoded exactly."""
    windows = centre_windows(sizes_of(jpegs), tf.stack([height, width]))
    return decode_windows(jpegs, windows, height, width, exact=True, scaled=False)


def evaluation_crop(jpeg: bytes, settings: Evaluation) -> Any:
    """The crop of one JPEG, `[height, width, 3]` uint8, as `evaluation_pipeline` makes it."""
    jpegs, size = tf.constant([jpeg]), settings.image_size
    shape = rectangles(sizes_of(jpegs), size)[0] if settings.rectangular else (size, size)
    return centre_crops(jpegs, shape[0], shape[1])[0]


@tf.autograph.experimental.do_not_convert  # as in `training_pipeline`
def statistics_pipeline(
    records: Records, images: int, size: int, batch_size: int, threads: int = 2
) -> tf.data.Dataset:
    """The first training images as they are, for the statistics of BatchNorm.

    They are the same for any number of workers: as many from the start of each file as are
    needed, and from short files all. So a set whose files hold a class each gives all classes.

    Args:
        images: number of images; those beyond the last whole batch are left out.
        size: side of the central square, in pixels.

    Returns:
        Batches of uint8 images `[batch_size, size, size, 3]`.
    """
    names = tf.data.Dataset.from_tensor_slices([str(path) for path in records.files])
    each = -(-images // len(records.files))
    starts = names.flat_map(lambda name: tf.data.TFRecordDataset(name).take(each))
    others = names.flat_map(lambda name: tf.data.TFRecordDataset(name).skip(each))

    def prepare(serialised: Any) -> Any:
        feature = tf.io.FixedLenFeature((), tf.string)
        jpegs = tf.io.parse_example(serialised, {records.keys.image: feature})
        return centre_crops(jpegs[records.keys.image], size, size)

    return (
        starts.concatenate(others)
        .take(images)
        .batch(batch_size, drop_remainder=True)
        .map(prepare, num_parallel_calls=threads, deterministic=True)
        .prefetch(2)
        .with_options(options(threads))
    )


@tf.autograph.experimental.do_not_convert  # as in `training_pipeline`
def evaluation_pipeline(
    records: Records,
    settings: Evaluation,
    classes: int,
    share: int = 0,
    shares: int = 1,
    threads: int = 2,
    placed: bool = False,
) -> tf.data.Dataset:
    """Every validation image once, or one share of them.

    Args:
        records: of the validation set; reading another number of images than theirs fails.
        settings: crop, size and batch.
        share, shares: image i belongs to share `i % shares`.
        placed: say of each image which it is.

    Returns:
        Batches of uint8 images `[batch_size, height, width, 3]` and int32 labels
        `[batch_size]`. Height and width are the settings' size or, with `rectangular`,
        one of its `crop_shapes` for a whole batch. The last batch of a shape is filled up
        with black images of the label -1. With `placed`, a batch also has the numbers of its
        images (int64; image i is record i of all files, laid end to end) and their file names
        (string), without any that fill it up.
    """
    size, batch_size = settings.image_size, settings.batch_size

    def read(numbers: Any, serialised: Any) -> tuple[Any, ...]:
        jpegs, labels, names = parse(serialised, classes, records.label_offset, records.keys)
        return jpegs, labels, *((numbers, names) if placed else ())

    def read_with_shapes(*batch: Any) -> tuple[Any, ...]:
        jpegs, *own = read(*batch)
        return rectangles(sizes_of(jpegs), size), jpegs, *own

    def decode(shape: Any, jpegs: Any, labels: Any, *places: Any) -> tuple[Any, ...]:
        """The batch, filled up to its size."""
        images = centre_crops(jpegs, shape[0], shape[1])
        missing = batch_size - tf.shape(labels)[0]
        pads = [[0, missing], [0, 0], [0, 0], [0, 0]]
        filled = tf.cond(missing > 0, lambda: tf.pad(images, pads), lambda: images)
        labels = tf.pad(labels, pads[:1], constant_values=PADDING)
        filled = tf.ensure_shape(filled, (batch_size, *images.shape[1:]))
        return filled, tf.ensure_shape(labels, (batch_size,)), *places

    dataset = (
        tf.data.TFRecordDataset([str(path) for path in records.files])
        .apply(tf.data.experimental.assert_cardinality(records.images))
        .enumerate()
        .shard(shares, share)
        .batch(batch_size)
    )
    ordered = {"num_parallel_calls": threads, "deterministic": True}
    # A thread decodes a whole batch at a time, as in training. So images are sorted by their shape
    # while they are JPEGs.
    if settings.rectangular:
        sorted_by_shape = (
            dataset.map(read_with_shapes, **ordered)
            .unbatch()
            .group_by_window(
                lambda shape, *_: tf.cast(shape[0] * 2**16 + shape[1], tf.int64),
                lambda _, alike: alike.batch(batch_size),
                window_size=batch_size,
            )
        )
        dataset = sorted_by_shape.map(lambda shapes, *own: decode(shapes[0], *own), **ordered)
    else:
        dataset = dataset.map(lambda *batch: decode((size, size), *read(*batch)), **ordered)
    return dataset.prefetch(4).with_options(options(threads))
