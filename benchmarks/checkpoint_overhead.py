"""What checkpoints in the background cost: steps during one against steps without.

    python benchmarks/checkpoint_overhead.py

In one `fit`, every other block of 100 steps begins with a checkpoint, whose file is written
while the steps continue. Such a block is compared with the blocks on its two sides. The aim
is at most 1 % with a checkpoint every 100 steps of 20 ms.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks.step_overhead import EveryOtherBlock, milliseconds, spread_of_median
from callbacks.step_checkpoint import Journal, StepCheckpoint
from core import devices, workers
from training import model
from training.recipes import load_recipe


class Sizes(Journal):
    """Notes how many bytes each checkpoint has."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def saved(self, step: int, path: Path, facts: Mapping[str, Any]) -> None:
        self.written.append(path.stat().st_size)


@click.command()
@click.option("--pairs", default=30, help="Blocks with a checkpoint, and without.")
@click.option("--block", default=100, help="Steps of a block.")
@click.option("--batch_size", default=24, help="Sets the length of a step.")
@click.option("--recipe", "recipe_name", default="demo", help="The recipe of the model.")
def main(pairs: int, block: int, batch_size: int, recipe_name: str) -> None:
    """Prints milliseconds a step with and without a checkpoint, and their ratio."""
    devices.prepare_devices(workers.current())
    recipe = load_recipe(recipe_name)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, "float32")
    size = recipe.evaluation.image_size
    images = tf.random.uniform((batch_size, size, size, 3), maxval=256, dtype=tf.int32)
    labels = tf.random.uniform((batch_size,), maxval=recipe.classes, dtype=tf.int32)
    batches = tf.data.Dataset.from_tensors((tf.cast(images, tf.uint8), labels)).repeat()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        # It counts only the steps that are passed to it: those of every other block.
        sizes = Sizes()
        checkpoint = StepCheckpoint(
            Path(folder) / "step-{step}.keras",
            every=block,
            journal=sizes,
        )
        watch = EveryOtherBlock([checkpoint], block)
        steps = (2 * pairs + 3) * block + 1  # two blocks to warm up, one bare one at the end
        with contextlib.redirect_stdout(nowhere):
            net.fit(batches, steps_per_epoch=steps, callbacks=[watch], shuffle=False, verbose=0)
        checkpoint.finish()

    blocks = milliseconds(np.diff(watch.began), block)[2:]
    inside = milliseconds(np.array(watch.inside[:-1]), block)[3::2]
    bare, ours = blocks[::2], blocks[1::2]
    ratios = ours / ((bare[:-1] + bare[1:]) / 2)
    low, high = spread_of_median(ratios)
    console = Console(width=100)
    console.print(
        f"{len(sizes.written)} checkpoints of {np.mean(sizes.written) / 2**20:.2f} MiB, "
        f"one in {block} steps of {np.median(bare):.2f} ms\n"
        f"with / without: median {np.median(ratios):.4f}, 95 % interval {low:.4f} to {high:.4f}\n"
        f"training stands still for {block * np.median(inside):.1f} ms at each"
    )


if __name__ == "__main__":
    main()
