"""What is set before TensorFlow is imported."""

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
assert len([f for f in sys.meta_path if type(f).__module__ == "core.environment"]) == 1
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
