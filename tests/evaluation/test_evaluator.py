"""Figures against scikit-learn's and TensorFlow's on the same predictions."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score

from core.checkpoints import load_weights
from datasets.input.validation import evaluation_pipeline
from evaluation.evaluator import (
    LOSS_UNIT,
    Counts,
    Evaluator,
    averaged_logits,
    count,
    likeliest,
)
from training import model
from training.inputs import find_validation
from training.recipes import load_recipe

# 1,000 digits: none of these divides them.
BATCHES = (96, 256)


@pytest.fixture(scope="module")
def recipe():
    found = load_recipe("demo")
    return found.model_copy(
        update={"model_arguments": {"widths": [16, 16, 16], "initial_scale": 2.0}}
    )


@pytest.fixture(scope="module")
def checkpoints(recipe, tmp_path_factory):
    """Two models with random weights; the statistics of BatchNorm are random, too."""
    folder, paths = tmp_path_factory.mktemp("checkpoints"), []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        net = model.build(recipe)
        generator = np.random.default_rng(seed)
        for variable in net.variables:
            noise = generator.uniform(-0.3, 0.3, variable.shape)
            variable.assign(variable.numpy() + noise)  # a variance stays above 0
        paths.append(folder / f"{seed}.keras")
        net.save(paths[-1])
    return paths


def evaluator(recipe, digits, batch_size=96, threads=2, flip=False, shift=0):
    records = find_validation(digits, recipe)
    settings = recipe.evaluation.model_copy(update={"batch_size": batch_size})
    net = model.build(recipe)

    @functools.cache
    def batches(share, shares, placed=False):
        return evaluation_pipeline(records, settings, 10, share, shares, threads, placed)

    return Evaluator(net, lambda path: load_weights(net, path), batches, flip, shift)


@pytest.fixture(scope="module")
def pixels(digits):
    """All validation images and labels, decoded by TensorFlow's own reader of records."""
    images, labels = [], []
    for raw in tf.data.TFRecordDataset(sorted(map(str, (digits / "28").glob("validation-*")))):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        encoded = features["image/encoded"].bytes_list.value[0]
        images.append(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)
    return np.stack(images), np.array(labels)


def expected(logits, labels):
    probabilities = keras.ops.softmax(logits.astype("float64")).numpy()
    return {
        "top1": top_k_accuracy_score(labels, logits, k=1),
        "top5": top_k_accuracy_score(labels, logits, k=5),
        "loss": pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-5),
        "images": 1000,
    }


def test_the_figures_are_scikit_learns_on_saved_predictions(recipe, digits, checkpoints, pixels):
    images, labels = pixels
    evaluates = evaluator(recipe, digits)
    for path in checkpoints:
        logits = keras.saving.load_model(path).predict(images, batch_size=100, verbose=0)
        counts, _ = evaluates.evaluate(path)
        assert counts.figures() == expected(logits, labels)
    # One checkpoint after the other, a last batch of 40 images: one trace.
    assert evaluates.step.experimental_get_tracing_count() == 1


def test_neither_batch_nor_threads_nor_shares_change_a_digit(recipe, digits, checkpoints):
    one = evaluator(recipe, digits, BATCHES[0], threads=1)
    other = evaluator(recipe, digits, BATCHES[1], threads=2)
    whole = one.evaluate(checkpoints[0])[0]
    assert other.evaluate(checkpoints[0])[0] == whole
    assert sum((other.evaluate(checkpoints[0], k, 3)[0] for k in range(3)), Counts()) == whole


def test_predictions_are_those_of_the_figures_for_any_shares(recipe, digits, checkpoints, pixels):
    """Against the saved model, and NumPy's own ranking."""
    images, labels = pixels
    logits = keras.saving.load_model(checkpoints[0]).predict(images, batch_size=100, verbose=0)
    one, other = evaluator(recipe, digits, BATCHES[0]), evaluator(recipe, digits, BATCHES[1])
    counts, _ = one.evaluate(checkpoints[0])
    whole = one.predict(checkpoints[0])
    assert one.step.experimental_get_tracing_count() == 1
    numbers, names, own, classes, probabilities = zip(*whole, strict=True)
    assert numbers == tuple(range(1000))
    assert own == tuple(labels)
    assert set(names) > {"0595.png", "2994.png"}  # the first two of the file
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(classes, order)
    expected = keras.ops.softmax(logits.astype("float64")).numpy()
    expected = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    assert sum(a[0] == b for a, b in zip(classes, own, strict=True)) == counts.top1
    shares = [other.predict(checkpoints[0], share, 3) for share in range(3)]
    for shared, alone in zip(sorted(itertools.chain(*shares)), whole, strict=True):
        assert shared[:4] == alone[:4]
        assert shared[4] == pytest.approx(alone[4], rel=1e-5)


def test_the_likeliest_by_hand():
    nan = float("nan")
    logits = tf.constant([[0.0, np.log(2), 0.0], [-1e30, 0.0, -2e30], [0.0, nan, 1.0]])
    classes, probabilities = likeliest(logits, 2)
    assert classes.numpy().tolist() == [[1, 0], [1, 0], [-1, -1]]
    assert probabilities.numpy() == pytest.approx(np.array([[0.5, 0.25], [1, 0], [0, 0]]))
    assert likeliest(logits)[0].shape == (3, 3)
    # Each a question of its own: 1 / (1 + e^-x) of log 2, of 0 and of a large number.
    _, apart = likeliest(logits[:2], 2, apart=True)
    assert apart.numpy() == pytest.approx(np.array([[2 / 3, 1 / 2], [1 / 2, 0]]))


def test_flipped_and_shifted_views_count_as_in_airbench(recipe, digits, checkpoints, pixels):
    """The image twice, its two shifts once each, and their mirror images, by NumPy.

    Each kind of views alone: `test_views_by_hand`.
    """
    images, labels = pixels
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="reflect")
    views = [images, images, padded[:, :28, :28], padded[:, 4:, 4:]]
    views += [view[:, :, ::-1] for view in views]
    saved = keras.saving.load_model(checkpoints[1])
    logits = [saved.predict(view, batch_size=100, verbose=0) for view in views]
    counts, _ = evaluator(recipe, digits, flip=True, shift=2).evaluate(checkpoints[1])
    assert counts.figures() == expected(np.mean(logits, axis=0), labels)


def test_views_by_hand():
    """A model that returns the first row. Of the padded image, the rows 0 and 2 are 4 3 4 5 4."""
    image = np.arange(9, dtype="uint8").reshape(1, 3, 3, 1)

    def logits(flip, shift):
        def first_row(images, training):
            return tf.cast(images[:, 0, :, 0], tf.float32)

        return averaged_logits(first_row, image, flip, shift).numpy().tolist()

    assert logits(False, 0) == [[0, 1, 2]]
    assert logits(True, 0) == [[1, 1, 1]]
    # Half of 0 1 2, a quarter of 4 3 4 and of 4 5 4.
    assert logits(False, 1) == [[2, 2.5, 3]]
    assert logits(True, 1) == [[2.5, 2.5, 2.5]]


def test_ties_are_ranked_as_top_k_ranks_them():
    logits = np.random.default_rng(0).integers(0, 4, (500, 10)).astype("float32")
    labels = np.random.default_rng(1).integers(0, 10, 500).astype("int32")
    first, five = (
        int((tf.math.top_k(logits, k).indices.numpy() == labels[:, None]).sum()) for k in (1, 5)
    )
    found = Counts(*count(tf.constant(logits), tf.constant(labels)).numpy().tolist())
    assert (found.images, found.top1, found.top5) == (500, first, five)


def test_a_batch_by_hand():
    nan = float("nan")
    logits = [[0.0, 0.0], [1.0, 0.0], [nan, 0.0], [0.0, 1e30], [5.0, 0.0]]
    found = count(tf.constant(logits), tf.constant([0, 1, 1, 1, -1]))
    # ln 2, ln(1 + e), not counted, 0, and one that only fills up the batch.
    loss = round((np.log(2) + np.log(1 + np.e)) / LOSS_UNIT)
    assert found.numpy().tolist() == pytest.approx([4, 2, 3, loss, 1], abs=1)
    assert found.numpy().tolist()[:3] == [4, 2, 3]


numbers = st.integers(0, 10**6)
many_counts = st.lists(
    st.builds(Counts, numbers, numbers, numbers, st.integers(0, 2**50)), min_size=1
)


def test_figures_by_hand():
    figures = Counts(images=8, top1=3, top5=6, loss=round(20 / LOSS_UNIT)).figures()
    assert figures == {"top1": 0.375, "top5": 0.75, "loss": 2.5, "images": 8}


@given(many_counts, st.randoms())
def test_the_order_of_the_shares_does_not_matter(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert sum(parts, Counts()) == sum(shuffled, Counts())


def test_a_logit_that_is_not_finite_leaves_no_loss():
    figures = (Counts(1, 1, 1, 5) + Counts(1, 0, 0, 0, not_finite=1)).figures()
    assert figures["loss"] != figures["loss"]
    assert (figures["top1"], figures["images"]) == (0.5, 2)
