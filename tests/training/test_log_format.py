"""Log lines are the original's, and are read back as they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.log_format import (
    evaluation_line,
    evaluation_words,
    read_evaluation_line,
    read_train_line,
    train_line,
    train_words,
)

# Step 625 of the published log, number by number.
ROW = {
    "step": 625,
    "epoch": 2.888,
    "images_per_second": 14493.47,
    "loss": 3.598,
    "total_loss": 4.343,
    "learning_rate": 1.48225,
    "batch_size": 740,
    "image_size": 128,
    "top5": 0.5,
    "seconds": 275.59,
}


def test_a_train_line_is_the_originals():
    assert train_line(ROW) == (
        "Log @train: steps@625 epoch@2.9 im/s@14493.47 loss@3.598 total_loss@4.343 lr@1.48225 "
        "bs@740 sz@128 top5@0.5000 tm@275.59"
    )


def test_the_same_in_words_fits_a_line_of_100_columns():
    assert train_words(ROW) == (
        "step 625 (epoch 2.9, 128 px): loss 3.598, top-5 50.0%, rate 1.482, 14,493 images/s"
    )
    row = {"step": 112_500, "top1": 0.7612345, "top5": 0.93114, "loss": 1.02}
    assert evaluation_words(row) == (
        "checkpoint of step 112,500: top-1 76.12%, top-5 93.11%, loss 1.020"
    )
    widest = {"step": 112_500, "epoch": 89.9, "image_size": 288, "images_per_second": 56_789}
    assert len(train_words(ROW | widest | {"learning_rate": 0.0001234})) < 100


def test_an_evaluation_line_is_the_originals():
    time = "2018-12-30 17:06:43"
    row = {"step": 3125, "top1": 0.43419, "top5": 0.7023, "loss": 2.99, "time": time}
    assert evaluation_line(5, row) == (
        "Log @eval: count@    5 step@ 3125 top1@43.419 top5@ 70.23 loss@  2.99 "
        "time@2018-12-30 17:06:43"
    )


numbers = st.floats(0, 1e5)


@given(st.integers(0, 10**7), st.integers(1, 10**4), numbers, numbers, st.floats(0, 1))
def test_a_log_line_is_read_back(step, batch, seconds, rate, top5):
    row = ROW | {"step": step, "batch_size": batch, "top5": top5}
    row |= {"seconds": seconds, "images_per_second": rate}
    found = read_train_line(train_line(row))
    assert set(found) == set(row)
    assert [found[name] for name in ("step", "batch_size", "image_size")] == [step, batch, 128]
    assert found["seconds"] == pytest.approx(seconds, abs=0.0051)
    assert found["images_per_second"] == pytest.approx(rate, abs=0.0051)
    assert found["top5"] == pytest.approx(top5, abs=0.000051)
    line = evaluation_line(3, row | {"top1": top5, "time": "2018-12-30 17:06:43"})
    assert read_train_line(line) is None
    found = read_evaluation_line(f"[0]<stdout>:{line}")
    assert (found["count"], found["step"], found["time"]) == (3, step, "2018-12-30 17:06:43")
    assert found["top5"] == pytest.approx(top5, abs=0.000051)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps@625 epoch@2.9 im/s@144", "no bs@ in 'Log @train: steps@625 epoch"),
        ("steps@625 epoch@2.9 im/s@144 lo", "could not convert"),
    ],
)
def test_a_line_cut_short_is_no_row(line, message):
    with pytest.raises(ValueError, match=message):
        read_train_line(f"Log @train: {line}")
