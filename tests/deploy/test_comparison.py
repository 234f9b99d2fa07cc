"""When a file counts as the same model."""

import numpy as np
import pytest

from deploy.comparison import MOST, compare

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]], "float32")


def test_figures_by_hand():
    found = compare(EXPECTED, np.array([[0.6, 0.25, 0.15], [0.1, 0.4, 0.5]], "float32"))
    assert (found.images, found.same_first) == (2, 1)
    assert found.largest == pytest.approx(0.1)
    assert not found.is_good


@pytest.mark.parametrize(
    ("change", "good"),
    [(0, True), (MOST / 2, True), (MOST * 2, False), (float("nan"), False)],
)
def test_top_1_alone_is_not_enough(change, good):
    assert compare(EXPECTED, EXPECTED + np.float32(change)).is_good == good


def test_a_tie_that_turns_over_is_another_answer():
    tie = np.array([[0.5, 0.5 - 1e-7]], "float32")
    assert not compare(tie, tie[:, ::-1]).is_good


def test_another_shape_is_named():
    with pytest.raises(ValueError, match=r"it returns \[2, 2\], not \[2, 3\]"):
        compare(EXPECTED, EXPECTED[:, :2])
