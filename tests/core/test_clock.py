"""The buckets of a run's time, by a clock that the tests turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import clock
from core.clock import BUCKETS, CLOCKS, TimeBuckets, seconds_on


class Turned:
    """Stands for the module `time`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def turned(monkeypatch):
    found = Turned()
    monkeypatch.setattr(clock, "time", found)
    return found


def test_each_bucket_gets_its_seconds(turned):
    buckets = TimeBuckets(started=90.0)
    turned.now = 103
    buckets.switch("steps")
    turned.now = 110
    with buckets.during("checkpoints"):
        turned.now = 112
    turned.now = 115
    assert buckets.state() == {
        "start_up": 13,
        "data": 0,
        "tracing": 0,
        "steps": 10,
        "checkpoints": 2,
        "evaluation": 0,
    }


def test_a_block_that_fails_gives_the_bucket_back(turned):
    buckets = TimeBuckets(100)
    with pytest.raises(KeyError), buckets.during("checkpoints"):
        raise KeyError
    turned.now = 105
    assert buckets.state()["start_up"] == 5


def test_what_each_clock_counts():
    seconds = {
        "start_up": 1,
        "data": 2,
        "tracing": 4,
        "steps": 8,
        "checkpoints": 16,
        "evaluation": 32,
    }
    assert {name: seconds_on(name, seconds) for name in CLOCKS} == {
        "training": 8,
        "dawnbench": 15,
        "everything": 63,
    }


@given(
    st.lists(st.tuples(st.sampled_from(list(BUCKETS)), st.floats(0, 1e4)), max_size=30),
    st.integers(0, 30),
)
def test_nothing_is_lost_over_a_resume(switches, broken_after):
    """However it is switched, and wherever it breaks off, the buckets add up."""
    with pytest.MonkeyPatch.context() as patch:
        turned = Turned()
        patch.setattr(clock, "time", turned)
        buckets = TimeBuckets(turned.now)
        for number, (bucket, seconds) in enumerate(switches):
            if number == broken_after:
                saved = buckets.state()
                turned.now += 1000  # between the two processes: counted by neither
                buckets = TimeBuckets(turned.now)
                buckets.restore(saved)
            buckets.switch(bucket)
            turned.now += seconds
        assert sum(buckets.state().values()) == pytest.approx(sum(s for _, s in switches))


def test_an_unknown_bucket_is_refused():
    with pytest.raises(ValueError, match="Received: 'lunch'"):
        TimeBuckets(0).switch("lunch")
