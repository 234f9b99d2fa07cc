"""Checkpoints: when, whole, and loadable."""

import threading

import keras
import numpy as np
import pytest

from callbacks.step_checkpoint import Journal, StepCheckpoint
from callbacks.wall_clock import WallClock
from core import checkpoints, clock, workers
from core.clock import TimeBuckets

X = np.ones((20, 3), "float32")


def compiled():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    # Metrics and optimizer are built, as a checkpoint needs them.
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(X, X[:, :1], X[:, :1])
    model.reset_metrics()
    return model


def fit(checkpoint, peers=(), epochs=1, fits=1):
    model = compiled()
    for _ in range(fits):
        model.fit(
            X, X[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=[*peers, checkpoint]
        )
    return model


class Noted(Journal):
    """Keeps what a journal is told."""

    def __init__(self):
        self.saves, self.warnings = [], []

    def facts(self, step):
        return {"images": 4 * step}

    def saved(self, step, path, facts):
        self.saves.append((step, path.name, facts))

    def warn(self, line):
        self.warnings.append(line)


def steps(folder):
    return sorted(int(path.stem) for path in folder.glob("*.keras"))


def test_written_at_the_start_every_so_many_steps_and_at_the_end(tmp_path):
    journal = Noted()
    fit(StepCheckpoint(tmp_path / "{step}.keras", every=2, last_step=5, journal=journal))
    assert steps(tmp_path) == [0, 2, 4, 5]
    assert journal.saves == [
        (s, f"{s}.keras", {"images": 4 * s, "kind": "regular", "stateful": [{}]})
        for s in (0, 2, 4, 5)
    ]


def test_the_count_goes_on_in_the_next_fit(tmp_path):
    fit(StepCheckpoint(tmp_path / "{step}.keras", every=4), epochs=1, fits=2)
    assert steps(tmp_path) == [0, 4, 8]


def test_a_resumed_run_does_not_write_its_checkpoint_again(tmp_path):
    checkpoint = StepCheckpoint(tmp_path / "{step}.keras", every=2)
    checkpoint.start_at(4)
    fit(checkpoint)
    assert steps(tmp_path) == [6, 8]


def test_what_peers_remember_is_stored_and_comes_back(tmp_path):
    class Memory(keras.callbacks.Callback):
        number = 0

        def state(self):
            return {"number": self.number}

        def restore(self, state):
            self.number = state["number"]

    def peers(*numbers):
        found = [WallClock(lambda row: None, every=2, batch_size=4), Memory(), Memory()]
        found[1].number, found[2].number = numbers
        return found

    first = peers(7, 8)
    fit(StepCheckpoint(tmp_path / "{step}.keras", every=100, peers=first), first)
    (state,) = checkpoints.read_state(tmp_path / "0.keras")["stateful"]
    assert set(state) == {"wall_clock", "memory", "memory_2"}
    assert set(state["wall_clock"]) == {"epoch_began", "window_began", "window_seconds", "before"}
    assert (state["memory"], state["memory_2"]) == ({"number": 7}, {"number": 8})
    others = peers(0, 0)
    resumed = StepCheckpoint(tmp_path / "later-{step}.keras", every=100, peers=others)
    resumed.start_at(5)
    resumed.resume_from(tmp_path / "0.keras")
    fit(resumed, others)
    assert [memory.number for memory in others[1:]] == [7, 8]


def test_what_comes_before_a_checkpoint_is_counted_as_its_time(tmp_path, monkeypatch):
    class Turned:
        now = 0.0

        def monotonic(self):
            return self.now

    turned = Turned()
    monkeypatch.setattr(clock, "time", turned)
    buckets = TimeBuckets(0.0)
    buckets.switch("steps")

    class Slow(keras.callbacks.Callback):
        def before_save(self, step):
            turned.now += 3 + step

    path = tmp_path / "{step}.keras"
    fit(StepCheckpoint(path, every=100, last_step=5, peers=[Slow()], clock=buckets))
    spent = {name: seconds for name, seconds in buckets.state().items() if seconds}
    assert spent == {"checkpoints": (3 + 0) + (3 + 5)}


def test_the_last_one_holds_weights_and_optimizer_state(tmp_path):
    model = fit(StepCheckpoint(tmp_path / "{step}.keras", every=100, last_step=5))
    loaded = keras.saving.load_model(tmp_path / "5.keras")
    assert int(loaded.optimizer.iterations.numpy()) == 5
    pairs = zip(
        [*model.variables, *model.optimizer.variables],
        [*loaded.variables, *loaded.optimizer.variables],
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_who_waits_for_a_slow_disk_gives_signs_and_is_told(tmp_path, monkeypatch):
    """The write ends when there were three signs, so without them it would not end."""
    monkeypatch.setattr(workers, "MEET_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(checkpoints, "SLOW_SECONDS", 0.0)
    signs, in_time = threading.Semaphore(0), []

    class Signs(keras.callbacks.Callback):
        def waiting(self):
            signs.release()

    class Slow(Noted):
        def saved(self, *_):
            in_time.extend(signs.acquire(timeout=60) for _ in range(3))

    journal = Slow()
    path = tmp_path / "{step}.keras"
    fit(StepCheckpoint(path, every=100, peers=[Signs()], journal=journal))
    assert in_time == [True] * 3
    assert steps(tmp_path) == [0]
    assert journal.warnings[0].startswith("training waits for the checkpoint of step 0: ")


@pytest.mark.parametrize(("path", "every"), [("{step}.keras", 0), ("fixed.keras", 1)])
def test_refusals(path, every):
    with pytest.raises(ValueError, match="Received"):
        StepCheckpoint(path, every=every)
