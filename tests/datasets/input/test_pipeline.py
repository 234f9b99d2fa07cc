"""Pipelines over real record files, against what was written into them."""

import dataclasses
import functools
import io
import operator
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.settings import Augmentation
from datasets.input.faults import Faults
from datasets.input.pipeline import (
    FILES,
    LABEL_OUTSIDE,
    RANGES,
    RECORDS,
    ReadPlan,
    records_in_order,
    sharing,
    training_pipeline,
)
from datasets.records.schema import Records

PLAIN = Augmentation(crop="none", flip=False)
SIZE = 16


def jpeg_of_one_colour(value, size=(SIZE, SIZE)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def record(number, label=None, jpeg=None):
    """Image `number` is grey of that value, so that it is known again in a batch."""
    features = {
        "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[jpeg or jpeg_of_one_colour(number)])
        ),
        "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[number % 5 + 1 if label is None else label])
        ),
        "image/filename": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[f"{number}.jpg".encode()])
        ),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four files of 15 images, 0 to 59."""
    folder = tmp_path_factory.mktemp("records")
    paths = [folder / f"train-{i:05d}-of-00004" for i in range(4)]
    for i, path in enumerate(paths):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(15 * i, 15 * (i + 1)):
                writer.write(record(number))
    return paths


def pipeline(files, steps, done_steps=0, counts=(), label_offset=1, **settings):
    """A stage of so many steps, of which some are done."""
    names = {field.name for field in dataclasses.fields(ReadPlan)}
    plan = ReadPlan(**{name: value for name, value in settings.items() if name in names})
    others = {name: value for name, value in settings.items() if name not in names}
    return training_pipeline(
        Records(tuple(files), sum(counts), label_offset, counts=tuple(counts)),
        plan,
        range(plan.first_step + done_steps, plan.first_step + steps),
        **({"classes": 5, "image_size": (SIZE, SIZE), "augmentation": PLAIN} | others),
    )


def batches(files, **changes):
    """By default those of the first of two workers, in two epochs."""
    plan = {"batch_size": 6, "steps_per_epoch": 5, "workers": 2, "shuffle_buffer": 20}
    return list(pipeline(files, **({"steps": 10} | plan | changes)))


def numbers(found):
    return np.concatenate([np.rint(images[:, 8, 8, 0]).astype(int) for images, _ in found])


def test_batches_are_uint8_images_and_labels_from_0(files):
    images, labels = batches(files)[0]
    assert images.shape == (6, SIZE, SIZE, 3)
    assert images.dtype == tf.uint8
    assert labels.dtype == tf.int32
    np.testing.assert_array_equal(labels, numbers([(images, labels)]) % 5)


@pytest.mark.parametrize(
    ("over", "seen"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([3], [0, 1, 2, 4, 4, 5, 6, 7]),
        ([0], [1, 1, 2, 3, 4, 5, 6, 7]),
        ([2, 3, 6], [0, 1, 4, 4, 4, 5, 7, 7]),
        ([7], [0, 1, 2, 3, 4, 5, 6, 8]),
    ],
)
@pytest.mark.parametrize("done", [0, 3, 6])
def test_a_batch_that_is_skipped_gives_its_place_to_the_next(files, over, seen, done):
    """Also the last one of a stage, and in a run that is resumed before, at or behind it."""
    order = [numbers([batch]) for batch in batches(files, steps=10)]
    found = batches(files, steps=8, done_steps=done, skipped=over)
    assert [list(numbers([batch])) for batch in found] == [list(order[i]) for i in seen[done:]]


def test_steps_to_skip_are_global(files):
    plain = batches(files, steps=5, first_step=100)
    found = batches(files, steps=5, first_step=100, skipped=[2, 101])
    assert list(numbers(found)) == list(numbers([plain[i] for i in (0, 2, 2, 3, 4)]))


def test_the_batch_has_a_static_shape(files):
    dataset = pipeline(
        files,
        steps=5,
        image_size=(8, 12),
        augmentation=Augmentation(crop="pad"),
        batch_size=6,
        steps_per_epoch=5,
    )
    assert dataset.element_spec[0].shape == (6, 8, 12, 3)


@pytest.mark.parametrize("count", [4, 3])
def test_an_epoch_of_all_workers_is_every_image_once(files, count):
    """Both ways of sharing: four files for two workers by file, three record by record."""
    steps = count * 15 // 12
    seen = []
    for rank in range(2):
        found = batches(files[:count], rank=rank, steps=steps, steps_per_epoch=steps)
        assert len(found) == steps
        seen.extend(numbers(found))
    assert len(set(seen)) == len(seen) == 12 * steps


def test_every_worker_runs_the_same_number_of_steps(files):
    for rank in range(3):
        found = batches(files, rank=rank, workers=3, steps=17, steps_per_epoch=3)
        assert [len(labels) for _, labels in found] == [6] * 17


def test_each_epoch_has_an_order_of_its_own(files):
    found = batches(files, workers=1, steps=20, steps_per_epoch=10)
    first, second = numbers(found[:10]), numbers(found[10:])
    assert sorted(first) == sorted(second) == list(range(60))
    assert list(first) != list(second)


def epochs_in_a_row(files, seed, first_step, workers, rank):
    """30 records of each of the epochs 1 to 3, as runs have had them since the first version."""

    def epoch(number):
        hashed = np.random.SeedSequence([seed, first_step + number * 5]).generate_state(1)[0]
        order = int(hashed) >> 1
        names = tf.data.Dataset.from_tensor_slices([str(path) for path in files])
        chosen = names.shuffle(len(files), seed=order)
        if len(files) % workers == 0:
            chosen = chosen.shard(workers, rank)
        found = chosen.interleave(tf.data.TFRecordDataset, cycle_length=len(files))
        if len(files) % workers:
            found = found.shard(workers, rank)
        return found.shuffle(20, seed=order).repeat().take(30)

    return functools.reduce(tf.data.Dataset.concatenate, map(epoch, (1, 2, 3)))


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
@pytest.mark.parametrize("count", [4, 3])
def test_the_order_is_that_of_the_seed_and_the_step(files, seed, count):
    """Whatever TensorFlow's global seed is; a run sets it to the recipe's."""
    tf.random.set_seed(seed)
    expected = list(epochs_in_a_row(files[:count], seed, 100, 2, 1).as_numpy_iterator())
    tf.random.set_seed(1)
    plan = ReadPlan(6, 5, seed=seed, first_step=100, rank=1, workers=2, shuffle_buffer=20)
    found = records_in_order(Records(tuple(files[:count]), 0), plan, range(1, 4))
    assert list(found.as_numpy_iterator()) == expected


def test_a_long_stage_has_no_larger_graph(files):
    """Chained epochs would be a node, and an iterator that each record passes, for each."""

    def nodes(epochs):
        @tf.function
        def build():
            made = pipeline(files, steps=10 * epochs, batch_size=6, steps_per_epoch=10)
            return tf.data.experimental.to_variant(made)

        graph = build.get_concrete_function().graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert nodes(300) == nodes(1)


class Opened(Faults):
    """Counts the files that a pipeline opens, and shows when it opens the fifth."""

    def __init__(self):
        super().__init__(0)
        self.files, self.fifth = 0, threading.Event()

    def open(self, path):
        self.files += 1
        if self.files == 5:
            self.fifth.set()
        return path

    def records(self, path):
        opened = tf.numpy_function(self.open, [path], tf.string)
        return super().records(tf.ensure_shape(opened, []))


def test_an_epoch_reads_each_file_once(files):
    """Also where the buffer has room for more of them."""
    opened = Opened()
    batches(files, workers=1, steps=10, steps_per_epoch=10, shuffle_buffer=200, faults=opened)
    assert opened.files == 4


def test_the_next_epoch_is_read_before_this_one_ends(files):
    opened = Opened()
    found = iter(pipeline(files, steps=120, batch_size=1, steps_per_epoch=60, faults=opened))
    for _ in range(40):  # of 60; some more are being made, but not twenty
        next(found)
    assert opened.fifth.wait(60)


def test_the_order_and_the_augmentation_are_those_of_the_seed(files):
    augmentation = Augmentation(crop="random_resized")
    one, two = (batches(files, seed=3, augmentation=augmentation, threads=t) for t in (1, 3))
    for (a, _), (b, _) in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(numbers(batches(files, seed=4))) != list(numbers(one))


def test_a_stage_that_begins_later_has_an_order_of_its_own(files):
    one, other = (numbers(batches(files, first_step=step)) for step in (0, 100))
    assert sorted(one) == sorted(other)
    assert list(one) != list(other)


def test_workers_augment_the_same_image_differently(tmp_path):
    """One image again and again: whatever differs between two workers is the augmentation."""
    path = tmp_path / "train-00000-of-00001"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(12):
            writer.write(record(0, jpeg=buffer.getvalue()))
    settings = {"augmentation": Augmentation(crop="random_resized"), "steps_per_epoch": 1}
    (one, _), (other, _) = (batches([path], rank=rank, steps=1, **settings)[0] for rank in (0, 1))
    assert not any(np.array_equal(a, b) for a, b in zip(one.numpy(), other.numpy(), strict=True))


@pytest.mark.parametrize("done", [1, 5, 7, 9])
@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_a_resumed_run_sees_what_it_would_have_seen(files, done, crop):
    settings = {"augmentation": Augmentation(crop=crop), "first_step": 100, "seed": 1}
    whole, rest = batches(files, **settings), batches(files, **settings, done_steps=done)
    assert len(rest) == 10 - done
    for (a, x), (b, y) in zip(whole[done:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def ramps(request, tmp_path_factory):
    """Two files of 30 images that grow brighter from left to right; the label is the number."""
    folder, size = tmp_path_factory.mktemp("ramps"), getattr(request, "param", 16)
    paths = [folder / f"train-{i:05d}-of-00002" for i in range(2)]
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.linspace(0, 255, size).astype("uint8"), (size, 1))).save(
        buffer, "JPEG"
    )
    for i, path in enumerate(paths):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(30 * i, 30 * (i + 1)):
                writer.write(record(number, label=number + 1, jpeg=buffer.getvalue()))
    return paths


def flips(files, crop="pad", **changes):
    """For each step, which images are mirrored: a dictionary of numbers and truth values."""
    chosen = Augmentation(crop=crop, area=(0.8, 1.0), flip="alternating")
    found = batches(files, **{"augmentation": chosen, "seed": 3, "classes": 60} | changes)
    return [
        dict(zip(labels.tolist(), images[:, 8, 4, 0] > images[:, 8, 11, 0], strict=True))
        for images, labels in ((images.numpy(), labels.numpy()) for images, labels in found)
    ]


def merged(steps):
    return functools.reduce(operator.or_, steps, {})


@pytest.mark.parametrize("ramps", [16, 24], indirect=True)  # the size of the crops, and larger
@pytest.mark.parametrize("crop", ["pad", "none", "random_resized"])
def test_each_image_is_flipped_in_every_other_epoch(ramps, crop):
    found = flips(ramps, crop=crop, workers=1, steps=30, steps_per_epoch=10)
    first, second, third = (merged(found[i : i + 10]) for i in (0, 10, 20))
    assert sorted(first) == list(range(60))
    assert second == {number: not flipped for number, flipped in first.items()}
    assert third == first
    assert 15 < sum(first.values()) < 45  # half of 60, within 3.9 standard deviations


def test_flips_are_the_same_for_any_number_of_workers_and_threads(ramps):
    whole = merged(flips(ramps, workers=1, steps=10, steps_per_epoch=10))
    shares = [merged(flips(ramps, rank=rank, steps=5, threads=1 + rank)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 30
    assert merged(shares) == whole


def test_flips_go_on_in_a_resumed_run_and_in_the_next_stage(ramps):
    one = {"workers": 1, "steps_per_epoch": 10}
    whole = flips(ramps, steps=30, **one)
    assert flips(ramps, steps=30, done_steps=13, **one) == whole[13:]
    third = merged(flips(ramps, first_step=25, first_epoch=2, steps=10, **one))
    fourth = merged(flips(ramps, first_step=37, first_epoch=3, steps=10, **one))
    assert third == merged(whole[20:])
    assert fourth == merged(whole[10:20])


def test_another_seed_flips_others_first(ramps):
    one, other = (
        merged(flips(ramps, workers=1, seed=seed, steps=10, steps_per_epoch=10)) for seed in (3, 4)
    )
    assert one.keys() == other.keys()
    assert 15 < sum(one[number] != other[number] for number in one) < 45


@pytest.mark.parametrize(("label", "offset"), [(6, 1), (0, 1), (5, 0), (-1, 0)])
def test_a_label_outside_the_classes_is_found_with_its_image(tmp_path, label, offset):
    path = tmp_path / "train-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(8):
            writer.write(record(number, label=label if number == 5 else offset))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        batches([path], workers=1, batch_size=8, steps=1, steps_per_epoch=1, label_offset=offset)
    assert f"[{LABEL_OUTSIDE}] [{label}] [5.jpg]" in caught.value.message


def test_labels_from_0_are_read_with_their_offset(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record(7, label=0))
    ((_, labels),) = batches(
        [path], workers=1, batch_size=1, steps=1, steps_per_epoch=1, label_offset=0
    )
    assert labels.numpy().tolist() == [0]


@pytest.mark.parametrize(
    ("counts", "workers", "images", "way"),
    [
        ([1252] * 143 + [1251] * 881, 8, 1251 * 128, FILES),  # ImageNet as it is built
        ([15] * 4, 2, 30, FILES),
        ([1000] * 999, 8, 124_000, FILES),
        ([1000] * 999, 8, 124_800, RANGES),  # 125 files for some workers, 124 for others
        ([900, 100], 2, 500, RANGES),
        ([15] * 3, 2, 18, RECORDS),
        ([15], 2, 6, RECORDS),
        ([10] * 100, 8, 120, RECORDS),
        ([7, 5], 1, 12, FILES),
    ],
)
def test_workers_share_whole_files_only_where_the_smallest_share_is_enough(
    counts, workers, images, way
):
    assert sharing(counts, workers, images) == way


def write_files(folder, counts):
    """Files of so many images each, numbered through from 0."""
    paths = [folder / f"train-{i:05d}-of-{len(counts):05d}" for i in range(len(counts))]
    numbered = iter(range(sum(counts)))
    for path, count in zip(paths, counts, strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(count):
                writer.write(record(next(numbered)))
    return paths


@pytest.mark.parametrize("counts", [[54, 6], [1, 59], [25, 11, 4, 20], [40, 10, 10]])
@pytest.mark.parametrize("known", [True, False])
def test_files_of_any_length_give_every_image_once(tmp_path, counts, known):
    paths = write_files(tmp_path, counts)
    workers = 3 if len(counts) == 3 else 2
    steps = 60 // workers // 5
    share = 60 // workers
    found = [
        numbers(
            batches(
                paths,
                counts=counts if known else (),
                batch_size=5,
                workers=workers,
                rank=rank,
                steps=3 * steps,
                steps_per_epoch=steps,
                first_step=7,
            )
        )
        for rank in range(workers)
    ]
    for begin in range(0, 3 * share, share):  # an epoch of each worker
        seen = [number for own in found for number in own[begin : begin + share]]
        assert sorted(seen) == list(range(60))


def test_a_run_in_ranges_is_resumed_where_it_was(tmp_path):
    paths = write_files(tmp_path, [54, 6])
    whole = numbers(batches(paths, steps=15))
    assert list(numbers(batches(paths, steps=15, done_steps=7))) == list(whole[7 * 6 :])
    assert len(set(whole[:30])) == len(set(whole[30:60])) == 30


def test_a_file_is_read_twice_only_where_two_ranges_meet(tmp_path):
    paths = write_files(tmp_path, [20, 5, 5, 10, 2, 3, 8, 7])
    opened = [Opened() for _ in range(4)]
    for rank, watch in enumerate(opened):
        batches(paths, batch_size=5, workers=4, rank=rank, steps=3, steps_per_epoch=3, faults=watch)
    assert 8 <= sum(watch.files for watch in opened) <= 8 + 3


def test_a_bad_record_moves_no_image_to_another_worker_twice(tmp_path):
    paths = write_files(tmp_path, [54, 6])
    data = bytearray(paths[0].read_bytes())
    data[100] ^= 1  # in the data of image 0
    paths[0].write_bytes(data)
    seen = [numbers(batches(paths, rank=rank, steps=5, faults=Faults(1))) for rank in (0, 1)]
    assert not set(seen[0]) & set(seen[1])
    assert set(seen[0]) | set(seen[1]) == set(range(1, 60))
