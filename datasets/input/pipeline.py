"""tf.data pipelines from TFRecords in the classic ImageNet schema.

They know a worker's rank and the number of workers as arguments, not Horovod. What
they deliver is uint8: a quarter of the bytes to the device, where the model itself
normalises the batch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.settings import Augmentation
from datasets.input.augmentation import load
from datasets.input.faults import Faults
from datasets.records.manifest import count_records
from datasets.records.schema import CLASSIC, RecordKeys

LABEL_OUTSIDE = "label outside the classes"
FILES, RANGES, RECORDS = "files", "ranges", "records"  # the ways of `sharing`


def parse(
    records: Any, classes: int, label_offset: int = 1, keys: RecordKeys = CLASSIC
) -> tuple[Any, Any]:
    """The JPEGs and the labels (int32, from 0) of a batch of records, or of a single one.

    Raises:
        tf.errors.InvalidArgumentError: a label outside 0 to `classes - 1`, with the
            label as it stands in the record and the image's file name.
    """
    # A whole batch costs a fifth of its records one by one.
    features = tf.io.parse_example(
        records,
        {
            keys.image: tf.io.FixedLenFeature((), tf.string),
            keys.label: tf.io.FixedLenFeature((), tf.int64),
            keys.filename: tf.io.FixedLenFeature((), tf.string, default_value=""),
        },
    )
    labels = features[keys.label]
    outside = tf.reshape((labels < label_offset) | (labels >= classes + label_offset), [-1])
    first = tf.argmax(tf.cast(outside, tf.int32))
    found = (tf.reshape(x, [-1])[first] for x in (labels, features[keys.filename]))
    check = tf.debugging.Assert(~tf.reduce_any(outside), [LABEL_OUTSIDE, *found])
    with tf.control_dependencies([check]):
        return tf.identity(features[keys.image]), tf.cast(labels - label_offset, tf.int32)


def sharing(counts: Sequence[int], workers: int, images: int) -> str:
    """How workers share record files, so that none needs an image twice in an epoch.

    With few files every worker reads all of them and keeps every n-th record, which
    costs no decoding. With many, each reads whole files of its own, drawn anew for each
    epoch; where the smallest draw would be short of images, a range of all records, as
    the shuffled files hold them end to end.

    Args:
        counts: images of each file.
        workers: how many share them.
        images: that each worker needs for an epoch.

    Returns:
        `RECORDS`, `FILES` or `RANGES`.
    """
    files = len(counts)
    if files % workers and files < 50 * workers:
        return RECORDS
    smallest = sum(sorted(counts)[: files // workers])
    return FILES if workers == 1 or smallest >= images else RANGES


def records_in_order(
    files: Sequence[Path],
    batch_size: int,
    steps_per_epoch: int,
    first_epoch: int,
    epochs: int,
    *,
    seed: int,
    first_step: int,
    rank: int,
    workers: int,
    counts: Sequence[int] = (),
    threads: int = 2,
    shuffle_buffer: int = 10000,
    faults: Faults | None = None,
) -> tf.data.Dataset:
    """The serialised records of a stage's epochs `first_epoch` to `epochs - 1`, one by one.

    The order depends on nothing but the arguments; see `training_pipeline` for them.
    """
    names = [str(path) for path in files]
    counts = counts or [count_records(path) if workers > 1 else 0 for path in files]
    way = sharing(counts, workers, steps_per_epoch * batch_size)
    begin, end = (sum(counts) * part // workers for part in (rank, rank + 1))
    read = faults.records if faults else tf.data.TFRecordDataset

    def order_of(number: np.int64) -> np.int64:
        return np.int64(_seed_of(seed, first_step + int(number) * steps_per_epoch))

    def epoch(number: Any) -> tf.data.Dataset:
        order = tf.numpy_function(order_of, [number], tf.int64)
        listed = tf.data.Dataset.from_tensor_slices((names, np.array(counts, np.int64)))
        chosen = _shuffled(listed, len(names), seed, order)
        if way == RANGES:
            chosen = _in_range(chosen, begin, end)
        else:
            chosen = chosen.map(lambda name, _: (name, np.int64(0), np.int64(-1)))
        if way == FILES:
            chosen = chosen.shard(workers, rank)
        at_once = min(16, len(names))
        records = chosen.interleave(
            lambda name, first, count: read(name).skip(first).take(count),
            cycle_length=at_once,
            num_parallel_calls=min(threads, at_once),
            deterministic=True,
        )
        if way == RECORDS:
            records = records.shard(workers, rank)
        shuffled = _shuffled(records, shuffle_buffer, seed, order)
        return shuffled.repeat().take(steps_per_epoch * batch_size)

    # One graph for all epochs: were they chained, a record would pass an iterator for each.
    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch)
    # Fused with `repeat`, a shuffle reads up to three more passes ahead, for nothing here.
    alone = tf.data.Options()
    alone.experimental_optimization.shuffle_and_repeat_fusion = False
    return dataset.with_options(alone)


def _shuffled(dataset: tf.data.Dataset, size: int, seed: int, order: Any) -> tf.data.Dataset:
    """`dataset.shuffle(size, seed=order)` as under the global seed `seed`, whatever that is.

    The method itself takes no tensor as its seed where the global seed is 0.
    """
    spec = dataset.element_spec
    shuffled = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=size,
        seed=seed % (2**31 - 1),  # as TensorFlow takes global seeds
        seed2=tf.maximum(order, 1),  # 0 and 0 would be no seed at all
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        output_types=[part.dtype for part in tf.nest.flatten(spec)],
        output_shapes=[part.shape for part in tf.nest.flatten(spec)],
    )
    return tf.data.experimental.from_variant(shuffled, spec)


def _in_range(files: tf.data.Dataset, begin: int, end: int) -> tf.data.Dataset:
    """What the records `begin` to `end - 1` of files laid end to end are.

    Args:
        files: (name, images) of each.
        begin, end: of all their records.

    Returns:
        (name, first, count) of each file that holds some of them: `count` records from
        `first` on.
    """

    def cut(before: Any, file: Any) -> tuple[Any, Any]:
        name, images = file
        first, stop = (tf.clip_by_value(edge - before, 0, images) for edge in (begin, end))
        return before + images, (name, first, stop - first)

    return files.scan(np.int64(0), cut).filter(lambda name, first, count: count > 0)


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
    keys: RecordKeys = CLASSIC,
    seed: int = 0,
    first_step: int = 0,
    done_steps: int = 0,
    rank: int = 0,
    workers: int = 1,
    counts: Sequence[int] = (),
    threads: int = 2,
    shuffle_buffer: int = 10000,
    faults: Faults | None = None,
    passed_over: Collection[int] = (),
) -> tf.data.Dataset:
    """Augmented batches of one worker for one stage of a run.

    Each epoch is a pass over the worker's share in an order drawn from the seed and
    the global step at which the epoch begins. It is as many images long as all
    workers can give (`steps_per_epoch * batch_size`), so every worker runs the same
    number of steps, and no image is seen twice. A share that bad records leave a few
    images short begins anew.

    Args:
        files: the record files, the same on every worker.
        batch_size: images per worker and step.
        image_size: (height, width) of the images delivered.
        steps_per_epoch: of this stage.
        steps: how many steps the whole stage has.
        classes: number of classes.
        augmentation: which augmentations.
        label_offset: the label that the first class has in the records.
        keys: the records' schema.
        seed: of the order and of the augmentation.
        first_step: global step at which the stage begins.
        done_steps: steps of the stage to leave out, since a resumed run has done
            them; their records are skipped without being decoded.
        rank, workers: which share.
        counts: images of each file; by default they are counted where workers share them.
        threads: for reading and decoding.
        shuffle_buffer: records held to draw from; up to half as many more are read ahead.
        faults: counts bad records and replaces them; without it they raise.
        passed_over: global steps whose batch gives its place to the next one's.

    Returns:
        `steps - done_steps` batches of uint8 images `[batch_size, height, width, 3]`
        and int32 labels `[batch_size]`.
    """
    names = [str(path) for path in files]
    # The share of a worker is another one, so its draws have to be, too.
    own_seed = _seed_of(seed, rank)

    def prepare(step: Any, records: Any) -> tuple[Any, Any]:
        jpegs, labels = parse(records, classes, label_offset, keys)
        return load(jpegs, (own_seed, step), *image_size, augmentation), labels

    guarded = faults.guarded(prepare, names, keys) if faults else prepare
    first_epoch, into_epoch = divmod(done_steps, steps_per_epoch)
    gaps = sorted(p - first_step - done_steps for p in passed_over)
    gaps = [gap for gap in gaps if 0 <= gap < steps - done_steps]
    epochs = -(-(steps + len(gaps)) // steps_per_epoch)
    # While these are trained on, the next epoch's shuffle buffer is filled.
    ahead = 1 + min(shuffle_buffer // batch_size, steps_per_epoch) // 2
    # A thread makes a whole batch at a time: ops on batches, and none to put images together.
    batches = (
        records_in_order(
            files,
            batch_size,
            steps_per_epoch,
            first_epoch,
            epochs,
            seed=seed,
            first_step=first_step,
            rank=rank,
            workers=workers,
            counts=counts,
            threads=threads,
            shuffle_buffer=shuffle_buffer,
            faults=faults,
        )
        .skip(into_epoch * batch_size)
        .batch(batch_size, drop_remainder=True)
        .take(steps - done_steps + len(gaps))
        .prefetch(ahead)
    )
    for gap in reversed(gaps):  # the last first: a batch behind two gaps fills both
        batches = _next_one_at(batches, gap)
    dataset = (
        batches.enumerate(start=first_step + done_steps)
        .map(guarded, num_parallel_calls=threads, deterministic=True)
        # Where files are lost the data may run out; that must not look like an end.
        .apply(tf.data.experimental.assert_cardinality(steps - done_steps))
        .prefetch(4)
    )
    return dataset.with_options(options(threads))


def _next_one_at(batches: tf.data.Dataset, place: int) -> tf.data.Dataset:
    """The batches but for the last, with the one behind `place` also in that place."""

    def choose(before: Any, batch: Any) -> Any:
        number, previous = before
        return (number + 1, batch), tf.where(number == place, batch, previous)

    first = np.int64(-1), tf.zeros(batches.element_spec.shape, tf.string)
    return batches.scan(first, choose).skip(1)


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
