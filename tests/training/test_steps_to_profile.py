"""`--profile`: which steps it names, and which it may not."""

import pytest

from core.errors import UserError
from training.run import steps_to_profile


def test_the_last_number_is_not_among_the_steps():
    assert list(steps_to_profile("3:6", 6)) == [3, 4, 5]
    assert not steps_to_profile(None, 6)


@pytest.mark.parametrize("text", ["10:5", "5:5", "5", "a:b", ":5", "5:", "-1:5", "1:2:3", ""])
def test_what_is_no_range_of_steps_is_refused(text):
    with pytest.raises(UserError, match=r"--profile: received .*, as in 100:110 for ten steps"):
        steps_to_profile(text, 100)


def test_steps_that_the_run_does_not_have_are_refused():
    with pytest.raises(UserError, match=r"received '90:101'; the run's steps are 0 to 99"):
        steps_to_profile("90:101", 100)
