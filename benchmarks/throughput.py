"""Measures images a second on this machine, for `plan --throughput`.

    python benchmarks/throughput.py --recipe cifar10 --output rates.yaml
    horovodrun -np 2 python benchmarks/throughput.py --recipe cifar10 --output rates.yaml

For each image size and batch of a recipe, the real compiled step with the real
all-reduce runs on one synthetic batch that lies ready in memory, and is copied to the device at
each step. So the rates leave out the input pipeline: if that is slower than the step, so is a run.
"""

import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.monotonic()

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

environment.prepare()

import click
import keras
import numpy as np
import tensorflow as tf
import yaml

from callbacks.stage_clock import wait_for_device
from core import devices, files, workers
from core.errors import UserError
from launch import rendezvous
from launch.commands import RECIPE
from training import model
from training.recipes import Recipe, load_recipe


@click.command()
@RECIPE
@click.option("--output", type=Path, required=True, help="The YAML file to write.")
@click.option(
    "--steps", type=click.IntRange(2), default=30, help="Number of timed steps for each rate."
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    help="Number of measurements; their median counts.",
)
def main(recipe_name: str, output: Path, steps: int, repeats: int) -> None:
    """Writes the rates of a recipe's sizes and batches on this machine."""
    recipe = load_recipe(recipe_name)
    rendezvous.meet()
    team = workers.join()
    devices.prepare_devices(team)
    policy, _ = devices.choose_policy(recipe.policy)
    devices.set_numerics(policy, recipe.seed)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, policy)
    workers.broadcast_variables([*net.variables, *net.optimizer.variables])
    start_up = time.monotonic() - STARTED

    rates, traces = [], []
    for size, batch in _settings(recipe):
        trace, step = measure(net, size, batch, recipe.classes, steps, repeats)
        traces.append(trace)
        speed = round(batch * team.size / step, 1)
        rates.append({"image_size": size, "batch_size": batch, "images_per_second": speed})
        if team.is_first:
            click.echo(f"{size} px, batch {batch}: {speed:,} images/s")
    if team.is_first:
        found = {
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores"
            + "".join(f", {gpu.name}" for gpu in tf.config.list_physical_devices("GPU")),
            "source": f"benchmarks/throughput.py, recipe {recipe.name}, {policy}, median of "
            f"{repeats} times {steps} steps on a synthetic batch; no input pipeline",
            "model": recipe.model,
            "workers": team.size,
            "rates": rates,
            "start_up_seconds": round(start_up, 2),
            "tracing_seconds": round(float(np.mean(traces)), 2),
            "checkpoint_seconds": round(seconds_to_save(net), 3),
        }
        rates_as_text = yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=100)
        files.write(output, "# Measured; an input pipeline may be slower.\n" + rates_as_text)
        click.echo(f"written to {output}")


def _settings(recipe: Recipe) -> list[tuple[int, int]]:
    """The different (image size, batch size) of a recipe, in its order.

    Raises:
        UserError: an image that is not square; a table of rates cannot hold it.
    """
    found: dict[tuple[int, int], None] = {}
    for phase in recipe.training_strategy.root:
        height, width = phase.image_size
        if height != width:
            raise UserError(f"image size {height} x {width}: only square images can be measured")
        found[height, phase.batch_size] = None
    return list(found)


def measure(
    net: keras.Model,
    size: int,
    batch: int,
    classes: int,
    steps: int,
    repeats: int,
    seconds: float = math.inf,
) -> tuple[float, float]:
    """Seconds of a stage's first step beyond a normal one, and seconds of a normal step.

    A collective. Each of the `repeats` takes `steps` steps, or fewer where they would take longer
    than `seconds`.
    """
    rng = np.random.default_rng(workers.current().rank)
    images = tf.constant(rng.integers(0, 256, (batch, size, size, 3), np.uint8))
    labels = tf.constant(rng.integers(0, classes, batch, np.int32))
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    net.make_train_function(force=True)
    iterator = iter(batches)

    def run(count: int) -> float:
        wait_for_device(net)
        began = time.perf_counter()
        for _ in range(count):
            net.train_function(iterator)
        wait_for_device(net)
        return time.perf_counter() - began

    first = run(1)
    warm = run(2) / 2  # the second step still allocates memory
    steps = workers.from_first(max(2, int(min(steps, seconds / warm))))  # all take as many
    step = float(np.median([run(steps) / steps for _ in range(repeats)]))
    return max(first - step, 0.0), step


def seconds_to_save(net: keras.Model) -> float:
    """Seconds of writing a checkpoint, while nothing else happens."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with files.whole(Path(folder) / "model.keras") as unfinished:
            net.save(unfinished)
        return time.monotonic() - began


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"throughput.py: error: {error}")
