"""The settings of a worker's host before it trains."""

import os

import keras
import pytest
import tensorflow as tf

from core.devices import avoid_overrun, fuses_batch_norm
from models.registry import build_model

NAME = "ONEDNN_MAX_CPU_ISA"


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.setenv(NAME, "as it was")  # so that it is restored in any case
    monkeypatch.delenv(NAME)


@pytest.mark.parametrize(("widths", "isa"), [((4, 8, 16), "AVX"), ((16, 16, 16), None)])
def test_narrow_models_get_older_kernels(unset, widths, isa):
    avoid_overrun(build_model("resnet8", (28, 28), 10, widths=widths))
    assert os.environ.get(NAME) == isa


def test_a_users_setting_and_half_precision_stay_unchanged(unset, monkeypatch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        avoid_overrun(build_model("resnet8", (28, 28), 10, widths=(4, 8, 16)))
    finally:
        keras.config.set_dtype_policy("float32")
    assert NAME not in os.environ
    monkeypatch.setenv(NAME, "SSE41")
    avoid_overrun(build_model("resnet8", (28, 28), 10, widths=(4, 8, 16)))
    assert os.environ[NAME] == "SSE41"


@pytest.mark.parametrize(
    ("choice", "gpus", "xla", "deterministic", "fused"),
    [
        ("auto", 1, False, False, True),
        ("auto", 0, False, False, False),
        ("auto", 1, True, False, False),
        ("auto", 1, False, True, False),
        ("keras", 1, False, False, False),
        ("fused", 0, True, True, True),
    ],
)
def test_batch_norm_is_fused_on_a_gpu_unless_that_changes_promised_bits(
    monkeypatch, choice, gpus, xla, deterministic, fused
):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    assert fuses_batch_norm(choice, xla, deterministic) is fused
