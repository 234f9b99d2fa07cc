"""What to set before Keras and TensorFlow are imported. Imports neither of the two."""

import os
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
DEFAULTS = {
    "KERAS_BACKEND": "tensorflow",
    # By itself, TensorFlow uses oneDNN only on processors with AVX512-VNNI or AMX. Others gain,
    # too: with AVX2, the network of the CIFAR-10 race trained 1.4, 1.6 and 2.3 times as many
    # images a second at 32, 24 and 16 pixels.
    "TF_ENABLE_ONEDNN_OPTS": "1",
}
# Packages that Keras imports where they are installed, for its wrappers of scikit-learn's
# classes, data frames, galleries of images and notebooks. Nothing here uses Keras for those.
UNUSED_BY_KERAS = frozenset({"IPython", "matplotlib", "pandas", "sklearn"})


def has_gpu_driver() -> bool:
    """Whether this host has NVIDIA's driver."""
    return os.path.exists("/dev/nvidiactl")


def settings() -> dict[str, str]:
    """Variables to set before Keras and TensorFlow are imported; a user's own values stay."""
    # Where there is no GPU, TensorFlow's warnings about CUDA help nobody.
    warnings = {"TF_CPP_MIN_LOG_LEVEL": "1" if has_gpu_driver() else "3"}
    return {k: os.environ.get(k, value) for k, value in (DEFAULTS | warnings).items()}


def prepare() -> None:
    """Sets the variables, and has Keras start without the packages that it is not used with."""
    os.environ.update(settings())
    if not any(isinstance(finder, _NotForKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NotForKeras())


class _NotForKeras:
    """Tells Keras that a package is not installed; everyone else can import it.

    Keras catches the error, as where the package is missing.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] not in UNUSED_BY_KERAS:
            return
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("keras."):
            raise ModuleNotFoundError(f"'{name}' is left out of Keras's start", name=name)


def for_modules() -> dict[str, str]:
    """This process's variables, with which `python -m` finds the project from any folder."""
    paths = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
