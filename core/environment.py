"""What to set before Keras and TensorFlow are imported. Imports neither of the two."""

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
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
# Set to 1 for workers whose launcher passes their bars on to a terminal; their own standard
# error is a pipe.
TERMINAL = "RECIPE_TERMINAL"
# TensorFlow 2.18 writes these lines at its import, whatever TF_CPP_MIN_LOG_LEVEL is: it registers
# CUDA's libraries twice.
CUDA_NOISE = re.compile(
    rb".*Unable to register cu\w+ factory: .*\n"
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR\n"
)


def has_gpu_driver() -> bool:
    """Whether this host has NVIDIA's driver."""
    return os.path.exists("/dev/nvidiactl")


def settings() -> dict[str, str]:
    """Variables to set before Keras and TensorFlow are imported; a user's own values stay."""
    # Where there is no GPU, TensorFlow's warnings about CUDA help nobody.
    warnings = {"TF_CPP_MIN_LOG_LEVEL": "1" if has_gpu_driver() else "3"}
    return {k: os.environ.get(k, value) for k, value in (DEFAULTS | warnings).items()}


class NotForKeras:
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


class QuietTensorFlow:
    """Leaves out `CUDA_NOISE` when TensorFlow is imported; a finder for `sys.meta_path`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        if (spec := importlib.util.find_spec(name)) and spec.loader:
            run = spec.loader.exec_module

            def run_quietly(module: Any) -> None:
                with without_lines(CUDA_NOISE):
                    run(module)

            spec.loader.exec_module = run_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def without_lines(noise: re.Pattern[bytes]) -> Iterator[None]:
    """Leaves out what native code writes to standard error, if it matches; the rest comes late."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        original = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            kept.seek(0)
            with os.fdopen(original, "wb") as error:
                error.write(noise.sub(b"", kept.read()))


def prepare() -> None:
    """Sets the variables; keeps TensorFlow quiet without a GPU, and Keras's start short."""
    os.environ.update(settings())
    wanted: list[type[NotForKeras | QuietTensorFlow]] = [NotForKeras]
    if not has_gpu_driver() and "tensorflow" not in sys.modules:
        wanted.append(QuietTensorFlow)
    for finder in wanted:
        if not any(isinstance(there, finder) for there in sys.meta_path):
            sys.meta_path.insert(0, finder())


def shows_bars() -> bool:
    """Whether standard error ends in a terminal or a notebook. In a file, a bar is noise."""
    is_terminal = sys.stderr.isatty() or os.environ.get(TERMINAL) == "1"
    return is_terminal or "ipykernel" in sys.modules


def for_modules() -> dict[str, str]:
    """This process's variables, with which `python -m` finds the project from any folder."""
    paths = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
