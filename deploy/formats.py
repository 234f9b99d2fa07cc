"""The formats of an export: how each file is called, what it needs and cannot do. No TensorFlow."""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.errors import UserError

REQUIREMENTS = "requirements-export.txt"
CLASSES = "classes.txt"  # the names of the classes, a line each, in the order of the outputs


@dataclass(frozen=True)
class Format:
    """A format that Keras exports to.

    Attributes:
        name: as `--format` has it; "keras" is always written.
        files: what it writes in the export folder; the first one is what a runtime loads.
        packages: the modules that it needs beyond those of `requirements.txt`.
        cannot: what it cannot do, in one sentence.
    """

    name: str
    files: tuple[str, ...]
    packages: tuple[str, ...]
    cannot: str


# The layout that `keras.saving.load_model("hf://...")` reads: saved with `zipped=False`.
KERAS = Format(
    "keras",
    ("config.json", "metadata.json", "model.weights.h5"),
    (),
    "returns logits, not probabilities; takes images of any size; has no names of classes inside",
)
FORMATS = {
    format.name: format
    for format in (
        Format(
            "saved_model",
            ("saved_model",),
            (),
            "needs TensorFlow, or TensorFlow Serving; the names of the classes lie in its "
            "assets.extra, which TensorFlow does not read",
        ),
        Format(
            "onnx",
            ("model.onnx",),
            ("onnx", "tf2onnx", "onnxruntime"),
            "needs a runtime such as onnxruntime; neither TensorFlow nor Keras loads it",
        ),
        Format(
            "litert",
            ("model.tflite",),
            (),
            "takes one image until `resize_tensor_input` asks for another batch; is not quantised",
        ),
        Format(
            "openvino",
            ("openvino",),
            ("openvino",),
            "by default computes in bfloat16 on a processor that has it; for the figures of the "
            "table ask for INFERENCE_PRECISION_HINT f32",
        ),
    )
}


def parse_formats(text: str) -> list[Format]:
    """The formats of a list such as `saved_model,onnx`, each once, in the order of `FORMATS`."""
    asked = {name.strip() for name in text.split(",")}
    if unknown := asked - set(FORMATS):
        raise UserError(
            f"--format: received {text!r}; {min(unknown)!r} is not one of {', '.join(FORMATS)}"
        )
    return [format for name, format in FORMATS.items() if name in asked]


def missing_packages(format: Format) -> list[str]:
    """Those of the format's modules that are not installed."""
    return [name for name in format.packages if importlib.util.find_spec(name) is None]


def what_to_install(formats: Iterable[Format]) -> str:
    """Which of the formats cannot be written here, and what to do, in a sentence; else empty."""
    missing = {format.name: missing_packages(format) for format in formats}
    lacking = {name: packages for name, packages in missing.items() if packages}
    if not lacking:
        return ""
    words = "; ".join(f"{name} needs {_listed(names)}" for name, names in lacking.items())
    return f"not exported: {words}; `pip install -r {REQUIREMENTS}` installs what is missing"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
