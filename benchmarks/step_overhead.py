"""What the run's callbacks cost: a phase under our loop against a bare compiled `fit`.

    python benchmarks/step_overhead.py

Same model, same batches, one process, in turns. The aim is at most 2 % of a step of
about 20 ms. Writing checkpoints is left out: it costs by the checkpoint, not by the step.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from callbacks.broadcast import BroadcastFromFirst
from callbacks.phase_scheduler import PhaseScheduler
from callbacks.progress_bar import ProgressBar
from callbacks.same_weights import SameWeights
from callbacks.stage_clock import StageClock
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.wall_clock import WallClock
from training import devices, model, workers
from training.phases import Schedule
from training.recipes import load_recipe
from training.run_folder import RunFolder
from training.session import Scribe


@click.command()
@click.option("--steps", default=50, help="Steps of one measurement.")
@click.option("--repeats", default=30, help="Measurements of each kind, in turns.")
@click.option("--batch_size", default=16, help="Sets the length of a step.")
@click.option("--log_every", default=25, help="Steps between two reports.")
def main(steps: int, repeats: int, batch_size: int, log_every: int) -> None:
    """Prints milliseconds a step of both loops, and their ratio."""
    devices.prepare_devices(workers.current())
    recipe = load_recipe("demo").model_copy(update={"log_every": log_every})
    net = model.build(recipe)
    model.compile_for_training(net, recipe, "float32")
    images = tf.random.uniform((batch_size, 28, 28, 3), maxval=256, dtype=tf.int32)
    labels = tf.random.uniform((batch_size,), maxval=10, dtype=tf.int32)
    batches = tf.data.Dataset.from_tensors((tf.cast(images, tf.uint8), labels)).repeat()
    phase = {
        "epoch": [0, repeats + 2], "lr": [0.1, 0.01], "lr_method": "exp", "image_size": 28,
        "batch_size": batch_size, "data_dir": "28",
    }  # fmt: skip
    schedule = Schedule([phase], workers=1, images=steps * batch_size)

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        run = RunFolder(Path(folder) / "run")
        run.start(recipe, {})
        scribe = Scribe(run, schedule, started=time.monotonic())
        scribe.open()
        bar = ProgressBar(schedule.total_steps, file=nowhere)
        ours = [
            StageClock(scribe.clock),
            BroadcastFromFirst(),
            PhaseScheduler(schedule),
            SameWeights([0]),
            StepCheckpoint(run.checkpoint_pattern, every=10**9, initial_step=1),
            WallClock(scribe.note_training(bar), log_every, schedule),
            bar,
        ]
        seconds: dict[str, list[float]] = {"bare fit": [], "our loop": []}
        with contextlib.redirect_stdout(nowhere):
            for repeat in range(repeats + 1):
                for name, callbacks in (("bare fit", []), ("our loop", ours)):
                    began = time.perf_counter()
                    net.fit(
                        batches,
                        steps_per_epoch=steps,
                        callbacks=callbacks,
                        shuffle=False,
                        verbose=0,
                    )
                    if repeat:  # the first round traces and warms up
                        seconds[name].append((time.perf_counter() - began) / steps)

    table = Table("", "ms a step, median", "fastest", "slowest")
    for name, values in seconds.items():
        cells = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{1000 * cell:.2f}" for cell in cells))
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    console = Console(width=100)
    console.print(table)
    console.print(
        f"our loop / bare fit, turn by turn: median {statistics.median(ratios):.4f} "
        f"({min(ratios):.4f} to {max(ratios):.4f}); {steps} steps, {repeats} turns, "
        f"a report every {log_every} steps"
    )


if __name__ == "__main__":
    main()
