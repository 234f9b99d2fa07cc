"""The original's colour augmentation, and how tensorflow-addons is imported beside Keras 3.

tensorflow-addons is at its end of life and looks for Keras 2 when it is imported. Only this
module uses it, and only a recipe with `colour` loads this module.
"""

import importlib
import math
import os
import sys
import warnings
from typing import Any

import tensorflow as tf

from core.settings import ColourJitter

# What addons imports from Keras 2, and where tf-keras has it.
STAND_INS = {
    "keras.src.engine": "tf_keras.src.engine",
    "keras.src.engine.keras_tensor": "tf_keras.src.engine.keras_tensor",
    "tensorflow.keras": "tf_keras",
    "tensorflow.keras.optimizers": "tf_keras.optimizers",
    "tensorflow.keras.optimizers.legacy": "tf_keras.optimizers.legacy",
}


def import_addons() -> Any:
    """The module `tensorflow_addons`, which needs Keras 2.

    It reads `tf.keras` and `keras.src.engine.keras_tensor`, which Keras 3 lacks; tf-keras
    replaces both during the import. Its compiled kernels were built for another TensorFlow,
    so its Python ops are used.
    """
    if "tensorflow_addons" in sys.modules:
        return sys.modules["tensorflow_addons"]
    before = {name: sys.modules.get(name) for name in STAND_INS}
    keras_of_tensorflow = tf.__dict__["keras"]
    os.environ["TF_ADDONS_PY_OPS"] = "1"
    try:
        for name, stand_in in STAND_INS.items():
            sys.modules[name] = importlib.import_module(stand_in)
        tf.__dict__["keras"] = sys.modules["tensorflow.keras"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is at its end of life
            return importlib.import_module("tensorflow_addons")
    finally:
        tf.__dict__["keras"] = keras_of_tensorflow
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def jitter(image: Any, seed: Any, settings: ColourJitter) -> Any:
    """Changes brightness, saturation, hue and contrast of a float32 image at random.

    Hue and saturation change in YIQ, as in the original, by addons' op. That op draws from
    TensorFlow's global generator, so this augmentation is the only one that `seed` does not
    repeat. The image is on the scale 0 to 255; the result may lie outside it.
    """
    first_seed, second_seed = tf.unstack(tf.random.split(seed, 2))
    image = tf.image.stateless_random_brightness(image, 255.0 * settings.brightness, first_seed)
    image = import_addons().image.random_hsv_in_yiq(
        image,
        max_delta_hue=settings.hue * math.pi,
        lower_saturation=1 - settings.saturation,
        upper_saturation=1 + settings.saturation,
    )
    if settings.contrast:  # TensorFlow refuses a range of none
        low, high = 1 - settings.contrast, 1 + settings.contrast
        image = tf.image.stateless_random_contrast(image, low, high, second_seed)
    return image
