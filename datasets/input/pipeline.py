"""tf.data pipelines of training images, from TFRecords.

They receive a worker's rank and the number of workers as arguments and do not know Horovod.
Images are uint8, a quarter of the bytes of float32; the model normalises them on the device.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from core.settings import Augmentation
from datasets.input.augmentation import alternating_flips, load
from datasets.input.faults import Faults
from datasets.records.frames import count_records
from datasets.records.schema import RecordKeys, Records

LABEL_OUTSIDE = "label outside the classes"
FILES, RANGES, RECORDS = "files", "ranges", "records"  # the ways of `sharing`


@dataclass(frozen=True)
class ReadPlan:
    """How one worker reads the records of a stage, epoch by epoch.

    The order of the records depends on all of it but `first_epoch`, `threads` and the parts.
    """

    batch_size: int  # images per worker and step
    steps_per_epoch: int  # of this stage
    seed: int = 0  # of the order and of the augmentation
    first_step: int = 0  # global step at which the stage begins
    first_epoch: int = 0  # passes over the data before the stage; alternating flips count on
    rank: int = 0  # the share of the records is number `rank` of `workers`
    workers: int = 1
    shuffle_buffer: int = 10000  # records to draw from; up to half as many more are read ahead
    threads: int = 2  # for reading and decoding
    # Decode only batches number `part`, `part + parts`, ... of those asked for: where several hosts
    # decode for one worker, each has a part. All of them read all records.
    part: int = 0
    parts: int = 1


def parse(records: Any, classes: int, label_offset: int, keys: RecordKeys) -> tuple[Any, Any, Any]:
    """The JPEGs, the labels (int32, from 0) and the file names of a batch of records, or of one.

    A label outside the classes raises `tf.errors.InvalidArgumentError` with the file's name.
    """
    form = {
        keys.image: tf.io.FixedLenFeature((), tf.string),
        keys.label: tf.io.FixedLenFeature((), tf.int64),
        keys.filename: tf.io.FixedLenFeature((), tf.string, default_value=""),
    }
    # A whole batch costs a fifth of its records one by one.
    features = tf.io.parse_example(records, form)
    labels = features[keys.label]
    outside = tf.reshape((labels < label_offset) | (labels >= classes + label_offset), [-1])
    first = tf.argmax(tf.cast(outside, tf.int32))
    found = (tf.reshape(x, [-1])[first] for x in (labels, features[keys.filename]))
    check = tf.debugging.Assert(~tf.reduce_any(outside), [LABEL_OUTSIDE, *found])
    with tf.control_dependencies([check]):
        labels = tf.cast(labels - label_offset, tf.int32)
        return tf.identity(features[keys.image]), labels, features[keys.filename]


def sharing(counts: Sequence[int], workers: int, images: int) -> str:
    """How workers share files of `counts` images, so that none needs an image twice in an epoch.

    `RECORDS`: with few files, every worker reads all of them and keeps every n-th record, which
    costs no decoding. `FILES`: with many, each reads whole files, drawn anew for each epoch.
    `RANGES`: where the smallest draw has fewer `images` than an epoch needs, each reads a range
    of all records, the shuffled files laid end to end.
    """
    files = len(counts)
    if files % workers and files < 50 * workers:
        return RECORDS
    smallest = sum(sorted(counts)[: files // workers])
    return FILES if workers == 1 or smallest >= images else RANGES


def records_in_order(
    records: Records, plan: ReadPlan, epochs: range, faults: Faults | None = None
) -> tf.data.Dataset:
    """The serialised records of these epochs of a stage, one by one, in the order of the plan."""
    names = [str(path) for path in records.files]
    workers, rank = plan.workers, plan.rank
    counts = records.counts or [count_records(path) if workers > 1 else 0 for path in records.files]
    images = plan.steps_per_epoch * plan.batch_size  # of this worker in an epoch
    way = sharing(counts, workers, images)
    begin, end = (sum(counts) * part // workers for part in (rank, rank + 1))
    read = faults.records if faults else tf.data.TFRecordDataset

    def in_range(before: Any, file: Any) -> tuple[Any, Any]:
        """Which records of a file the range of this worker holds."""
        name, held = file
        first, stop = (tf.clip_by_value(edge - before, 0, held) for edge in (begin, end))
        return before + held, (name, first, stop - first)

    first_steps = (plan.first_step + number * plan.steps_per_epoch for number in epochs)
    # A table, not a call of Python: without `faults`, other processes can run the pipeline, too.
    orders = np.array([_seed_of(plan.seed, step) for step in first_steps], np.int64)

    # The order is the same either way. Each record that threads hand over costs a third of its
    # reading, so one or two threads do not read several files at once.
    at_once = min(16, len(names))
    in_parallel = (
        {"num_parallel_calls": min(plan.threads, at_once), "deterministic": True}
        if plan.threads > 2
        else {}
    )

    def epoch(number: Any) -> tf.data.Dataset:
        order = tf.constant(orders)[number - epochs.start]
        listed = tf.data.Dataset.from_tensor_slices((names, np.array(counts, np.int64)))
        chosen = _shuffled(listed, len(names), plan.seed, order)
        if way == RANGES:
            chosen = chosen.scan(np.int64(0), in_range)
            chosen = chosen.filter(lambda name, first, count: count > 0)
        else:
            chosen = chosen.map(lambda name, _: (name, np.int64(0), np.int64(-1)))
        if way == FILES:
            chosen = chosen.shard(workers, rank)
        found = chosen.interleave(
            lambda name, first, count: read(name).skip(first).take(count),
            cycle_length=at_once,
            **in_parallel,
        )
        if way == RECORDS:
            found = found.shard(workers, rank)
        shuffled = _shuffled(found, plan.shuffle_buffer, plan.seed, order)
        return shuffled.repeat().take(images)

    # One graph for all epochs: in a chain, each record would pass an iterator of every epoch.
    dataset = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch)
    # Fused with `repeat`, a shuffle reads up to three more passes ahead, which is useless here.
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


@tf.autograph.experimental.do_not_convert  # it takes a second, and changes nothing here
def training_pipeline(
    records: Records,
    plan: ReadPlan,
    steps: range,
    *,
    image_size: tuple[int, int],
    classes: int,
    augmentation: Augmentation,
    faults: Faults | None = None,
    skipped: Collection[int] = (),
) -> tf.data.Dataset:
    """Augmented batches of one worker for one stage of a run.

    Each epoch is a pass over the worker's share, in an order drawn from the seed and the
    global step at which the epoch begins. It has `steps_per_epoch * batch_size` images, as many
    as every worker has: all run the same number of steps, and no image is seen twice. If bad
    records leave too few images, the share begins again.

    Args:
        records: the same on every worker. Unknown `counts` are counted if workers share files.
        steps: global steps, to the end of the stage. In a resumed run they begin later than
            `plan.first_step`; the records of earlier steps are skipped without being decoded.
        image_size: height and width of the images delivered, in pixels.
        classes: number of classes.
        faults: counts bad records and replaces them; without it they raise.
        skipped: global steps whose batch is skipped: each gets the next step's batch.

    Returns:
        For each step (of the plan's part) a batch of uint8 images
        `[batch_size, height, width, 3]` and int32 labels `[batch_size]`.
    """
    # Workers have different images, so their draws must differ, too.
    own_seed = _seed_of(plan.seed, plan.rank)

    def prepare(step: Any, serialised: Any) -> tuple[Any, Any]:
        jpegs, labels, names = parse(serialised, classes, records.label_offset, records.keys)
        mirrored = None
        if augmentation.flip == "alternating":
            epoch = plan.first_epoch + (step - plan.first_step) // plan.steps_per_epoch
            mirrored = alternating_flips(jpegs, labels, names, plan.seed, epoch)
        return load(jpegs, (own_seed, step), *image_size, augmentation, mirrored), labels

    names = [str(path) for path in records.files]
    guarded = faults.guarded(prepare, names, records.keys) if faults else prepare
    first_epoch, into_epoch = divmod(steps.start - plan.first_step, plan.steps_per_epoch)
    gaps = sorted(step - steps.start for step in skipped if step in steps)
    stop = steps.stop - plan.first_step + len(gaps)
    epochs = range(first_epoch, -(-stop // plan.steps_per_epoch))
    # While these are trained on, the next epoch's shuffle buffer is filled.
    ahead = 1 + min(plan.shuffle_buffer // plan.batch_size, plan.steps_per_epoch) // 2
    # A thread makes a whole batch at a time: all ops are on batches, and none joins images.
    batches = (
        records_in_order(records, plan, epochs, faults)
        .skip(into_epoch * plan.batch_size)
        .batch(plan.batch_size, drop_remainder=True)
        .take(len(steps) + len(gaps))
        .prefetch(ahead)
    )
    for gap in reversed(gaps):  # the last first: a batch behind two gaps fills both
        batches = _next_one_at(batches, gap)
    dataset = (
        batches.enumerate(start=steps.start)
        .shard(plan.parts, plan.part)
        .map(guarded, num_parallel_calls=plan.threads, deterministic=True)
        # Where files are lost the data may run out; that must not look like the stage's end.
        .apply(tf.data.experimental.assert_cardinality(len(steps[plan.part :: plan.parts])))
        .prefetch(4)
    )
    return dataset.with_options(options(plan.threads))


def _next_one_at(batches: tf.data.Dataset, place: int) -> tf.data.Dataset:
    """The batches without the last, where the one behind `place` also stands at `place`."""

    def choose(before: Any, batch: Any) -> Any:
        number, previous = before
        return (number + 1, batch), tf.where(number == place, batch, previous)

    first = np.int64(-1), tf.zeros(batches.element_spec.shape, tf.string)
    return batches.scan(first, choose).skip(1)


def _seed_of(seed: int, number: int) -> int:
    """Another seed for each number (a step, a rank): a hash, below 2 ** 31."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def options(threads: int) -> tf.data.Options:
    """A pool of threads for this pipeline: by default, each process takes all cores."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.experimental_optimization.map_parallelization = False
    options.autotune.enabled = False
    return options
