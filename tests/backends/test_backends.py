"""A model saved by TensorFlow gives the same predictions on JAX, without the project."""

import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from models.registry import build_model
from tests.waiting import HANG_SECONDS

PYTHON = Path(__file__).parents[2] / ".venv-backends" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="JAX's environment is absent: make test-backends creates it"
)

PREDICT = """
import pathlib, sys
import keras, numpy
assert keras.backend.backend() == "jax", keras.backend.backend()
for folder in map(pathlib.Path, sys.argv[1:]):
    model = keras.saving.load_model(folder / "model.keras")
    images = numpy.load(folder / "images.npy")
    numpy.save(folder / "jax.npy", model.predict(images, verbose=0))
assert not {"models", "tensorflow"} & {name.split(".")[0] for name in sys.modules}
"""

# name, image size, policy, tolerance
CASES = [
    ("resnet8", (28, 28), "float32", 1e-4),
    ("resnet8", (32, 32), "mixed_bfloat16", 0.05),  # bfloat16 has 8 bits
    ("resnet18", (65, 48), "float32", 1e-4),  # 'same' padding of odd and even sizes
]


def save(folder, name, size, precision):
    """A model with random weights and statistics, images, and TensorFlow's logits."""
    keras.config.set_dtype_policy(precision)
    model = build_model(name, size, 10)
    draw = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(draw.normal(0, 0.3, variable.shape))
    images = draw.integers(0, 256, (4, *size, 3), dtype=np.uint8)
    folder.mkdir()
    model.save(folder / "model.keras")
    np.save(folder / "images.npy", images)
    np.save(folder / "tensorflow.npy", keras.ops.convert_to_numpy(model(images)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each case, with the logits of both; one JAX process reads them all."""
    keras.utils.set_random_seed(0)
    root = tmp_path_factory.mktemp("models")
    paths = [root / f"{name}_{precision}" for name, _, precision, _ in CASES]
    before = keras.config.dtype_policy()
    try:
        for path, case in zip(paths, CASES, strict=True):
            save(path, *case[:3])
    finally:
        keras.config.set_dtype_policy(before)
    variables = {"PATH": os.environ["PATH"], "HOME": str(root)}
    variables |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    variables |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiling is most of the time
    run = subprocess.run(
        [PYTHON, "-P", "-c", PREDICT, *paths],  # -P: the current folder is not on the path
        capture_output=True,
        text=True,
        cwd=root,
        env=variables,
        timeout=HANG_SECONDS,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return paths


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(c[::2]) for c in CASES])
def test_jax_predicts_the_same(folders, case):
    expected, logits = (np.load(folders[case] / f"{b}.npy") for b in ("tensorflow", "jax"))
    tolerance = CASES[case][3]
    assert np.std(expected) > 0.02
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=tolerance)
