"""Weights by layer, against the source's arrays; architectures, against what the model computes."""

import keras
import numpy as np
import pytest
from keras import layers

from models.registry import build_model
from models.transfer import (
    architecture_of,
    from_architecture,
    frozen_in,
    load_source,
    scale_of,
    transfer_weights,
)


def resnet(classes=3, widths=(8, 8, 16), **others):
    model = build_model("resnet8", (None, None), classes, widths=widths, **others)
    for number, variable in enumerate(model.weights):  # BatchNorm's, too, differ from a new model's
        variable.assign(variable + 0.01 * (number + 1))
    return model


def values(model):
    return {f"{x.name}/{w.name}": np.array(w) for x in model.layers for w in x.weights}


def different(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_all_layers_get_the_values_of_the_source():
    source, target = resnet(), build_model("resnet8", (None, None), 3, widths=(8, 8, 16))
    assert transfer_weights(source, target) == ()
    assert not different(values(source), values(target))
    assert "stage1_block1_bn1/moving_variance" in values(target)
    image = np.random.default_rng(0).uniform(0, 255, (2, 20, 20, 3)).astype("float32")
    np.testing.assert_array_equal(source(image), target(image))


@pytest.mark.parametrize(
    ("classes", "new_head"), [(5, False), (3, True)], ids=["another number", "other names"]
)
def test_a_head_for_other_classes_stays_as_it_is(classes, new_head):
    source, target = resnet(), resnet(classes)
    target.get_layer("logits").kernel.assign(np.full((16, classes), 7.0))
    before = values(target)
    assert transfer_weights(source, target, new_head) == ("logits",)
    after = values(target)
    heads = {"logits/kernel", "logits/bias"}
    assert not different(before, after) & heads
    own, given = ({k: v for k, v in x.items() if k not in heads} for x in (after, values(source)))
    assert not different(given, own)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (
            {"widths": (8, 8, 8)},
            {},
            # stage 3: two convolutions and a shortcut, each with its BatchNorm; not the head
            ["6 of 18 layers do not fit", "'stage3_block1_shortcut_conv' is", "; and 3 more"],
        ),
        ({"name": "resnet14"}, {}, ["its layer 'stage1_block2_conv1' (kernel 3x3x8x8) has no"]),
        ({}, {"name": "resnet14"}, ["'stage1_block2_conv1' (kernel 3x3x8x8) is not in it"]),
    ],
)
def test_what_does_not_fit_is_named_with_its_shape_and_nothing_changes(source, target, words):
    def made(name="resnet8", widths=(8, 8, 16)):
        return build_model(name, (None, None), 3, widths=widths)

    source, target = made(**source), made(**target)
    before = values(target)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        transfer_weights(source, target)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not different(before, values(target))


def test_shapes_are_shown_of_both():
    with pytest.raises(ValueError, match=r"kernel 3x3x3x8 in it, kernel 3x3x3x4 here"):
        transfer_weights(resnet(), build_model("resnet8", (None, None), 3, widths=(4, 8, 16)))


def test_the_scale_is_the_one_that_was_built_in_or_adapted():
    mean, std = (33.0, 40.5, 51.0), (79.0, 51.5865, 10.0)
    found = scale_of(resnet(mean=mean, std=std))
    np.testing.assert_allclose(found, (mean, std), rtol=1e-12)
    adapted = layers.Normalization()
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 4, 4, 3)).astype("float32")
    adapted.adapt(pixels)
    model = keras.Sequential([keras.Input((4, 4, 3)), adapted, layers.Flatten(), layers.Dense(2)])
    expected = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    np.testing.assert_allclose(scale_of(model), expected, rtol=1e-5)
    assert scale_of(keras.Sequential([keras.Input((3,)), layers.Dense(2)])) is None
    scaled = keras.Sequential([keras.Input((4, 4, 3)), layers.Rescaling(1 / 255), adapted])
    assert scale_of(scaled) is None


def foreign(pool, activation="softmax", after=()):
    """As people build them: one image size, a softmax in the last Dense."""
    return keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Dropout(0.1),
            pool,
            layers.Dense(4, activation=activation, name="predictions"),
            *after,
        ],
        name="theirs",
    )


def test_a_foreign_model_becomes_one_for_other_classes_and_any_size(tmp_path):
    theirs = foreign(layers.GlobalAveragePooling2D())
    theirs.get_layer("bn").moving_mean.assign(np.linspace(-1, 1, 8))
    theirs.save(tmp_path / "theirs.keras")
    source = load_source(tmp_path / "theirs.keras")
    text = architecture_of(source, 4)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        mixed = from_architecture(architecture_of(source, 7))
    finally:
        keras.config.set_dtype_policy("float32")
    kinds = {layer.name: layer.compute_dtype for layer in mixed.layers}
    assert (kinds["conv"], kinds["scale"], kinds["predictions"]) == (
        "bfloat16",
        "float32",
        "float32",
    )
    assert mixed.output_shape == (None, 7)
    assert mixed.input_shape == (None, None, None, 3)
    assert transfer_weights(source, mixed) == ("predictions",)

    plain = from_architecture(text)
    assert transfer_weights(source, plain) == ()
    image = np.random.default_rng(0).uniform(0, 255, (2, 24, 24, 3)).astype("float32")
    logits = np.array(plain(image))
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(odds, theirs(image), rtol=1e-5)
    assert plain(image[:, :13, :17]).shape == (2, 4)


def test_our_own_model_comes_back_as_it_was():
    source = resnet()
    again = from_architecture(architecture_of(source, 3))
    transfer_weights(source, again)
    image = np.random.default_rng(0).uniform(0, 255, (2, 20, 20, 3)).astype("float32")
    np.testing.assert_array_equal(source(image), again(image))
    net = build_model("whitened_cnn", (None, None), 3, widths=(8, 8, 8))
    assert frozen_in(from_architecture(architecture_of(net, 2))) == ["whitening"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: foreign(layers.Flatten()), "cannot be built for images of any size"),
        (
            lambda: foreign(layers.GlobalMaxPooling2D(), after=[layers.Softmax()]),
            "ends in 'softmax.*', a Softmax; it has to end in logits.*'predictions'",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2)]),
            r"it takes \[\(None, 8, 8, 1\)\], not RGB images",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), foreign_part(), layers.Dense(2)]),
            "layer 'inner' .*holds other layers",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 1, name="last")]),
            "'last', is no Dense but a Conv2D",
        ),
    ],
    ids=["Flatten", "softmax", "grey", "nested", "convolution"],
)
def test_a_model_that_cannot_be_trained_in_phases_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        from_architecture(architecture_of(model(), 2))


def foreign_part():
    parts = [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    return keras.Sequential(parts, name="inner")


def test_a_file_that_is_no_model_is_refused_in_a_line(tmp_path):
    (tmp_path / "words.keras").write_text("404: not found")
    (tmp_path / "model.txt").write_text("404")
    for name in ("words.keras", "model.txt"):
        with pytest.raises(ValueError, match=r"^Keras cannot load it: [^\n]+$"):
            load_source(tmp_path / name)
