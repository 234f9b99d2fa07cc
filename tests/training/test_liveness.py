"""The signs of life of a training, seen from outside."""

import pytest

from tests.waiting import until
from training import liveness
from training.liveness import LivenessProbe, SignsOfLife
from training.recipes import load_recipe
from training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start(load_recipe("demo"), {})
    return found


class Clock:
    """The clock of whoever looks."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(liveness, "time", Clock())
    return liveness.time


def test_a_run_is_training_until_it_has_trained(run, clock):
    signs, probe = SignsOfLife(run, every=0.01), LivenessProbe(run, patience=3.0)
    signs.start()
    for _ in range(10):
        last = run.state()
        until(lambda last=last: run.state() != last)  # a beat
        assert probe.look() == "training"
        clock.now += 2.9
    signs.trained()
    assert probe.look() == "trained"
    clock.now += 3.1
    assert probe.look() == "trained"


def test_a_run_that_stops_giving_signs_is_silent_and_named(run, clock):
    run.write_state("training", beat=1)
    probe = LivenessProbe(run, patience=3.0)
    clock.now += 2.9
    assert probe.look() == "training"
    clock.now += 0.2
    assert probe.look() == "silent"
    assert str(run.path) in probe.describe_silence()
    run.write_state("training", beat=2)  # resumed
    assert probe.look() == "training"


def test_a_run_that_never_gave_a_sign_has_ended(run):
    run.state_file.unlink()
    assert LivenessProbe(run).look() == "trained"
