"""What is kept of a run's predictions, and the figures, against scikit-learn's and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix as sklearns_matrix

from datasets.records.schema import Records
from evaluation import predictions
from evaluation.predictions import (
    Predictions,
    calibrate,
    confusion_matrix,
    expected_calibration_error,
    hits_by_class,
    surest_mistakes,
    worst_pairs,
)

ROW = {"step": 80, "written_step": 40, "workers": 4, "time": "2026-11-24 12:00:00"}
# Number in the set, file name, label, classes, probabilities; from two workers, in no order.
FOUND = [
    [3, "d, or 'e'\n.jpg", 2, [1, 0], [0.75, 0.125]],
    [0, "a.jpg", 0, [0, 2], [0.5, 0.25]],
    [2, "ä.jpg", 1, [-1, -1], [0.0, 0.0]],
    [1, "", 1, [2, 1], [1 / 3, 1 / 3]],
]


def made(labels, likeliest, confidences):
    n = len(labels)
    classes, probabilities = (np.array(x)[:, np.newaxis] for x in (likeliest, confidences))
    labels, places = np.array(labels), np.arange(n)
    return Predictions((1, 1, ""), [""] * n, places, [""] * n, labels, classes, probabilities)


def test_what_was_written_is_read_by_the_order_of_the_records(tmp_path):
    records = Records((tmp_path / "validation-0", tmp_path / "validation-1"), 4, counts=(1, 3))
    path = tmp_path / "predictions.csv"
    assert predictions.read(path) is None
    assert predictions.noted_checkpoint(path) is None
    predictions.write(path, ROW, records, FOUND)
    found = predictions.read(path)
    assert found.checkpoint == (40, 4, "2026-11-24 12:00:00") == predictions.identity(ROW)
    assert predictions.noted_checkpoint(path) == found.checkpoint
    assert list(found.files) == ["validation-0", *["validation-1"] * 3]
    assert found.records.tolist() == [0, 0, 1, 2]
    assert list(found.names) == ["a.jpg", "", "ä.jpg", "d, or 'e'\n.jpg"]
    assert found.labels.tolist() == [0, 1, 1, 2]
    assert found.classes.tolist() == [[0, 2], [2, 1], [-1, -1], [1, 0]]
    assert found.probabilities[:, 0] == pytest.approx([0.5, 1 / 3, 0, 0.75], abs=1e-6)
    assert found.correct.tolist() == [True, False, False, False]
    # Neither the one that is right nor the one without a prediction.
    assert surest_mistakes(found, 9) == [3, 1]
    assert surest_mistakes(found, 1) == [3]


def test_confusions_by_hand():
    labels, predicted = np.array([0, 0, 1, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0, 2, -1])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [1, 0, 2], [0, 0, 1]]
    assert worst_pairs(labels, predicted, 2) == [(1, 2, 2), (0, 1, 1)]
    assert worst_pairs(labels[:1], predicted[:1], 2) == []
    hits, images = hits_by_class(labels, labels == predicted, 4)
    assert hits.tolist() == [1, 0, 1, 0]
    assert images.tolist() == [2, 3, 2, 0]


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1)


@given(pairs)
def test_the_confusion_matrix_is_scikit_learns(pairs):
    labels, predicted = np.array(pairs).T
    found = confusion_matrix(labels, predicted, 6)
    assert found.tolist() == sklearns_matrix(labels, predicted, labels=range(6)).tolist()
    worst = {(a, b): n for a, b, n in worst_pairs(labels, predicted, 36)}
    assert worst == {(a, b): n for (a, b), n in np.ndenumerate(found) if n and a != b}
    assert list(worst.values()) == sorted(worst.values(), reverse=True)


def test_calibration_by_hand():
    """Of 10 images: 4 at 0.9, of which 2 are right; 5 at 0.6, of which 3 are; and 1 at 0.2."""
    confidences = np.array([0.9] * 4 + [0.6] * 5 + [0.2])
    correct = np.array([1, 1, 0, 0, 1, 1, 1, 0, 0, 1], bool)
    bins = calibrate(confidences, correct, 5)
    # 0.6 is the upper end of its bin, and belongs to it, as 0.2 does.
    assert [own.images for own in bins] == [1, 0, 5, 0, 4]
    assert [own.accuracy for own in bins] == [1, 0, 0.6, 0, 0.5]
    assert [own.confidence for own in bins] == pytest.approx([0.2, 0, 0.6, 0, 0.9])
    assert (bins[2].low, bins[2].high) == (0.4, 0.6)
    assert expected_calibration_error(bins) == pytest.approx(0.1 * 0.8 + 0.5 * 0 + 0.4 * 0.4)


def test_calibration_is_scikit_learns():
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.1, 1, 1000)
    correct = generator.uniform(size=1000) < confidences**2
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=15)
    there = [own for own in calibrate(confidences, correct) if own.images]
    assert [own.accuracy for own in there] == pytest.approx(accuracy)
    assert [own.confidence for own in there] == pytest.approx(confidence)
