"""Whether XLA and the fused BatchNorm leave the accuracy as it is: a shortened CIFAR-10 run.

    tar -xf cifar10.tar.gz           a folder with train/ and val/, of class folders
    python benchmarks/same_accuracy.py --data cifar10 --output DIR

It trains the preset `cifar10` as it stands (plain: Keras's own BatchNorm, no XLA), with
`xla: true`, and with `batch_norm: fused`. Variants and seeds take turns. The run is shortened:
its phases keep their rates, but all have one image size, their epochs are scaled to `--epochs`,
and each class has its first `--images` / 10 training images. Each finished run is a line of
`results.jsonl` in the output folder: the same command runs what is missing, and then prints the
table. Accuracies are on the 10,000 test images. Means have 95 % intervals by Student's t.

Runs of one seed begin with the same weights and see the same batches. Their roundings differ,
and training makes them grow: so single runs differ, and only means can be compared.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.race import mean_and_interval, means, ran, read
from core.errors import UserError
from launch.command_line import horovodrun
from training.recipes import load_recipe
from training.run_folder import RunFolder

KERAS = "plain"
VARIANTS: dict[str, dict[str, Any]] = {
    KERAS: {"xla": False, "batch_norm": "keras"},
    "xla": {"xla": True, "batch_norm": "keras"},
    "fused": {"xla": False, "batch_norm": "fused"},
}
COLUMNS = {
    "top1": ("top-1, %", "{:.2f}"),
    "loss": ("test loss", "{:.4f}"),
    "training": ("training, s", "{:.0f}"),
}


@click.command()
@click.option("--data", type=Path, required=True, help="Folder with train/ and val/.")
@click.option("--output", type=Path, required=True, help="Folder of results, records and runs.")
@click.option("--epochs", default=3.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--size", default=17, show_default=True, help="Of the images, in pixels.")
@click.option("--images", default=20000, show_default=True, type=click.IntRange(5000, 50000))
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
def main(
    data: Path, output: Path, epochs: float, size: int, images: int, seeds: str, workers: int
) -> None:
    """Runs what is missing, in turns, and prints the table."""
    output = output.resolve()  # commands run in the project's folder
    results, records = output / "results.jsonl", output / f"records-{images}"
    build(data.resolve(), output / f"images-{images}", records, images, size)
    recipe = shortened(epochs, size, images)
    asked = {"epochs": epochs, "size": size, "images": images, "workers": workers}

    def done() -> list[dict[str, Any]]:
        """The rows of runs of this length."""
        return [row for row in read(results) if asked.items() <= row.items()]

    for turn, seed in enumerate(map(int, seeds.split(","))):
        # Who begins changes, as a machine may slow down or speed up in a turn.
        for who in sorted(VARIANTS, reverse=turn % 2 == 1):
            if any((row["who"], row["seed"]) == (who, seed) for row in done()):
                continue
            changes = {**VARIANTS[who], "seed": seed}
            found = train({**recipe, **changes}, records, output / f"{who}-{seed}", workers)
            with results.open("a") as file:
                file.write(json.dumps({"who": who, "seed": seed, **asked, **found}) + "\n")
            print(who, seed, found, flush=True)
    show(done(), Console(width=100, highlight=False))


def shortened(epochs: float, size: int, images: int) -> dict[str, Any]:
    """The preset's recipe with fewer epochs, one image size and fewer images."""
    recipe = load_recipe("cifar10").model_dump(mode="json")
    phases = recipe["training_strategy"]
    share = epochs / phases[-1]["epoch"][1]
    for phase in phases:
        phase["epoch"] = [end * share for end in phase["epoch"]]
        phase |= {"image_size": size, "data_dir": str(size)}
    evaluation = {"image_size": size, "data_dir": str(size), "flip": False, "shift": 0}
    # Of the checkpoints, only the last one is asked for.
    recipe |= {"images": images, "checkpoint_every": 10**6, "keep_newest": 1}
    return {**recipe, "evaluation": {**recipe["evaluation"], **evaluation}}


def build(data: Path, chosen: Path, records: Path, images: int, size: int) -> None:
    """Makes records of the first images of each class, and of all test images."""
    if (records / str(size)).exists():
        return
    for split, most in (("train", images // 10), ("val", None)):
        for label in sorted((data / split).iterdir()):
            folder = chosen / split / label.name
            folder.mkdir(parents=True, exist_ok=True)
            for image in sorted(label.iterdir())[:most]:
                shutil.copyfile(image, folder / image.name)
    command = [sys.executable, "-m", "datasets.build_imagenet_data", "--source", str(chosen)]
    ran([*command, "--sizes", str(size), "--output", str(records)])


def train(recipe: dict[str, Any], records: Path, run: Path, workers: int) -> dict[str, float]:
    """Top-1 in percent and the loss of a run's end, and its seconds of training."""
    file = run.with_name(f"{run.name}.yaml")
    file.write_text(yaml.safe_dump(recipe))
    command = [*(horovodrun(workers) if workers > 1 else []), sys.executable, "recipe.py"]
    asked = ["--recipe", str(file), "--data_dir", str(records), "--run_dir", str(run)]
    ran([*command, *asked, "--overwrite"])
    folder = RunFolder(run)
    last = max(folder.evaluation_rows(), key=lambda row: row["step"])
    steps = folder.clock_rows()[-1]["steps"]
    return {"top1": 100 * last["top1"], "loss": last["loss"], "training": steps}


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the table, and what each variant differs from the plain run, seed by seed."""
    table = Table("who", "seeds", *(head for head, _ in COLUMNS.values()))
    for who in VARIANTS:
        own = [row for row in rows if row["who"] == who]
        if own:
            table.add_row(who, str(len(own)), *means(own, COLUMNS))
    console.print(table)
    top1 = {(row["who"], row["seed"]): row["top1"] for row in rows}
    for who in VARIANTS:
        seeds = [seed for name, seed in top1 if name == who and (KERAS, seed) in top1]
        if who != KERAS and seeds:
            apart = [top1[who, seed] - top1[KERAS, seed] for seed in seeds]
            each = ", ".join(f"{value:+.2f}" for value in apart)
            console.print(f"{who} - {KERAS}, points: {mean_and_interval(apart, '{:.2f}')} ({each})")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"same_accuracy.py: error: {error}")
