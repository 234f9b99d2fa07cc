"""The format of checkpoints: plain for Keras, whole or recognised, written beside training."""

import errno
import hashlib
import subprocess
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import checkpoints
from core.checkpoints import (
    BackgroundWriter,
    BadCheckpoint,
    Snapshot,
    check,
    read_arrays,
    read_state,
    superseded,
    write,
)
from core.files import whole


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """A checkpoint of the values 7, written when the model has moved on to 8."""
    path = tmp_path_factory.mktemp("checkpoints") / "step-7.keras"
    variables = [*model.variables, *model.optimizer.variables]
    values = [(v, np.full(v.shape, 7, v.dtype)) for v in variables]
    for variable in variables:
        variable.assign(np.full(variable.shape, 8, variable.dtype))
    arrays = [[np.arange(3.0), np.array(2, "uint32")], [np.ones((1, 2))]]
    write(model, Snapshot(7, values, {"seconds": 1.5}, arrays), path)
    return path


def test_it_is_a_plain_keras_file_of_the_snapshot(model, written):
    loaded = keras.saving.load_model(written)
    for variable in [*loaded.variables, *loaded.optimizer.variables]:
        np.testing.assert_array_equal(variable.numpy(), 7)
    for variable in model.variables:  # which writing has left alone
        np.testing.assert_array_equal(variable.numpy(), 8)


def test_its_state_and_each_workers_arrays_come_back(written):
    assert read_state(written) == {"step": 7, "seconds": 1.5}
    first, second = read_arrays(written, 0), read_arrays(written, 1)
    np.testing.assert_array_equal(first[0], [0, 1, 2])
    assert (first[1].dtype, first[1].shape, int(first[1])) == (np.uint32, (), 2)
    np.testing.assert_array_equal(second[0], [[1, 1]])


def test_its_last_64_bytes_are_the_sha256_of_all_before(written):
    data = written.read_bytes()
    assert data[-64:].decode() == hashlib.sha256(data[:-64]).hexdigest()
    check(written)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_changed_bit_is_found(written, tmp_path_factory, data):
    changed = bytearray(written.read_bytes())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("changed") / "step-7.keras"
    path.write_bytes(changed)
    with pytest.raises(BadCheckpoint):
        check(path)


@pytest.mark.parametrize("length", [0, 10, 70, 1000, -1])
def test_a_file_that_is_cut_short_is_found(written, tmp_path, length):
    path = tmp_path / "step-7.keras"
    path.write_bytes(written.read_bytes()[:length])
    with pytest.raises(BadCheckpoint, match=r"cut short|altered"):
        check(path)


def test_a_missing_file_and_one_of_another_program_are_found(model, tmp_path):
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        check(tmp_path / "none.keras")
    model.save(tmp_path / "plain.keras")
    with pytest.raises(BadCheckpoint, match="digest"):
        check(tmp_path / "plain.keras")
    with pytest.raises(BadCheckpoint, match="no state of a run"):
        read_state(tmp_path / "plain.keras")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**7))
        archive.comment = b"sha256:" + b"0" * 64
    content = path.read_bytes()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    with pytest.raises(BadCheckpoint, match=r"unpack to [0-9]+ times its size"):
        check(path)


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    path = tmp_path / "a.keras"
    path.write_text("the one before")

    def break_off():
        with whole(path) as unfinished:
            unfinished.write_text("half of i")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        break_off()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the one before"]


@pytest.mark.parametrize(
    ("steps", "newest", "each", "gone"),
    [
        ([0, 20, 40, 60], None, None, []),
        ([0, 20, 40, 60], 2, None, [0, 20]),
        ([0, 20, 40, 60, 80, 100], 1, 2, [20, 60]),  # every second: 0, 40, 80
        ([0, 20, 40, 60], None, 3, [20, 40]),
        ([0, 80, 92], 1, None, [0, 80]),  # 92 is the run's last
        ([0, 714, 1428, 2000], None, 2, [714]),  # of another number of workers before
    ],
)
def test_which_regular_checkpoints_may_go(steps, newest, each, gone):
    regular = [Path(str(step)) for step in steps]
    assert superseded(regular, newest, each) == [Path(str(step)) for step in gone]


def test_the_digest_is_of_the_whole_of_a_large_file(model, tmp_path):
    path = tmp_path / "large.keras"
    noise = np.random.default_rng(0).integers(0, 256, 3 * 2**20, "uint8")
    write(model, Snapshot(1, arrays=[[noise]]), path)
    content = path.read_bytes()
    assert len(content) > 3 * 2**20
    independent = subprocess.run(
        ["sha256sum"], input=content[:-64], capture_output=True, check=True
    )
    assert content[-64:] == independent.stdout.split()[0]
    for place in (2**20 + 10, 2 * 2**20 + 10, len(content) - 200):
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(BadCheckpoint, match="altered"):
            check(path)


def test_a_write_that_fails_is_tried_again_and_then_left_out(monkeypatch):
    monkeypatch.setattr(checkpoints, "RETRIES", (0.0, 0.0))
    tries, lines = [], []

    def fail(snapshot):
        tries.append(snapshot.step)
        if snapshot.step < 3 or tries.count(3) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "run/x.keras")

    writer = BackgroundWriter(fail, lines.append)
    for step in (1, 2):
        writer.start(Snapshot(step))
    writer.wait()
    assert tries == [1, 1, 1, 2, 2, 2]
    assert [text.split(" of ")[1][:6] for text in writer.left_out] == ["step 1", "step 2"]
    assert lines[0] == (
        "checkpoint of step 1 could not be written: No space left on device: 'run/x.keras'; "
        "trying again in 0 s"
    )
    writer.start(Snapshot(3))
    writer.wait()
    assert tries[-2:] == [3, 3]
    assert writer.left_out == []


def test_another_error_is_raised_where_the_writer_is_waited_for():
    def fail(snapshot):
        raise ValueError("a slip")

    writer = BackgroundWriter(fail, print)
    writer.start(Snapshot(1))
    with pytest.raises(ValueError, match="a slip"):
        writer.wait()
