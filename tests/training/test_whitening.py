"""Whitening before the first step: which images, and in which runs."""

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from core.workers import Workers
from training import model, synthetic
from training.inputs import find_data
from training.recipes import load_recipe
from training.stages import whiten_first

KEY = "image/encoded"


def recipe(**changes):
    small = {"model": "whitened_cnn", "model_arguments": {"widths": (4, 4, 4)}}
    return load_recipe("demo").model_copy(update=small | changes)


def kernel_of(net):
    return np.array(net.get_layer("whitening").kernel)


def whitened(recipe, data, threads=1):
    net = model.build(recipe)
    whiten_first(net, recipe, data, Workers(), threads)
    return kernel_of(net)


def test_the_images_of_the_last_phase_become_white(digits):
    """All images, read here without the pipeline; a digit has little colour, so few directions."""
    asked = recipe(whitening_images=10**6)
    kernel = whitened(asked, find_data(digits, asked)).reshape(12, 24)[:, :12]
    phase = asked.training_strategy.root[-1]
    files = sorted(map(str, (digits / phase.data_dir).glob("train-*")))
    form = {KEY: tf.io.FixedLenFeature((), tf.string)}
    decoded = tf.data.TFRecordDataset(files).map(
        lambda record: tf.io.decode_jpeg(tf.io.parse_single_example(record, form)[KEY], 3)
    )
    images = np.array(next(iter(decoded.batch(10**6))), np.float64)
    assert images.shape[1:] == (*phase.image_size, 3)
    images = (images - asked.mean) / asked.std
    parts = [images[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
    outputs = np.concatenate(parts, axis=-1).reshape(-1, 12) @ kernel
    moments = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(moments[-4:, -4:], np.eye(4), atol=0.01)


def test_the_kernel_depends_on_the_number_of_images_but_not_on_threads(digits):
    data = find_data(digits, recipe())
    few = [whitened(recipe(whitening_images=50), data, threads) for threads in (1, 2)]
    np.testing.assert_array_equal(*few)
    assert np.abs(whitened(recipe(whitening_images=200), data) - few[0]).max() > 0


def test_without_the_key_or_with_noise_the_kernel_stays(digits):
    asked = recipe(whitening_images=50)
    for settings, data in (
        (recipe(), find_data(digits, recipe())),
        (asked, synthetic.data_for(asked)),
    ):
        net = model.build(settings)
        before = kernel_of(net)
        whiten_first(net, settings, data, Workers(), threads=1)
        np.testing.assert_array_equal(kernel_of(net), before)


def test_a_model_without_that_layer_is_refused():
    asked = recipe(model="resnet8", whitening_images=50)
    with pytest.raises(UserError, match="'whitening_images': model 'resnet8' has no layer"):
        model.build(asked)
