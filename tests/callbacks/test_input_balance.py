"""Runs that are slow for a known reason, and what is said about them."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from callbacks.input_balance import InputBalance, verdict

STEPS = 40
LONG = 10_000.0  # seconds; no run here takes so long


@pytest.fixture(scope="module")
def pause():
    """Seconds beside which a step is short that does not wait, however slow the machine is."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    began = time.monotonic()
    model.fit(batches(), steps_per_epoch=STEPS, verbose=0)
    return max(0.02, 5 * (time.monotonic() - began) / STEPS)


def batches(pause=0.0, taken=None):
    """Batches that each take `pause` seconds to make; how long they took is added to `taken`."""

    def wait(images, labels):
        def sleep():
            began = time.monotonic()
            time.sleep(pause)
            if taken is not None:
                taken.append(time.monotonic() - began)
            return np.zeros(1, "float32")

        return images + tf.ensure_shape(tf.numpy_function(sleep, [], tf.float32), (1,)), labels

    dataset = tf.data.Dataset.from_tensors((tf.zeros((8, 4)), tf.zeros((8, 1)))).repeat()
    return dataset.map(wait, num_parallel_calls=1, deterministic=True).prefetch(2)


class Slow(keras.layers.Layer):
    """Keeps the step busy, in the graph, for about `pause` seconds."""

    def __init__(self, pause):
        super().__init__()
        self.pause = pause

    def call(self, x):
        def sleep():
            time.sleep(self.pause)
            return np.zeros(1, "float32")

        with tf.control_dependencies([x]):
            pause = tf.numpy_function(sleep, [], tf.float32)
        return x + tf.stop_gradient(tf.ensure_shape(pause, (1,)))


def said(dataset, *layers, after, total_steps=STEPS):
    lines = []
    balance = InputBalance(lines.append, total_steps, threads=3, after=after)
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(balance.watched(dataset), steps_per_epoch=STEPS, callbacks=[balance], verbose=0)
    return lines, balance


@pytest.mark.parametrize("after", [0.3, LONG])
def test_a_slow_pipeline_is_input_bound(pause, after):
    """Once its time has come, or at the end of a run that is shorter."""
    (line,), _ = said(batches(pause), after=after)
    assert line.startswith("Input-bound: ")
    assert int(line.split("%")[0].split()[-1]) > 60
    assert "3 thread(s)" in line
    assert "--data synthetic" in line


def test_a_slow_model_is_compute_bound(pause):
    (line,), _ = said(batches(), Slow(pause), after=0.3)
    assert line.startswith("Compute-bound: ")
    assert int(line.split("%")[0].split()[-1]) < 10


def test_a_pipeline_as_slow_as_the_model_hides_behind_it(pause):
    """Made ahead, at half the model's pace, batches lie ready: nobody waits."""
    (line,), _ = said(batches(pause / 2), Slow(pause), after=0.3)
    assert line.startswith("Compute-bound: ")


def test_the_waiting_time_is_what_the_pipeline_takes(pause):
    taken = []
    _, balance = said(batches(pause, taken), after=LONG)
    assert float(balance._waited) == pytest.approx(sum(taken[:STEPS]), rel=0.3)


def test_nothing_is_said_before_its_time_or_of_a_dataset_that_is_not_watched():
    assert said(batches(), after=LONG, total_steps=10 * STEPS)[0] == []
    lines = []
    balance = InputBalance(lines.append, STEPS, threads=1, after=0.0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(batches(), steps_per_epoch=STEPS, callbacks=[balance], verbose=0)
    assert lines == []


def test_what_is_watched_is_the_same():
    dataset = tf.data.Dataset.range(5).map(lambda i: (i, {"twice": 2 * i}))
    balance = InputBalance(print, 1, threads=1)
    found = [(int(i), int(x["twice"])) for i, x in balance.watched(dataset)]
    assert found == [(i, 2 * i) for i in range(5)]
    assert balance.watched(dataset).element_spec == dataset.element_spec


@pytest.mark.parametrize(
    ("shares", "begins", "holds"),
    [
        ([0.11], "Input-bound: 11% of 60 s", "2 thread(s)"),
        ([0.10], "Compute-bound: 10% of 60 s", "would not"),
        ([0.0, 0.5, 0.2], "Input-bound: 50% of 60 s", "(worker 1, of 3)"),
    ],
)
def test_the_worker_that_waits_most_decides(shares, begins, holds):
    line = verdict(shares, 60.0, 2)
    assert line.startswith(begins)
    assert holds in line
