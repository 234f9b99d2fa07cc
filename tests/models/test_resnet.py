import keras
import numpy as np
import pytest

from models.registry import build_model
from models.resnet import _Builder
from tests.models import numpy_resnet
from tests.saved import packages_named_in


@pytest.fixture(autouse=True)
def policy():
    """Lets a test set the global policy."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def randomise(model, seed=0):
    """Random gammas, betas and statistics, so that no batch normalisation is blind."""
    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.set_weights(
                [
                    draw.uniform(0.5, 1.5, size),
                    draw.normal(0, 0.3, size),
                    draw.normal(0, 0.3, size),
                    draw.uniform(0.5, 2.0, size),
                ]
            )
    return model


def photographs(height, width, batch=2, seed=1):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def logits_of(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.fixture(scope="module")
def resnet50():
    """A new one; tests may change its BatchNorm, and nothing else. To build it takes seconds."""
    keras.utils.set_random_seed(0)
    return build_model("resnet50", (64, 64), 1000)


# torchvision's published counts; the original's log prints that of ResNet-50.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_are_those_published(name, parameters):
    assert trainable(build_model(name, (64, 64), 1000)) == parameters


def test_parameters_of_resnet50_are_those_published(resnet50):
    assert trainable(resnet50) == 25_557_032


def test_parameters_of_a_small_model_by_hand():
    model = build_model("resnet8", (32, 32), 10, widths=(4, 8, 16))
    batch_norms = 2 * (4 * 3 + 8 * 3 + 16 * 3)  # stem and block 1; two blocks with shortcuts
    kernels = 9 * (3 * 4 + 4 * 4 * 2 + 4 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 4 * 8 + 8 * 16
    assert trainable(model) == kernels + batch_norms + 16 * 10 + 10


def test_initial_l2_is_that_of_the_original_log(resnet50):
    kernels = [v.numpy() for v in resnet50.trainable_variables if v.name == "kernel"]
    assert len(kernels) == 54
    l2 = 2e-4 / 2 * sum(float(np.sum(k.astype(np.float64) ** 2)) for k in kernels)
    assert l2 == pytest.approx(9.607 - 6.931, abs=0.01)  # total_loss - loss of its first line


def test_kernels_of_one_shape_differ():
    model = build_model("resnet14", (32, 32), 10)
    first, second = (model.get_layer(f"stage1_block{b}_conv1").get_weights()[0] for b in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 49)])
def test_resnet50_agrees_with_numpy(resnet50, height, width):
    mean, std = (121, 115, 100), (70, 68, 71)
    model = resnet50
    if (height, width) != (64, 64):
        model = build_model("resnet50", (height, width), 1000)
    randomise(model)
    images = photographs(height, width)
    logits = logits_of(model, images)
    expected = numpy_resnet.resnet50(
        images, lambda name: model.get_layer(name).get_weights(), mean, std
    )
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


# He et al. 2015, table 1 at 224 px; section 4.2 at 32 px.
@pytest.mark.parametrize(
    ("name", "size", "stages"),
    [
        ("resnet18", 224, [(56, 64), (28, 128), (14, 256), (7, 512)]),
        ("resnet50", 224, [(56, 256), (28, 512), (14, 1024), (7, 2048)]),
        ("resnet20", 32, [(32, 32), (16, 64), (8, 128)]),
        ("resnet8", 28, [(28, 32), (14, 64), (7, 128)]),
    ],
)
def test_stages(name, size, stages):
    model = build_model(name, (size, size), 10)
    blocks = [layer for layer in model.layers if layer.name.endswith("_out")]
    by_stage = {block.name.split("_")[0]: block.output.shape for block in blocks}  # the last wins
    assert list(by_stage.values()) == [(None, side, side, c) for side, c in stages]


def test_the_stride_is_on_the_first_3x3(resnet50):
    for name, strided in (("resnet50", "conv2"), ("resnet18", "conv1"), ("resnet8", "conv1")):
        model = resnet50 if name == "resnet50" else build_model(name, (64, 64), 10)
        found = {layer.name for layer in model.layers if getattr(layer, "strides", 1) == (2, 2)}
        later = {n for n in found if n.startswith("stage")}
        stages = {n.split("_")[0] for n in later}
        assert len(stages) == (2 if name == "resnet8" else 3)
        assert later == {f"{s}_block1_{c}" for s in stages for c in (strided, "shortcut_conv")}


@pytest.mark.parametrize(("name", "last"), [("resnet50", "bn3"), ("resnet14", "bn2")])
def test_zero_gamma_makes_every_block_its_shortcut(name, last):
    """The kernels beside the shortcuts may be anything: a new model's logits ignore them."""
    images = photographs(32, 32)
    model = build_model(name, (32, 32), 10)
    before = logits_of(model, images)
    for layer in model.layers:
        if "_block" in layer.name and layer.name[:-1].endswith("_conv"):
            layer.set_weights([np.full(layer.kernel.shape, 0.01)])
    np.testing.assert_array_equal(logits_of(model, images), before)
    for layer in model.layers:
        if layer.name.endswith(last):
            layer.gamma.assign(np.ones(layer.gamma.shape))
    assert np.abs(logits_of(model, images) - before).max() > 1e-3


# By torch 2.13, in float64: conv2d with the kernel (1, 2, 1) x (1, 2, 1) / 16, padding 1, groups
# of one channel, on cos(0.7 i) as 6 x 7 pixels of 16 channels; rows 0 and 1 of channel 3.
BLURRED = [
    [-0.037716, 0.098749, 0.13484, -0.044003, -0.152706, -0.017997, 0.113383],
    [-8.5e-05, -0.002432, -0.002102, 0.001579, 0.002743, -0.000465, -0.002631],
]


def test_a_blur_is_that_of_pytorch(tmp_path):
    x = keras.Input((6, 7, 16))
    blur = keras.Model(x, _Builder(1.0, True, True, blur_pool=True).blurred(x, "blur"))
    image = np.cos(np.arange(6 * 7 * 16) * 0.7).reshape(1, 6, 7, 16)
    np.testing.assert_allclose(logits_of(blur, image)[0, :2, :, 3], BLURRED, atol=2e-6)
    blur.save(tmp_path / "blur.keras")
    for copy in (keras.models.clone_model(blur), keras.saving.load_model(tmp_path / "blur.keras")):
        np.testing.assert_array_equal(logits_of(copy, image), logits_of(blur, image))
        assert not copy.trainable_variables


@pytest.mark.parametrize(
    ("name", "strided", "parameters"),
    [("resnet50", "2", 25_557_032), ("resnet18", "1", 11_689_512)],
)
def test_the_inputs_of_strided_convolutions_are_blurred(name, strided, parameters):
    model = build_model(name, (64, 64), 1000, blur_pool=True)
    assert trainable(model) == parameters
    blocks = [f"stage{stage}_block1" for stage in (2, 3, 4)]
    places = [f"{block}_{end}" for block in blocks for end in ("shortcut_{}", "{}" + strided)]
    found = {layer.name for layer in model.layers if "blur" in layer.name}
    assert found == {place.format("blur") for place in places}
    for place in places:
        blur, convolution = (model.get_layer(place.format(kind)) for kind in ("blur", "conv"))
        assert convolution.input is blur.output
        assert (blur.strides, convolution.strides) == ((1, 1), (2, 2))


def test_zero_gamma_can_be_left_out():
    gammas = [
        (v.path, float(np.mean(v.numpy())))
        for argument in (True, False)
        for v in build_model("resnet8", (32, 32), 10, zero_gamma=argument).variables
        if v.name == "gamma"
    ]
    assert {path for path, gamma in gammas if gamma == 0} == {
        f"stage{stage}_block1_bn2/gamma" for stage in (1, 2, 3)
    }
    assert {gamma for _, gamma in gammas[len(gammas) // 2 :]} == {1.0}


@pytest.mark.parametrize(
    ("name", "sizes"), [("resnet8", [(32, 32), (28, 17)]), ("resnet18", [(47, 33)])]
)
def test_any_image_size(name, sizes):
    model = randomise(build_model(name, (None, None), 10))
    for height, width in sizes:
        fixed = build_model(name, (height, width), 10)
        fixed.set_weights(model.get_weights())
        images = photographs(height, width)
        np.testing.assert_allclose(logits_of(fixed, images), logits_of(model, images), atol=1e-5)


def test_weights_move_between_sizes(tmp_path):
    small, large = (build_model("resnet18", (side, side), 10) for side in (128, 224))
    small.save_weights(tmp_path / "model.weights.h5")
    large.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(small.get_weights(), large.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_normalisation_is_inside():
    model = build_model("resnet8", (32, 32), 10, mean=(10, 20, 30), std=(1, 2, 4))
    inner = keras.Model(model.input, model.get_layer("normalise").output)
    image = np.broadcast_to(np.array([12, 18, 30], np.uint8), (1, 32, 32, 3))
    np.testing.assert_array_equal(logits_of(inner, image)[0, 0, 0], [2, -1, 0])


def test_uint8_and_float_images_are_the_same():
    model = build_model("resnet8", (32, 32), 10)
    images = photographs(32, 32)
    np.testing.assert_array_equal(
        logits_of(model, images), logits_of(model, images.astype(np.float32))
    )


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, precision):
    whole = randomise(build_model("resnet8", (16, 16), 10))
    policy(precision)
    mixed = build_model("resnet8", (16, 16), 10)
    mixed.set_weights(whole.get_weights())
    assert {str(v.dtype) for v in mixed.variables} == {"float32"}
    assert mixed.get_layer("normalise").compute_dtype == "float32"
    assert mixed.get_layer("stem_conv").compute_dtype == precision.removeprefix("mixed_")
    # Fractions above 128 are lost if anything casts the pixels before `normalise`.
    inner = keras.Model(mixed.input, mixed.get_layer("normalise").output)
    pixel = np.full((1, 16, 16, 3), 200.03, np.float32)
    expected = (np.float32(200.03) - np.float32([121, 115, 100])) / np.float32([70, 68, 71])
    np.testing.assert_allclose(inner(pixel)[0, 0, 0], expected, rtol=1e-6)
    images = photographs(16, 16)
    logits = mixed(images)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(logits, whole(images), atol=0.05)


def test_no_softmax():
    logits = randomise(build_model("resnet8", (32, 32), 10))(photographs(32, 32))
    assert np.min(logits) < 0
    assert build_model("resnet8", (32, 32), 10).get_layer("logits").activation.__name__ == "linear"


@pytest.mark.parametrize("name", ["resnet18", "resnet8"])
def test_names_do_not_depend_on_what_was_built_before(name):
    first, second = (build_model(name, (32, 32), 10) for _ in range(2))
    assert [v.path for v in first.variables] == [v.path for v in second.variables]
    assert [a.name for a in first.layers] == [a.name for a in second.layers]
    assert first.name == name
    wanted = {"image", "normalise", "stem_conv", "stem_bn", "stage2_block1_shortcut_conv", "logits"}
    assert wanted <= {layer.name for layer in first.layers}


@pytest.mark.parametrize(
    ("name", "image_size", "arguments", "message"),
    [
        ("resnet9", (32, 32), {}, r"'resnet9'.*known: resnet18.*resnet50.*resnet8"),
        ("resnet50", (32, 32), {"widths": (1, 2, 3)}, r"widths; known: mean, std"),
        ("resnet8", (32, 32), {"dropout": 0.5}, r"dropout; known: widths"),
        ("resnet8", (32, 32), {"widths": (32, 64)}, r"three numbers.*\(32, 64\)"),
        ("resnet8", 32, {}, r"\(height, width\).*32"),
        ("resnet8", (32, 32, 3), {}, r"\(height, width\).*\(32, 32, 3\)"),
        ("resnet18", (32, 32), {"std": (1, 0, 1)}, r"std=\(1, 0, 1\)"),
        ("resnet18", (32, 32), {"mean": (1, 2)}, r"mean=\(1, 2\)"),
    ],
)
def test_refusals(name, image_size, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, image_size, 10, **arguments)


def test_a_saved_model_is_made_of_keras_alone(tmp_path, policy):
    policy("mixed_bfloat16")
    model = randomise(build_model("resnet8", (32, 32), 10, mean=(1, 2, 3), std=(30, 40, 50)))
    model.save(tmp_path / "model.keras")
    assert packages_named_in(tmp_path / "model.keras") == {"keras"}
    images, loaded = photographs(32, 32), keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(loaded, images), logits_of(model, images))
