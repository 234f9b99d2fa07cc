"""The wall-clock log: windows, speeds, and no waiting for the device in between."""

import sys

import keras
import numpy as np
import pytest

from callbacks.wall_clock import ProgressBar, WallClock, window_mean
from core.schedule import Schedule


def test_a_window_mean_by_hand():
    # 1, 2, 3 have the mean 2; with 8 and 10 behind them it is 4.8; those two have 9.
    assert window_mean(4.8, 5, 2.0, 3) == pytest.approx(9.0)


def fit(rows, epochs=1, fits=1, **arguments):
    """Ten steps of two images an epoch; the loss of step s is s ** 2."""
    x = np.arange(20, dtype="float32").reshape(10, 2).repeat(1, axis=0)
    values = (x // 2).reshape(20, 1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1), "float32")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    clock = WallClock(rows.append, **arguments)
    for _ in range(fits):
        options = {"batch_size": 2, "epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(values, np.zeros((20, 1)), callbacks=[clock], **options)
    return rows


def test_each_report_is_the_mean_of_its_window():
    rows = fit([], every=4, batch_size=2)
    assert [row["step"] for row in rows] == [4, 8, 10]
    # Squares 0, 1, 4, 9; then 16, 25, 36, 49; then 64, 81.
    assert [row["loss"] for row in rows] == pytest.approx([3.5, 31.5, 72.5])


def test_windows_go_on_over_epochs_and_fits():
    rows = fit([], epochs=2, fits=2, every=10, batch_size=2)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["loss"] for row in rows] == pytest.approx([28.5] * 4)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_speed_and_state_come_from_the_schedule():
    phase = {"lr_method": "linear", "image_size": 8, "data_dir": "d", "batch_size": 2}
    schedule = Schedule(
        [
            phase | {"epoch": [0, 0.5], "lr": [0.0, 1.0]},
            phase | {"epoch": [0.5, 1], "lr": [1.0, 0.0], "image_size": 16},
        ],
        workers=1,
        images=20,
    )
    rows = fit([], every=5, schedule=schedule)
    # A report at a boundary is of the phase that ends there.
    assert [(r["step"], r["epoch"], r["image_size"], r["learning_rate"]) for r in rows] == [
        (5, 0.5, 8, 1.0),
        (10, 1.0, 16, 0.0),
    ]
    for row in rows:
        assert row["images_per_second"] > 0


def fit_with_an_infinity(model, *callbacks):
    """Twenty steps of which the dynamic loss scale skips the eighth."""
    x = np.ones((80, 1), "float32")
    x[7 * 4] = np.inf
    model.fit(x, np.ones((80, 1)), batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("step", [40, 10])
def test_skipped_steps_are_counted_from_where_a_run_is_taken_up(step):
    """Twenty steps of two workers are forty of one, and ten of four; updates stay twenty."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse", auto_scale_loss=False)
    fit_with_an_infinity(model)
    rows: list = []
    clock = WallClock(rows.append, every=5, batch_size=4)
    clock.start_at(step)
    fit_with_an_infinity(model, clock)
    found = [(row["step"] - step, row["skipped_steps"]) for row in rows]
    assert found == [(5, 0), (10, 1), (15, 1), (20, 1)]


def test_metrics_are_read_only_for_reports(monkeypatch):
    read = []
    original = keras.Sequential.get_metrics_result
    monkeypatch.setattr(
        keras.Sequential,
        "get_metrics_result",
        lambda self: (read.append(1), original(self))[1],
    )
    rows = fit([], every=5, batch_size=2)
    traced = 1  # once in the graph of the step, however many steps there are
    end_of_epoch = 1  # Keras's own
    assert len(read) <= len(rows) + traced + end_of_epoch


@pytest.mark.parametrize("arguments", [{"every": 1}, {"every": 0, "batch_size": 2}])
def test_refusals(arguments):
    with pytest.raises(ValueError, match="Received"):
        WallClock(print, **arguments)


def test_the_bar_shows_what_there_is(capsys):
    row = {"epoch": 1.5, "phase": "1/3", "learning_rate": 0.1, "images_per_second": 1234.5}
    bar = ProgressBar(total_steps=10, disable=False)
    bar.show(row | {"loss": 0.5, "top1": 0.75, "top5": 0.9, "step": 3})
    line = "phase 1/3 1,234 im/s loss 0.500 top-1 75.0%"
    assert bar.bar.postfix == line
    rows: list = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    clock = WallClock(lambda row: (rows.append(row), bar.show(row)), every=5, batch_size=2)
    model.fit(np.ones((20, 1)), np.ones((20, 1)), batch_size=2, verbose=0, callbacks=[clock, bar])
    assert "10/10" in capsys.readouterr().err


def test_in_a_file_there_is_no_bar_unless_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.delenv("RECIPE_TERMINAL", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for options, text in (({}, ""), ({"disable": False}, "3/10")):
        bar = ProgressBar(total_steps=10, **options)
        bar.bar.update(3)
        bar.bar.refresh()
        assert text in (err := capsys.readouterr().err)
        assert bool(err) == bool(text)


def test_the_bar_fits_a_terminal_of_100_columns(capsys):
    row = {"phase": "2/13", "image_size": 128, "images_per_second": 56789.0, "loss": 6.543}
    bar = ProgressBar(total_steps=112_500, disable=False, ncols=97)
    bar.show(row | {"top1": 0.753, "top5": 0.931})
    bar.bar.update(99_999)
    bar.bar.refresh()
    line = capsys.readouterr().err.split("\r")[-1].rstrip()
    assert len(line) <= 97
    assert line.endswith("phase 2/13 128 px 56,789 im/s loss 6.543 top-1 75.3%]")
