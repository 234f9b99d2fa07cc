"""The validation set as batches: every image once, in batches of static shapes."""

from typing import Any

import tensorflow as tf

from core.settings import Evaluation
from datasets.input.augmentation import centre_crop
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


def rectangular_crop(jpeg: Any, size: int) -> Any:
    """The centre of a JPEG in the largest of the `crop_shapes` that fits into it.

    After the validation of fast.ai's DAWNBench record (its `CropArTfm`), which sorts images by
    aspect and crops each batch to its mean aspect.
    """
    shape = tf.io.extract_jpeg_shape(jpeg)[:2]
    crops = tf.constant(crop_shapes(size))
    # Compared at the scale at which the image's short side is `size`.
    room = tf.cast(shape * size, tf.float64) * TOLERANCE
    fits = tf.reduce_all(tf.cast(crops * tf.reduce_min(shape), tf.float64) <= room, axis=1)
    largest = tf.argmax(tf.where(fits, tf.reduce_prod(crops, axis=1), 0))
    return centre_crop(jpeg, *tf.unstack(crops[largest]))


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

    def prepare(record: Any) -> Any:
        feature = tf.io.FixedLenFeature((), tf.string)
        jpeg = tf.io.parse_single_example(record, {records.keys.image: feature})
        return centre_crop(jpeg[records.keys.image], size, size)

    return (
        starts.concatenate(others)
        .take(images)
        .map(prepare, num_parallel_calls=threads, deterministic=True)
        .batch(batch_size, drop_remainder=True)
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

    def prepare(number: Any, record: Any) -> tuple[Any, ...]:
        jpeg, label, name = parse(record, classes, records.label_offset, records.keys)
        own = (label, number, name) if placed else (label,)
        if settings.rectangular:
            return rectangular_crop(jpeg, size), *own
        return centre_crop(jpeg, size, size), *own

    def whole(images: Any, labels: Any, *places: Any) -> tuple[Any, ...]:
        """The batch, filled up to its size."""
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
        .map(prepare, num_parallel_calls=threads, deterministic=True)
    )
    if settings.rectangular:
        dataset = dataset.group_by_window(
            lambda image, *_: tf.cast(tf.shape(image)[0] * 2**16 + tf.shape(image)[1], tf.int64),
            lambda _, alike: alike.batch(batch_size),
            window_size=batch_size,
        )
    else:
        dataset = dataset.batch(batch_size)
    return dataset.map(whole).prefetch(4).with_options(options(threads))
