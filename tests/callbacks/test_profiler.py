"""Traces of chosen steps, read with TensorFlow's own description of the file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.profiler.protobuf import xplane_pb2

from callbacks.profiler import Profiler
from tests.profiles import traced_steps


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def fit(model, callback, steps):
    data = np.ones((steps, 1))
    model.fit(data, data, batch_size=1, verbose=0, callbacks=[callback])


def test_a_trace_has_the_chosen_steps(model, tmp_path):
    said = []
    fit(model, Profiler(tmp_path, range(3, 6), said.append), 10)
    assert traced_steps(tmp_path) == [[3, 4, 5]]
    assert said == [f"profile of steps 3 to 5: {tmp_path / 'plugins' / 'profile'}"]
    (path,) = tmp_path.rglob("*.xplane.pb")
    assert path.parents[1] == tmp_path / "plugins" / "profile"  # where TensorBoard looks
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    names = {meta.name for plane in space.planes for meta in plane.event_metadata.values()}
    assert any("MatMul" in name for name in names)  # the work, and not the marks alone


def test_a_trace_ends_with_its_fit_and_the_rest_makes_another(model, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    callback = Profiler(folders[0], range(3, 7))
    fit(model, callback, 5)
    callback.folder = folders[1]  # two traces of one second would have one name
    fit(model, callback, 5)
    assert [traced_steps(folder) for folder in folders] == [[[3, 4]], [[5, 6]]]


def test_steps_before_a_resumed_one_are_left_out(model, tmp_path):
    callback = Profiler(tmp_path, range(3, 6))
    callback.start_at(4)
    fit(model, callback, 5)
    assert traced_steps(tmp_path) == [[4, 5]]
    late = Profiler(tmp_path / "late", range(3, 6))
    late.start_at(6)
    fit(model, late, 2)
    assert traced_steps(tmp_path / "late") == []


def test_a_fit_does_not_end_for_its_profile(model, tmp_path):
    said = []
    tf.profiler.experimental.start(str(tmp_path / "other"))
    try:
        fit(model, Profiler(tmp_path, range(1, 3), said.append), 4)
    finally:
        tf.profiler.experimental.stop(save=False)
    assert said == ["no profile (Another profiler is running.)"]
    assert model.optimizer.iterations == 4
    said.clear()
    (tmp_path / "file").touch()
    fit(model, Profiler(tmp_path / "file", range(1, 3), said.append), 4)
    (line,) = said
    assert line.startswith("no profile (")
