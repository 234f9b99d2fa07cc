"""Each format as its own runtime loads it. Nothing here needs the Keras model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# From uint8 images `[batch, height, width, 3]` to float32 probabilities `[batch, classes]`.
Predict = Callable[[np.ndarray], np.ndarray]


def _saved_model(path: Path) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images)).numpy()


def _onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return lambda images: session.run(None, {image.name: images})[0]


def _litert(path: Path) -> Predict:
    interpreter = _interpreter()(str(path))
    (image,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(image["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return predict


def _interpreter() -> Any:
    """LiteRT's own interpreter; where it is not installed, the one inside TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    return Interpreter


def _openvino(path: Path) -> Predict:
    import openvino

    # On some processors the default is bfloat16, whose probabilities differ in the third digit.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path / "model.xml", "CPU", settings)
    return lambda images: np.array(compiled(images)[0])


# Each loads the first of its format's files.
RUNTIMES: dict[str, Callable[[Path], Predict]] = {
    "saved_model": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
    "openvino": _openvino,
}
