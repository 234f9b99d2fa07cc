"""The pipeline in the process of a `tf.data` service, against the same one in this process."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.input_service import served, server_here
from core.settings import Augmentation
from datasets.input.pipeline import ReadPlan, training_pipeline
from datasets.records.examples import make_example
from datasets.records.schema import Records
from tests.datasets.input.test_fused_jpeg import jpeg, photograph

BATCH, STEPS_PER_EPOCH = 3, 4


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three files of four photographs, all of them different."""
    folder = tmp_path_factory.mktemp("records")
    paths = tuple(folder / f"train-{i:05d}-of-00003" for i in range(3))
    for i, path in enumerate(paths):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(4 * i, 4 * i + 4):
                encoded = jpeg(photograph(40 + number, 30))
                fields = {"height": 30, "width": 40 + number, "label": number + 1, "synset": ""}
                writer.write(make_example(encoded, **fields))
    return Records(paths, 12)


def part(records, number, parts, steps):
    plan = ReadPlan(BATCH, STEPS_PER_EPOCH, seed=5, threads=1, part=number, parts=parts)
    settings = {"image_size": (16, 16), "classes": 12, "augmentation": Augmentation()}
    return training_pipeline(records, plan, steps, **settings)


def arrays(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_parts_are_the_batches_in_turns(records):
    steps = range(3, 10)
    whole = arrays(part(records, 0, 1, steps))
    assert len(whole) == 7
    for number in range(3):
        assert_same(arrays(part(records, number, 3, steps)), whole[number::3])


def test_what_a_server_delivers_is_the_local_pipeline_to_the_bit(records):
    """Both parts by one server, in a process of its own; over an epoch's end, from a later step."""
    steps = range(3, 10)
    with server_here(threads=1) as (address, _):
        found = arrays(served(lambda k, n: part(records, k, n, steps), [address] * 2, threads=1))
    assert_same(found, arrays(part(records, 0, 1, steps)))
    assert len({images.tobytes() for images, _ in found}) == len(steps)
