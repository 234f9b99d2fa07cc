"""Counts that add up to the same figures however they are shared out."""

from hypothesis import given
from hypothesis import strategies as st

from evaluation.tally import LOSS_UNIT, Tally

counts = st.integers(0, 10**6)
tallies = st.lists(st.builds(Tally, counts, counts, counts, st.integers(0, 2**50)), min_size=1)


def test_figures_by_hand():
    figures = Tally(images=8, top1=3, top5=6, loss=round(20 / LOSS_UNIT)).figures()
    assert figures == {"top1": 0.375, "top5": 0.75, "loss": 2.5, "images": 8}


@given(tallies, st.randoms())
def test_the_order_of_the_shares_does_not_matter(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert sum(parts, Tally()) == sum(shuffled, Tally())


def test_a_logit_that_is_not_finite_leaves_no_loss():
    figures = (Tally(1, 1, 1, 5) + Tally(1, 0, 0, 0, not_finite=1)).figures()
    assert figures["loss"] != figures["loss"]
    assert (figures["top1"], figures["images"]) == (0.5, 2)
