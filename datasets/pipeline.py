"""tf.data pipelines from TFRecords in the classic ImageNet schema.

They know a worker's rank and the number of workers as arguments, not Horovod. What
they deliver is uint8: a quarter of the bytes to the device, where the model itself
normalises the batch.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from datasets.augmentation import load, shift_and_flip
from datasets.settings import Augmentation

LABEL_OUTSIDE = "label outside the classes"


def parse(record: Any, classes: int, label_offset: int = 1) -> tuple[Any, Any]:
    """The JPEG (scalar string) and the label (scalar int32, from 0) of a record.

    Raises:
        tf.errors.InvalidArgumentError: a label outside 0 to `classes - 1`, with the
            label as it stands in the record and the image's file name.
    """
    features = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature((), tf.string),
            "image/class/label": tf.io.FixedLenFeature((), tf.int64),
            "image/filename": tf.io.FixedLenFeature((), tf.string, default_value=""),
        },
    )
    label = features["image/class/label"]
    inside = tf.logical_and(label >= label_offset, label < classes + label_offset)
    found = [LABEL_OUTSIDE, label, features["image/filename"]]
    with tf.control_dependencies([tf.debugging.Assert(inside, found)]):
        return features["image/encoded"], tf.cast(label - label_offset, tf.int32)


def shards_by_file(files: int, workers: int) -> bool:
    """Whether workers read files of their own, or every worker all of the files.

    Own files are read once, but their shares differ by up to one file; that is
    accepted where it is below 2 % of a share. Reading everything and keeping every
    n-th record costs no decoding, and is even to one record.
    """
    return files % workers == 0 or files >= 50 * workers


def training_pipeline(
    files: Sequence[Path],
    *,
    batch_size: int,
    image_size: tuple[int, int],
    steps_per_epoch: int,
    steps: int,
    classes: int,
    augmentation: Augmentation,
    label_offset: int = 1,
    seed: int = 0,
    first_step: int = 0,
    done_steps: int = 0,
    rank: int = 0,
    workers: int = 1,
    threads: int = 2,
    shuffle_buffer: int = 10000,
) -> tf.data.Dataset:
    """Augmented batches of one worker for one stage of a run.

    Each epoch is a pass over the worker's share in an order drawn from the seed and
    the global step at which the epoch begins. It is as many images long as all
    workers can give (`steps_per_epoch * batch_size`), so every worker runs the same
    number of steps; a share that is a few images short begins anew.

    Args:
        files: the record files, the same on every worker.
        batch_size: images per worker and step.
        image_size: (height, width) of the images delivered.
        steps_per_epoch: of this stage.
        steps: how many steps the whole stage has.
        classes: number of classes.
        augmentation: which augmentations.
        label_offset: the label that the first class has in the records.
        seed: of the order and of the augmentation.
        first_step: global step at which the stage begins.
        done_steps: steps of the stage to leave out, since a resumed run has done
            them; their records are skipped without being decoded.
        rank, workers: which share.
        threads: for reading and decoding.
        shuffle_buffer: records held to draw from.

    Returns:
        `steps - done_steps` batches of uint8 images `[batch_size, height, width, 3]`
        and int32 labels `[batch_size]`.
    """
    per_epoch = steps_per_epoch * batch_size
    names = [str(path) for path in files]
    by_file = shards_by_file(len(names), workers)

    def epoch(number: int) -> tf.data.Dataset:
        order = _seed_of(seed, first_step + number * steps_per_epoch)
        chosen = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names), seed=order)
        if by_file:
            chosen = chosen.shard(workers, rank)
        at_once = min(16, len(names))
        records = chosen.interleave(
            tf.data.TFRecordDataset,
            cycle_length=at_once,
            num_parallel_calls=min(threads, at_once),
            deterministic=True,
        )
        if not by_file:
            records = records.shard(workers, rank)
        return records.shuffle(shuffle_buffer, seed=order).repeat().take(per_epoch)

    # The share of a worker is another one, so its draws have to be, too.
    own_seed = _seed_of(seed, rank)

    def prepare(index: Any, record: Any) -> tuple[Any, Any]:
        jpeg, label = parse(record, classes, label_offset)
        return load(jpeg, (own_seed, index), *image_size, augmentation), label

    def finish(step: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        images, labels = batch
        return shift_and_flip(images, (own_seed + 1, step), augmentation), labels

    first_epoch, into_epoch = divmod(done_steps, steps_per_epoch)
    epochs = -(-steps // steps_per_epoch)
    # Chained here rather than by `flat_map`, since `shuffle` takes no tensor as its seed
    # once a global seed of 0 is set.
    passes = [epoch(number) for number in range(first_epoch, epochs)]
    dataset = (
        functools.reduce(tf.data.Dataset.concatenate, passes)
        .enumerate(start=first_step * batch_size + first_epoch * per_epoch)
        .skip(into_epoch * batch_size)
        .map(prepare, num_parallel_calls=threads, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .take(steps - done_steps)
        .enumerate(start=first_step + done_steps)
        .map(finish, num_parallel_calls=threads, deterministic=True)
        .prefetch(4)
    )
    return dataset.with_options(options(threads))


def _seed_of(seed: int, number: int) -> int:
    """A seed of its own for each number (a step, a rank): a hash, below 2 ** 31."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def options(threads: int) -> tf.data.Options:
    """A pool of its own for the pipeline: by default each process takes all cores."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.experimental_optimization.map_parallelization = False
    options.autotune.enabled = False
    return options
