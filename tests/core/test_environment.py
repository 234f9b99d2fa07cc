"""What is set before TensorFlow is imported."""

import os
import subprocess
import sys

from core import environment

NAMES = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")


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


def test_convolutions_run_on_onednn(root):
    """oneDNN names each primitive that it runs where ONEDNN_VERBOSE is set."""
    code = """
import os, sys
from core import environment
os.environ.update(environment.settings())
assert "tensorflow" not in sys.modules
import tensorflow as tf
tf.nn.conv2d(tf.ones((1, 8, 8, 16)), tf.ones((3, 3, 16, 16)), 1, "SAME")
"""
    variables = {k: v for k, v in os.environ.items() if k not in NAMES}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**variables, "ONEDNN_VERBOSE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "exec,cpu,convolution" in ran.stdout
