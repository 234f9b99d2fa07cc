"""Variables for Keras, TensorFlow and the processes of a run. Imports neither of the two."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DEFAULTS = {
    "KERAS_BACKEND": "tensorflow",
    # By itself, TensorFlow uses oneDNN only on processors with AVX512-VNNI or AMX. Others gain,
    # too: with AVX2, the network of the CIFAR-10 race trained 1.4, 1.6 and 2.3 times as many
    # images a second at 32, 24 and 16 pixels.
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def has_gpu_driver() -> bool:
    """Whether this host has NVIDIA's driver."""
    return os.path.exists("/dev/nvidiactl")


def settings() -> dict[str, str]:
    """Variables to set before Keras and TensorFlow are imported; a user's own values stay."""
    # Where there is no GPU, TensorFlow's warnings about CUDA help nobody.
    warnings = {"TF_CPP_MIN_LOG_LEVEL": "1" if has_gpu_driver() else "3"}
    return {k: os.environ.get(k, value) for k, value in (DEFAULTS | warnings).items()}


def for_modules() -> dict[str, str]:
    """This process's variables, with which `python -m` finds the project from any folder."""
    paths = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
