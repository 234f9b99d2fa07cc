"""How long a step may take, and what is no step."""

import pytest

from callbacks import heartbeat
from callbacks.heartbeat import Heartbeat
from core import workers
from core.workers import LAUNCHED_RANK
from launch import supervisor


class Board:
    """Keeps the last sign."""

    def beat(self, step, longest_seconds):
        self.last = step, longest_seconds


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(heartbeat, "time", Clock())
    return heartbeat.time


@pytest.fixture
def beating():
    """A worker's, at the beginning of a `fit` after 100 steps."""
    found = Heartbeat(Board())
    found.start_at(100)
    found.on_train_begin()
    return found


def test_a_step_may_take_45_seconds_or_five_times_the_mean(beating, clock):
    seen = []
    for step, seconds in ((100, 500.0), (101, 4.0), (102, 16.0), (103, 40.0), (104, 0.0)):
        beating.before_step(step)
        seen.append(beating.board.last)
        clock.now += seconds
    # The first step is traced; the means are of the steps after it: 4, 10 and 20 s.
    assert seen == [(100, None), (101, 45.0), (102, 45.0), (103, 50.0), (104, 100.0)]
    beating.after_fit(105)
    assert beating.board.last == (105, None)


def test_waiting_is_no_step(beating, clock):
    for step, seconds in ((100, 5.0), (101, 20.0), (102, 20.0)):
        beating.before_step(step)
        clock.now += seconds
    assert beating.board.last == (102, 100.0)
    for _ in range(200):  # a thousand seconds, in which the limit of each sign is the step's
        beating.waiting()
        assert beating.board.last == (102, 100.0)
        clock.now += 5.0
    beating.waiting()
    beating.before_step(103)
    assert beating.board.last == (103, 100.0)  # the mean is 20 s as before
    clock.now += 50.0
    beating.waiting()  # another wait begins; what was before it is the step's
    beating.before_step(104)
    assert beating.board.last == (104, 150.0)


def test_waiting_before_the_first_step_has_no_limit(beating):
    beating.before_step(100)
    beating.waiting()
    assert beating.board.last == (100, None)


def test_those_that_wait_look_at_once_and_then_meet_every_few_seconds():
    looked, signs, answers = [], [], [None, None, []]

    def look(seconds):
        looked.append(seconds)
        return answers.pop(0)

    assert workers.gather_in_time(look, lambda: signs.append("sign")) == [[]]
    assert looked == [0.0, workers.MEET_EVERY_SECONDS, workers.MEET_EVERY_SECONDS]
    assert len(signs) == 2
    # Well below what a step may take, and what Horovod waits before it warns.
    assert workers.MEET_EVERY_SECONDS < heartbeat.LONGEST_STEP_SECONDS / 2
    assert float(workers.STALL_WARNING_SECONDS) / 2 > workers.MEET_EVERY_SECONDS


@pytest.mark.parametrize("rank", ["1", "127"])
def test_a_worker_speaks_before_it_counts_as_one_that_hangs(monkeypatch, rank):
    """Its last sign of life is that of the step in which it met what it has to say."""
    now = [0.0]
    monkeypatch.setenv(LAUNCHED_RANK, rank)
    monkeypatch.setattr(supervisor.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervisor.time, "sleep", lambda s: now.append(now.pop() + s))
    supervisor.wait_to_be_ended(supervisor.SILENCE_SECONDS, status=1)
    assert now[0] < heartbeat.LONGEST_STEP_SECONDS
