"""The classifier of an export, and the files of each format with the names of the classes inside.

Keras converts; here stands only what differs from one format to the next.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from core.keras_patches import constants_in_the_graph
from deploy.formats import CLASSES

METADATA = "classes"  # the key of the names, a JSON list, in ONNX and OpenVINO


def classifier(model: keras.Model, size: int, each_class_apart: bool = False) -> keras.Model:
    """A model from uint8 images to probabilities, around one that returns logits.

    Args:
        model: a functional model from RGB images on the scale 0 to 255 to logits.
        size: height and width of the images in pixels.
        each_class_apart: a sigmoid for each class, as the binary cross-entropy trains it:
            the probabilities then do not add up to 1. By default a softmax.

    Returns:
        A model from `image`, uint8 `[batch, size, size, 3]`, to `probabilities`, float32
        `[batch, classes]`.
    """
    constants_in_the_graph(model)
    images = keras.Input((size, size, 3), dtype="uint8", name="image")
    logits = model(keras.ops.cast(images, "float32"))
    activation = "sigmoid" if each_class_apart else "softmax"
    layer = keras.layers.Activation(activation, dtype="float32", name="probabilities")
    return keras.Model(images, layer(logits))


def write_keras(model: keras.Model, folder: Path) -> None:
    """The model itself, unpacked as on the Hugging Face Hub."""
    model.save(str(folder), zipped=False)


def _saved_model(model: keras.Model, names: Sequence[str], folder: Path) -> None:
    path = folder / "saved_model"
    model.export(str(path), format="tf_saved_model", verbose=False)
    # The place for what goes with a SavedModel and no graph reads.
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / CLASSES).write_text(lines(names), encoding="utf-8")


def _onnx(model: keras.Model, names: Sequence[str], folder: Path) -> None:
    import onnx

    path = folder / "model.onnx"
    model.export(str(path), format="onnx", verbose=False, input_signature=model.inputs)
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {METADATA: json.dumps(names)})
    onnx.save(written, path)


def _litert(model: keras.Model, names: Sequence[str], folder: Path) -> None:
    path = folder / "model.tflite"
    # By default Keras lets TensorFlow's own operators in, which only a runtime with TensorFlow
    # inside has, and keeps the weights as variables.
    model.export(
        str(path),
        format="litert",
        verbose=False,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        experimental_enable_resource_variables=False,
    )
    # TensorFlow Lite's place for files: a ZIP archive behind the model, which runtimes skip.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES, lines(names))


def _openvino(model: keras.Model, names: Sequence[str], folder: Path) -> None:
    import openvino

    first, path = folder / "openvino-first", folder / "openvino"
    first.mkdir()
    with _no_reports():
        model.export(str(first / "model.xml"), format="openvino", verbose=False)
    written = openvino.Core().read_model(first / "model.xml")
    written.set_rt_info(json.dumps(names), ["model_info", METADATA])
    path.mkdir()
    openvino.serialize(written, path / "model.xml")  # not where the weights are read from
    for file in first.iterdir():
        file.unlink()
    first.rmdir()


@contextlib.contextmanager
def _no_reports() -> Iterator[None]:
    """Keeps OpenVINO's converter from reporting its use to its makers, as it does outside CI."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def lines(names: Sequence[str]) -> str:
    """The names, a line each."""
    return "".join(f"{name}\n" for name in names)


# Each writes its format's files of a `classifier` into a folder.
WRITERS: dict[str, Callable[[keras.Model, Sequence[str], Path], None]] = {
    "saved_model": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
    "openvino": _openvino,
}
