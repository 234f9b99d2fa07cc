"""Checkpoints: when, whole, and loadable."""

import threading

import keras
import numpy as np
import pytest

from callbacks.step_checkpoint import StepCheckpoint, save_whole
from core import checkpoints, clock, workers
from core.clock import TimeBuckets

X = np.ones((20, 3), "float32")


def fit(checkpoint, epochs=1, fits=1):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    for _ in range(fits):
        model.fit(X, X[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=[checkpoint])
    return model


def steps(folder):
    return sorted(int(path.stem) for path in folder.glob("*.keras"))


def test_written_at_the_start_every_so_many_steps_and_at_the_end(tmp_path):
    noted = []
    fit(
        StepCheckpoint(
            tmp_path / "{step}.keras", every=2, last_step=5,
            on_saved=lambda step, path, facts: noted.append((step, path.name)),
        )
    )  # fmt: skip
    assert steps(tmp_path) == [0, 2, 4, 5]
    assert noted == [(s, f"{s}.keras") for s in (0, 2, 4, 5)]


def test_the_count_goes_on_in_the_next_fit(tmp_path):
    fit(StepCheckpoint(tmp_path / "{step}.keras", every=4), epochs=1, fits=2)
    assert steps(tmp_path) == [0, 4, 8]


def test_a_resumed_run_does_not_write_its_checkpoint_again(tmp_path):
    fit(StepCheckpoint(tmp_path / "{step}.keras", every=2, initial_step=4))
    assert steps(tmp_path) == [6, 8]


def test_what_comes_before_a_checkpoint_is_counted_as_its_time(tmp_path, monkeypatch):
    class Turned:
        now = 0.0

        def monotonic(self):
            return self.now

    turned = Turned()
    monkeypatch.setattr(clock, "time", turned)
    buckets = TimeBuckets(0.0)
    buckets.switch("steps")

    def look(step):
        turned.now += 3 + step

    fit(
        StepCheckpoint(
            tmp_path / "{step}.keras", every=100, last_step=5, clock=buckets, before_save=look
        )
    )
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
    signs, lines, in_time = threading.Semaphore(0), [], []

    def saved(*_):
        in_time.extend(signs.acquire(timeout=60) for _ in range(3))

    path = tmp_path / "{step}.keras"
    fit(StepCheckpoint(path, every=100, on_saved=saved, warn=lines.append, sign=signs.release))
    assert in_time == [True] * 3
    assert steps(tmp_path) == [0]
    assert lines[0].startswith("training waits for the checkpoint of step 0: ")


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    def break_off(path):
        with open(path, "w") as file:
            file.write("half of i")
        raise OSError("No space left on device")

    (tmp_path / "a.keras").write_text("the one before")
    with pytest.raises(OSError, match="No space left"):
        save_whole(break_off, tmp_path / "a.keras")
    assert [p.name for p in tmp_path.iterdir()] == ["a.keras"]
    assert (tmp_path / "a.keras").read_text() == "the one before"


@pytest.mark.parametrize(("path", "every"), [("{step}.keras", 0), ("fixed.keras", 1)])
def test_refusals(path, every):
    with pytest.raises(ValueError, match="Received"):
        StepCheckpoint(path, every=every)
