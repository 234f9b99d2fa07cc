"""The heartbeat of a training, felt from outside."""

import time

import pytest

from training.liveness import Heartbeat, Pulse
from training.recipes import load_recipe
from training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start(load_recipe("demo"), {})
    return found


def test_a_run_is_training_until_it_has_trained(run):
    heartbeat, pulse = Heartbeat(run, every=0.01), Pulse(run, patience=0.3)
    heartbeat.start()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert pulse.feel() == "training"
        time.sleep(0.02)
    heartbeat.trained()
    assert pulse.feel() == "trained"
    time.sleep(0.35)
    assert pulse.feel() == "trained"


def test_a_run_that_stops_beating_is_silent_and_named(run):
    run.write_state("training", beat=1)
    pulse = Pulse(run, patience=0.05)
    assert pulse.feel() == "training"
    time.sleep(0.06)
    assert pulse.feel() == "silent"
    assert str(run.path) in pulse.epitaph()
    run.write_state("training", beat=2)  # resumed
    assert pulse.feel() == "training"


def test_a_run_of_before_there_was_a_heartbeat_has_ended(run):
    run.state_file.unlink()
    assert Pulse(run).feel() == "trained"
