"""What is set before TensorFlow is imported."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from core import environment

NAMES = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")

# In a process of its own. oneDNN names each primitive that it runs where ONEDNN_VERBOSE is set.
PREPARED = """
import sys
from core import environment
environment.prepare()
environment.prepare()
ours = [type(f) for f in sys.meta_path if type(f).__module__ == "core.environment"]
assert environment.NotForKeras in ours and len(ours) == len(set(ours))
assert "tensorflow" not in sys.modules
import keras
import tensorflow as tf
tf.nn.conv2d(tf.ones((1, 8, 8, 16)), tf.ones((3, 3, 16, 16)), 1, "SAME")
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(tf.ones((1, 2)), tf.ones((1, 1)), verbose=0)
print("there:", sorted({"IPython", "matplotlib", "pandas", "sklearn"} & set(sys.modules)))
import matplotlib
print(matplotlib.__name__)
"""


def test_a_users_own_values_stay(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    found = environment.settings()
    assert set(found) == set(NAMES)
    assert found["KERAS_BACKEND"] == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert environment.settings()["KERAS_BACKEND"] == "jax"
    assert environment.settings()["TF_ENABLE_ONEDNN_OPTS"] == "0"


@pytest.fixture(scope="module")
def prepared(root):
    variables = {k: v for k, v in os.environ.items() if k not in NAMES}
    ran = subprocess.run(
        [sys.executable, "-c", PREPARED],
        cwd=root,
        env={**variables, "ONEDNN_VERBOSE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_convolutions_run_on_onednn(prepared):
    assert "exec,cpu,convolution" in prepared


def test_keras_starts_without_what_it_is_not_used_for_and_others_can_import_it(prepared):
    assert "there: []\nmatplotlib\n" in prepared


NOISE = (
    b"2026-12-01 02:00:00.1: E xla/cuda_fft.cc:477] Unable to register cuFFT factory: Attempting\n"
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"E0000 00:00:1.0 1 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting to\n"
)


def test_noise_is_left_out_of_what_native_code_writes_and_the_rest_comes(capfdbinary):
    with environment.without_lines(environment.CUDA_NOISE):
        os.write(2, b"before\n" + NOISE + b"E0000 a real error\n")
    os.write(2, NOISE)
    assert capfdbinary.readouterr().err == b"before\nE0000 a real error\n" + NOISE


def test_what_was_written_before_an_error_comes_too(capfdbinary):
    with contextlib.suppress(ImportError), environment.without_lines(environment.CUDA_NOISE):
        os.write(2, b"why\n")
        raise ImportError
    assert capfdbinary.readouterr().err == b"why\n"


def test_tensorflow_is_imported_quietly_where_there_is_no_gpu(tmp_path, root):
    """A stand-in that writes what TensorFlow writes: its import takes seconds."""
    code = f"import os\nos.write(2, {NOISE!r} + b'heard')\n"
    (tmp_path / "tensorflow.py").write_text(code)
    script = """
from core import environment
environment.has_gpu_driver = lambda: {gpu}
environment.prepare()
import tensorflow, tensorflow as again
assert tensorflow.__spec__.name == "tensorflow"
"""
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    for gpu, heard in ((False, b"heard"), (True, NOISE + b"heard")):
        command = [sys.executable, "-c", script.format(gpu=gpu)]
        ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True)
        assert (ran.returncode, ran.stderr) == (0, heard)


def test_bars_are_for_terminals_also_behind_our_launcher_and_for_notebooks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv(environment.TERMINAL, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not environment.shows_bars()
    monkeypatch.setenv(environment.TERMINAL, "1")
    assert environment.shows_bars()
    monkeypatch.delenv(environment.TERMINAL)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert environment.shows_bars()
