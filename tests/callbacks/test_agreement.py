"""How far the weights of two workers are apart."""

import numpy as np
import pytest

from callbacks.agreement import ROUNDING, difference


@pytest.mark.parametrize(
    ("own", "first", "expected"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.5, -4.0], [1.0, -4.0], 0.125),  # 0.5 of the largest, 4
        ([3, 4], [3, 5], np.inf),  # counts of steps do not round
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [np.nan, 1.0], np.inf),
        ([1e-30], [0.0], np.inf),
        ([np.nan], [np.nan], np.inf),
    ],
)
def test_differences_are_relative_to_the_largest_number(own, first, expected):
    assert difference(np.array(own), np.array(first)) == expected


def test_the_next_float32_counts_as_rounding_and_a_step_of_training_does_not():
    first = np.array([0.5, 0.25], np.float32)
    assert 0 < difference(np.nextafter(first, np.float32(1)), first) < ROUNDING
    assert difference(first * np.float32(1.001), first) > ROUNDING
