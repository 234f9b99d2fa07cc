"""The speedrun network against PyTorch.

Constants marked as PyTorch's were computed once with torch 2.13, in float64, by the network
of airbench94_muon.py with the weights of `set_waves`.
"""

import re
import zipfile

import keras
import numpy as np
import pytest

from models.registry import build_model
from models.speedrun import whitened_cnn

MEAN, STD = (125.0, 123.0, 114.0), (63.0, 62.0, 67.0)


@pytest.fixture(autouse=True)
def policy():
    """Lets a test set the global policy."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def wave(number, shape):
    """Values by a formula that PyTorch was given, too."""
    return np.cos(np.arange(np.prod(shape), dtype=np.float64) * (0.7 + 0.1 * number)).reshape(shape)


def photographs(*shape):
    return np.round(127.5 + 127.5 * wave(99, shape))


def set_waves(model):
    """Weights by a formula: kernels as `(height, width, in, out)`, the head `(in, out)`."""

    def kernel_of(name, number):
        shape = model.get_layer(name).kernel.shape
        return wave(number, shape) * (2 / np.prod(shape[:3])) ** 0.5

    model.get_layer("whitening").set_weights([kernel_of("whitening", 0), wave(1, 24) * 0.3])
    number = 2
    for part in (f"group{group}_{{}}{i}" for group in (1, 2, 3) for i in (1, 2)):
        model.get_layer(part.format("conv")).set_weights([kernel_of(part.format("conv"), number)])
        size = model.get_layer(part.format("bn")).beta.shape
        statistics = wave(number + 2, size) * 0.3, 1 + wave(number + 3, size) * 0.5
        model.get_layer(part.format("bn")).set_weights([wave(number + 1, size) * 0.3, *statistics])
        number += 4
    model.get_layer("head").set_weights([wave(number, model.get_layer("head").kernel.shape)])
    return model


def small(size=(None, None), **arguments):
    return whitened_cnn(size, 10, widths=(8, 12, 16), mean=MEAN, std=STD, **arguments)


# PyTorch's logits times 256, the first five classes of two images.
PYTORCH = {
    (32, 32): [
        [0.181352, -0.208673, 0.230769, -0.247086, 0.257216],
        [0.179457, -0.206294, 0.227964, -0.243927, 0.253781],
    ],
    (17, 20): [
        [0.129308, -0.146584, 0.16019, -0.169784, 0.175127],
        [0.130458, -0.147817, 0.161475, -0.171089, 0.17642],
    ],
}


@pytest.mark.parametrize("size", PYTORCH)
@pytest.mark.parametrize("static", [True, False])
def test_logits_are_those_of_pytorch(size, static):
    model = set_waves(small(size if static else (None, None)))
    logits = model(photographs(2, *size, 3), training=False)
    np.testing.assert_allclose(256 * np.array(logits)[:, :5], PYTORCH[size], atol=2e-5)


def test_logits_in_training_are_those_of_pytorch():
    logits = set_waves(small())(photographs(2, 32, 32, 3), training=True)
    expected = [
        [-0.237495, 0.186829, -0.131484, 0.072848, -0.012387],
        [0.523496, -0.607111, 0.675523, -0.72702, 0.760311],
    ]
    np.testing.assert_allclose(256 * np.array(logits)[:, :5], expected, atol=2e-3)


def test_parameters_are_those_of_pytorch():
    model = whitened_cnn((32, 32), 10)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trained == 1_971_352  # with the gammas, which do not train there, 1,972,792 - 288
    names = {v.path for v in model.trainable_variables}
    assert "whitening/bias" in names
    assert "whitening/kernel" not in names


def test_the_kernel_never_trains_and_the_bias_does():
    keras.utils.set_random_seed(0)
    model = small((16, 16))
    before = [np.array(v) for v in model.get_layer("whitening").weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(photographs(8, 16, 16, 3), np.arange(8), epochs=2, verbose=0)
    kernel, bias = (np.array(v) for v in model.get_layer("whitening").weights)
    np.testing.assert_array_equal(kernel, before[0])
    assert np.abs(bias - before[1]).max() > 0
    copy = keras.models.clone_model(model)
    assert "whitening/kernel" not in {v.path for v in copy.trainable_variables}


def test_convolutions_begin_as_the_identity_and_then_as_pytorchs():
    keras.utils.set_random_seed(0)
    model = whitened_cnn((32, 32), 10)
    kernel = np.array(model.get_layer("group1_conv1").kernel)  # 24 channels to 64
    image = photographs(1, 8, 8, 24)
    out = keras.ops.conv(image, kernel.astype("float64"), padding="same")
    np.testing.assert_array_equal(out[..., :24], image)
    bound = (9 * 24) ** -0.5  # kaiming_uniform_(a=sqrt(5)) of torch.nn.Conv2d
    rest = kernel[..., 24:]
    assert 0.99 * bound < np.abs(rest).max() <= bound
    assert np.std(rest) == pytest.approx(bound / 3**0.5, rel=0.02)
    narrower = whitened_cnn((32, 32), 10, widths=(8, 4, 4)).get_layer("group2_conv1").kernel
    np.testing.assert_array_equal(np.array(narrower)[1, 1], np.eye(8, 4))


def test_the_head_begins_with_the_asked_deviation():
    for std in (1.0, 0.036):
        head = np.array(whitened_cnn((32, 32), 100, head_std=std).get_layer("head").kernel)
        assert np.std(head) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, precision):
    images = photographs(2, 16, 16, 3)
    whole = 256 * np.array(set_waves(small())(images))
    policy(precision)
    logits = set_waves(small())(images)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(256 * np.array(logits), whole, atol=0.1)


def test_names_do_not_depend_on_what_was_built_before():
    first, second = (small((16, 16)) for _ in range(2))
    assert [v.path for v in first.variables] == [v.path for v in second.variables]
    assert [a.name for a in first.layers] == [a.name for a in second.layers]


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        ((32, 32), {"widths": (64, 256)}, r"three numbers.*\(64, 256\)"),
        ((32, 8), {}, r"9 or more.*\(32, 8\)"),
        (32, {}, r"\(height, width\).*32"),
        ((32, 32), {"depth": 3}, "depth; known: widths"),
    ],
)
def test_refusals(size, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model("whitened_cnn", size, 10, **arguments)


def test_a_single_pixel_is_left_of_nine():
    assert small((9, 9)).get_layer("group3_conv2").output.shape == (None, 1, 1, 16)


def test_a_saved_model_is_a_plain_one(tmp_path):
    model = set_waves(small())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        modules = set(re.findall(r'"module": "(\w+)', archive.read("config.json").decode()))
    assert modules == {"keras"}
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = photographs(2, 16, 16, 3)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
