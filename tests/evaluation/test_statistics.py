"""BatchNorm's statistics of training images, against NumPy and the saved model."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from core.errors import DataError
from datasets.input.validation import statistics_pipeline
from datasets.records.examples import make_example
from datasets.records.schema import Records
from evaluation.evaluator import Counts
from evaluation.run import make_evaluator
from evaluation.statistics import reestimator, reestimator_of
from training import model
from training.inputs import find_data, find_statistics
from training.recipes import Recipe, load_recipe


def normalised(x, layer):
    """A batch by its own moments, as the layer does it in training; and these moments."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / np.sqrt(variance + layer.epsilon) * layer.gamma.numpy() + layer.beta.numpy()
    return y, [mean, variance]


def test_the_statistics_are_the_means_of_the_batches_moments():
    """Whatever they were before, for any momentum; a frozen layer keeps its own."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = layers.Input((6, 6, 3))
    first, second, frozen = (layers.BatchNormalization(momentum=m) for m in (0.6, 0.99, 0.9))
    mixed = layers.Conv2D(5, 1, use_bias=False)
    frozen.trainable = False
    net = keras.Model(image, frozen(second(layers.Activation("relu")(first(mixed(image))))))
    rng = np.random.default_rng(0)
    for variable in net.variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    first.moving_mean.assign(np.full(5, np.nan))
    before = {v.path: v.numpy() for v in net.variables if "moving" not in v.path}
    kept = [v.numpy() for v in frozen.non_trainable_variables]
    batches = [rng.normal(3, 2, (4, 6, 6, 3)).astype("float32") for _ in range(3)]
    found = []
    for x in batches:
        y, moments = normalised(np.float64(x) @ mixed.kernel.numpy()[0, 0], first)
        _, others = normalised(np.maximum(y, 0), second)
        found.append(moments + others)
    expected = [np.mean(values, axis=0) for values in zip(*found, strict=True)]
    reestimate = reestimator(net, batches)
    for _ in range(2):  # a second time gives the same
        reestimate()
        own = [first.moving_mean, first.moving_variance, second.moving_mean, second.moving_variance]
        for variable, value in zip(own, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)
    for value, variable in zip(kept, frozen.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    for variable in net.variables:
        if variable.path in before:
            np.testing.assert_array_equal(variable.numpy(), before[variable.path])
    assert (first.momentum, second.momentum) == (0.6, 0.99)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (8, [[0, 1, 2, 10], [11, 20, 21, 22]]),  # three of each file, where it has them
        (9, [[0, 1, 2, 10], [11, 20, 21, 22]]),  # and the ninth fills no batch
        (
            12,
            [
                [
                    0,
                    1,
                    2,
                    3,
                ],
                [10, 11, 20, 21],
                [22, 23, 4, 5],
            ],
        ),
    ],
)
def test_the_images_are_the_first_of_each_file(tmp_path, images, expected):
    """Three files of 6, 2 and 6 grey images."""
    paths = [tmp_path / f"train-{i:05d}-of-00003" for i in range(3)]
    for i, (path, count) in enumerate(zip(paths, (6, 2, 6), strict=True)):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(10 * i, 10 * i + count):
                grey = np.full((20, 24, 3), number, "uint8")
                jpeg = tf.io.encode_jpeg(grey, quality=100).numpy()
                writer.write(make_example(jpeg, height=20, width=24, label=1, synset=""))
    found = list(statistics_pipeline(Records(tuple(paths), 14), images, 16, 4))
    assert [batch.shape for batch in found] == [(4, 16, 16, 3)] * len(expected)
    assert [batch[:, 8, 8, 0].numpy().tolist() for batch in found] == expected


@pytest.fixture(scope="module")
def recipe():
    demo = load_recipe("demo").model_dump() | {"model_arguments": {"widths": [8, 8, 8]}}
    evaluation = demo["evaluation"] | {"statistics_images": 400, "batch_size": 100}
    return Recipe.model_validate(demo | {"evaluation": evaluation})


def test_every_share_is_evaluated_with_the_statistics_of_the_saved_model(recipe, digits, tmp_path):
    data, path = find_data(digits, recipe), tmp_path / "checkpoint.keras"
    keras.utils.set_random_seed(1)
    model.build(recipe).save(path)
    whole, _ = make_evaluator(recipe, data, 2).evaluate(path)
    two = make_evaluator(recipe, data, 1)
    assert sum((two.evaluate(path, share, 2)[0] for share in (0, 1)), Counts()) == whole
    plain = recipe.model_copy(
        update={"evaluation": recipe.evaluation.model_copy(update={"statistics_images": None})}
    )
    assert make_evaluator(plain, data, 2).evaluate(path)[0] != whole

    model.save_result(
        recipe,
        path,
        tmp_path / "model.keras",
        lambda net: reestimator_of(net, recipe, data.statistics, 2)(),
    )
    assert make_evaluator(plain, data, 2).evaluate(tmp_path / "model.keras")[0] == whole
    assert recipe.evaluation.crop == "centre+statistics400"


def test_records_that_are_missing_or_too_few_are_named(recipe, digits):
    def refused(**changes):
        evaluation = recipe.evaluation.model_copy(update=changes)
        with pytest.raises(DataError) as error:
            find_statistics(digits, recipe.model_copy(update={"evaluation": evaluation}))
        return str(error.value)

    message = refused(data_dir="27")
    assert re.match(
        r"key 'evaluation.statistics_images': received 400, which needs training images, 'train', "
        r"in the evaluation's data_dir, '27': data folder .*27': there is no such folder",
        message,
    )
    assert refused(statistics_images=4001).endswith(
        "statistics_images': received 4001, but '28/train' holds 4000 images"
    )
