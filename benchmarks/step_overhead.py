"""What the run's callbacks cost: steps with them against steps without, in one `fit`.

    python benchmarks/step_overhead.py

There is one compiled model, one pipeline and one call of `fit`. Our callbacks act in every
other block of steps. A block with them is compared with the bare blocks on its two sides,
so that a change in the machine's speed affects both. The aim is at most 2 % of a step of
about 20 ms. Writing checkpoints is left out: its cost is for each checkpoint, not each step.
"""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from callbacks.input_balance import InputBalance
from callbacks.step_checkpoint import StepCheckpoint
from core import devices, workers
from core.board import Board
from core.signals import SignalWatch
from datasets.input.faults import Faults
from datasets.records.schema import Records
from training import model
from training.callbacks_for import callbacks_for
from training.inputs import RunData
from training.recipes import Recipe, load_recipe
from training.resume import Start
from training.run import Run
from training.run_folder import RunFolder
from training.run_log import RunLog


class EveryOtherBlock(keras.callbacks.Callback):
    """Passes Keras's calls on to callbacks; calls of steps only in every other block.

    Attributes:
        began: `time.perf_counter()` at which each step began, before the callbacks.
        inside: seconds that each step spent in the callbacks.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], block: int):
        super().__init__()
        self.callbacks = callbacks
        self.block = block
        self.began: list[float] = []
        self.inside: list[float] = []

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.began.append(now)
        if batch // self.block % 2:
            for callback in self.callbacks:
                callback.on_train_batch_begin(batch, logs)
        self.inside.append(time.perf_counter() - now)


@dataclass(frozen=True)
class Overhead:
    """Milliseconds a step, a block each: shape (pairs + 1,) of bare ones, else (pairs,).

    Attributes:
        bare, ours: without and with the callbacks.
        inside: what the callbacks took themselves.
        added, ratios: of `ours` to the bare blocks on both sides.
    """

    bare: np.ndarray
    ours: np.ndarray
    inside: np.ndarray

    @property
    def added(self) -> np.ndarray:
        return self.ours - (self.bare[:-1] + self.bare[1:]) / 2

    @property
    def ratios(self) -> np.ndarray:
        return self.ours / ((self.bare[:-1] + self.bare[1:]) / 2)


def overhead(pairs: int, block: int, batch_size: int) -> Overhead:
    """Measures `pairs` of blocks of `block` steps of the demo's model, in float32; a collective."""
    team = workers.current()
    threads = devices.prepare_devices(team)
    images = tf.random.uniform((batch_size, 28, 28, 3), maxval=256, dtype=tf.int32)
    labels = tf.random.uniform((batch_size,), maxval=10, dtype=tf.int32)
    batches = tf.data.Dataset.from_tensors((tf.cast(images, tf.uint8), labels)).repeat()
    steps = (2 * pairs + 3) * block + 1  # two blocks to warm up, one bare one at the end
    phase = {"epoch": [0, 1], "lr": [0.1, 0.01], "lr_method": "exp", "image_size": 28}
    phase |= {"batch_size": batch_size, "data_dir": "28"}
    settings = {"log_every": block, "checkpoint_every": 10**9, "training_strategy": [phase]}
    recipe = Recipe.model_validate({**load_recipe("demo").model_dump(), **settings})
    schedule = recipe.schedule(1, steps * batch_size)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, "float32")

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        run_folder = RunFolder(Path(folder) / "run")
        run_folder.start(recipe, {"workers": 1, "images": schedule.images})
        run_folder.counted_by(schedule)
        start, now = Start(step=0), time.monotonic()
        log = RunLog(run_folder, recipe, schedule, {}, start, now, net.optimizer)
        balance = InputBalance(log.note, schedule.total_steps, threads)
        data = RunData({}, Records((), 0, 1))
        run = Run(
            team, recipe, data, schedule, run_folder, threads, net, start, log, Faults(1), balance
        )
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            callbacks = callbacks_for(run, SignalWatch(), Board())
            for callback in callbacks:
                if isinstance(callback, StepCheckpoint):
                    callback.start_at(1)  # nothing is written at step 0
            watch = EveryOtherBlock(callbacks, block)
            net.fit(
                balance.watched(batches),
                steps_per_epoch=steps,
                callbacks=[watch],
                shuffle=False,
                verbose=0,
            )

    blocks = milliseconds(np.diff(watch.began), block)[2:]
    inside = milliseconds(np.array(watch.inside[:-1]), block)[3::2]
    return Overhead(blocks[::2], blocks[1::2], inside)


@click.command()
@click.option("--pairs", default=150, help="Blocks with the callbacks, and without.")
@click.option("--block", default=25, help="Steps of a block, and between two reports.")
@click.option("--batch_size", default=32, help="Sets the length of a step.")
def main(pairs: int, block: int, batch_size: int) -> None:
    """Prints milliseconds a step with and without the callbacks, and their ratio."""
    found = overhead(pairs, block, batch_size)
    bare, ours, inside, ratios = found.bare, found.ours, found.inside, found.ratios
    low, high = spread_of_median(ratios)
    table = Table("milliseconds a step", "median", "fastest", "slowest")
    for name, values in (("bare", bare), ("with callbacks", ours), ("inside callbacks", inside)):
        cells = (np.median(values), values.min(), values.max())
        table.add_row(name, *(f"{cell:.3f}" for cell in cells))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"with callbacks / bare: median {np.median(ratios):.4f}, 95 % interval {low:.4f} to "
        f"{high:.4f}; {pairs} pairs of blocks of {block} steps, a report in each\n"
        f"inside callbacks / bare: {np.median(inside) / np.median(bare):.4f}"
    )


def milliseconds(seconds: np.ndarray, block: int) -> np.ndarray:
    """Mean milliseconds a step of each block: shape (steps,) to (steps // block,)."""
    return 1000 * seconds[: len(seconds) // block * block].reshape(-1, block).mean(axis=1)


def spread_of_median(values: np.ndarray, repeats: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median of `values`, shape (n,)."""
    picks = np.random.default_rng(0).choice(values, (repeats, len(values)))
    low, high = np.percentile(np.median(picks, axis=1), [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
