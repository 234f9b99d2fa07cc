"""Damaged record files, read as a run reads them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.settings import Augmentation
from datasets.input.faults import Faults
from datasets.input.pipeline import ReadPlan, training_pipeline
from datasets.records.examples import make_example
from datasets.records.frames import frame, masked_crc
from datasets.records.schema import Records

COUNT = 40
HEADER = 12


def jpeg(value):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def example(number, encoded=None, label=1):
    encoded = jpeg(5 * number) if encoded is None else encoded
    name = b"%d.jpg" % number
    return make_example(encoded, height=16, width=16, label=label, synset="a", filename=name)


RECORDS = [example(number) for number in range(COUNT)]


def write(path, records=RECORDS):
    path.write_bytes(b"".join(map(frame, records)))
    return path


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def start_of(number):
    return sum(len(frame(record)) for record in RECORDS[:number])


def read(path, faults):
    dataset = tf.data.Dataset.from_tensors(str(path)).flat_map(faults.records)
    return [record.numpy() for record in dataset]


def batches(path, faults):
    """All of a file in one epoch of four batches."""
    plain = Augmentation(crop="none", flip=False)
    return list(
        training_pipeline(
            Records((path,), COUNT),
            ReadPlan(batch_size=10, steps_per_epoch=4),
            range(4),
            image_size=(16, 16),
            classes=5,
            augmentation=plain,
            faults=faults,
        )
    )


def test_a_whole_file_is_read_whole(tmp_path):
    faults = Faults(0)
    assert read(write(tmp_path / "a"), faults) == RECORDS
    assert faults.count == 0


@pytest.mark.parametrize("bad", [0, 17, COUNT - 1])
@pytest.mark.parametrize("offset", [0, 3, 9, HEADER + 60, -1])
def test_one_flipped_bit_loses_one_record(tmp_path, bad, offset):
    """In the length, its checksum, the data, and the data's checksum."""
    path = write(tmp_path / "a")
    flip(path, (start_of(bad + 1) if offset < 0 else start_of(bad)) + offset)
    faults = Faults(1)
    assert read(path, faults) == RECORDS[:bad] + RECORDS[bad + 1 :]
    (line,) = faults.news()
    assert f"at byte {start_of(bad)} of" in line
    assert faults.problem is None


def test_a_bad_record_is_named_once(tmp_path):
    path = write(tmp_path / "a")
    flip(path, start_of(3) + HEADER + 200)
    faults = Faults(1)
    read(path, faults)
    assert len(faults.news()) == 1
    read(path, faults)
    assert faults.news() == []
    assert faults.count == 1


def test_a_length_of_exabytes_takes_no_memory(tmp_path):
    path = write(tmp_path / "a")
    data = bytearray(path.read_bytes())
    lie = (2**62).to_bytes(8, "little")
    data[start_of(5) : start_of(5) + HEADER] = lie + masked_crc(lie)
    path.write_bytes(data)
    faults = Faults(1)
    assert read(path, faults) == RECORDS[:5] + RECORDS[6:]


@pytest.mark.parametrize("number", [0, 13])
@pytest.mark.parametrize("encoded", [b"", b"<html>", jpeg(3)[:80]])
def test_what_does_not_decode_is_replaced_in_its_place(tmp_path, number, encoded):
    """All other images stay where they are in the stream."""
    whole = batches(write(tmp_path / "a"), None)
    damaged = [*RECORDS]
    damaged[number] = example(number, encoded)
    faults = Faults(1)
    found = batches(write(tmp_path / "b", damaged), faults)
    differ = sum(
        not np.array_equal(a, b)
        for (x, _), (y, _) in zip(whole, found, strict=True)
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    )
    assert differ == 1
    (line,) = faults.news()
    assert line == f"'{number}.jpg': does not decode as JPEG"


def test_more_than_the_limit_stops(tmp_path):
    damaged = [example(i, b"") if i < 3 else record for i, record in enumerate(RECORDS)]
    with pytest.raises(tf.errors.OpError, match=r"3 bad record\(s\), more than"):
        batches(write(tmp_path / "a", damaged), Faults(2))


def test_a_file_that_goes_away_is_tried_again_and_then_an_end(tmp_path):
    faults = Faults(1, retries=(0.1, 0.1))
    with pytest.raises(tf.errors.OpError):
        batches(tmp_path / "gone", faults)
    assert "gone' cannot be read since 0.2 s: No such file" in faults.problem


def test_a_file_that_becomes_shorter_is_an_end(tmp_path):
    path = write(tmp_path / "a")
    path.write_bytes(path.read_bytes()[: start_of(20) + 50])
    faults = Faults(3, retries=())
    assert read(path, faults) == RECORDS[:20]
    assert faults.count == 1


def test_a_label_outside_the_classes_is_no_damage(tmp_path):
    records = [*RECORDS[:-1], example(9, label=7)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="label outside the classes"):
        batches(write(tmp_path / "a", records), Faults(5))
