"""The heartbeat of a training, felt from outside."""

import pytest

from tests.waiting import until
from training import liveness
from training.liveness import Heartbeat, Pulse
from training.recipes import load_recipe
from training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start(load_recipe("demo"), {})
    return found


class Clock:
    """The clock of whoever feels a pulse."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(liveness, "time", Clock())
    return liveness.time


def test_a_run_is_training_until_it_has_trained(run, clock):
    heartbeat, pulse = Heartbeat(run, every=0.01), Pulse(run, patience=3.0)
    heartbeat.start()
    for _ in range(10):
        last = run.state()
        until(lambda last=last: run.state() != last)  # a beat
        assert pulse.feel() == "training"
        clock.now += 2.9
    heartbeat.trained()
    assert pulse.feel() == "trained"
    clock.now += 3.1
    assert pulse.feel() == "trained"


def test_a_run_that_stops_beating_is_silent_and_named(run, clock):
    run.write_state("training", beat=1)
    pulse = Pulse(run, patience=3.0)
    clock.now += 2.9
    assert pulse.feel() == "training"
    clock.now += 0.2
    assert pulse.feel() == "silent"
    assert str(run.path) in pulse.epitaph()
    run.write_state("training", beat=2)  # resumed
    assert pulse.feel() == "training"


def test_a_run_of_before_there_was_a_heartbeat_has_ended(run):
    run.state_file.unlink()
    assert Pulse(run).feel() == "trained"
