"""What a stage's time is divided into."""

import time

import keras
import numpy as np
import pytest

from callbacks import stage_clock
from callbacks.stage_clock import StageClock
from callbacks.step_checkpoint import StepCheckpoint
from core import clock
from core.clock import TimeBuckets


def test_a_stage_by_hand(monkeypatch):
    """2 s until the first step; that takes 8 s, three others 1 s each; so 7 s are tracing."""

    class Turned:
        now = 0.0

        def monotonic(self):
            return self.now

    turned = Turned()
    monkeypatch.setattr(clock, "time", turned)
    monkeypatch.setattr(stage_clock, "wait_for_device", lambda model: None)
    buckets = TimeBuckets(0.0)
    callback = StageClock(buckets)
    callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    callback.on_train_begin()
    for now in (2, 10, 11, 12):
        turned.now = now
        callback.on_train_batch_begin(0)
    turned.now = 13
    callback.on_train_end()
    found = {name: seconds for name, seconds in buckets.state().items() if seconds}
    assert found == {"data": 2, "tracing": 7, "steps": 4}


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_two_stages_of_a_real_fit(model, tmp_path, monkeypatch):
    waits, notes = [], []
    original = stage_clock.wait_for_device
    monkeypatch.setattr(
        stage_clock, "wait_for_device", lambda model: (waits.append(1), original(model))
    )
    began = time.monotonic()
    buckets = TimeBuckets(began)
    callback = StageClock(buckets, marks=[0, 5, 10], note=notes.append)
    checkpoint = StepCheckpoint(tmp_path / "{step}.keras", every=100, last_step=20, clock=buckets)
    for _ in range(2):
        data = np.ones((20, 1))
        model.fit(data, data, batch_size=2, verbose=0, callbacks=[callback, checkpoint])
        model.make_train_function(force=True)
    at_least = time.monotonic() - began
    found = buckets.state()
    at_most = time.monotonic() - began
    assert at_least <= sum(found.values()) <= at_most
    # Keras traces for far longer than a step of this model lasts.
    assert found["tracing"] > 10 * found["steps"] / 20 > 0
    assert found["checkpoints"] > 0
    assert notes == [5, 10, 20]
    # After each first step, at the mark within a fit, and at each end: not at every step.
    assert len(waits) == 2 + 1 + 2
