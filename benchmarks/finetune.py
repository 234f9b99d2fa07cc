"""What a trained model is worth on new classes: fine-tuning against training from nothing.

    python benchmarks/finetune.py --data tiny-imagenet-20.tar.gz --output DIR

A small ResNet is trained once on 10 of the archive's classes of Tiny ImageNet, 500 images each.
Then, for each seed, two runs train on `--images_per_class` images of each of the other 10
classes, through phases of the same epochs, image sizes and batches: one from that model, as the
preset `finetune` does it; one from random weights. The rates differ, since random weights need
higher ones, and the first phase, in which the one trains its head alone. That is a little
faster, so that the other never gets less time.

All runs go the way of a user: `recipe.py --images`. Both are asked the same: top-1 on the 500
images of the other classes' validation set, and the seconds of training. Each finished run is a
line of `results.jsonl` in the output folder: the same command runs what is missing, and then
prints the table. Means have 95 % intervals by Student's t. On two cores it takes some ten
minutes in all; nothing else should run beside it.
"""

import json
import os
import sys
import tarfile
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
from training.run_folder import RunFolder

SMALL, LARGE = 32, 48  # pixels
MODEL = {"model": "resnet8", "model_arguments": {"widths": [32, 64, 128], "initial_scale": 2.0}}
SETTINGS = {
    "mean": [121, 115, 100],
    "std": [70, 68, 71],
    "optimizer": {"name": "SGD", "arguments": {"momentum": 0.9, "nesterov": True}},
    "l2": 5.0e-4,
    "label_smoothing": 0.1,
    "augmentation": {"area": [0.35, 1.0], "exact_decode": True},
    "evaluation": {"image_size": LARGE, "data_dir": str(LARGE), "batch_size": 250},
    "keep_newest": 1,
}
COLUMNS = {"top1": ("top-1, %", "{:.1f}"), "training": ("training, s", "{:.0f}")}
FROM_MODEL, FROM_NOTHING = "from the model", "from nothing"


def recipe(name: str, model: dict[str, Any], phases: list[tuple], batch_size: int) -> dict:
    """A recipe; a phase is `(end epoch, first rate, last rate, image size, what is frozen)`."""
    strategy, begin = [], 0
    for end, first, last, size, freeze in phases:
        data = {"image_size": size, "data_dir": str(size), "batch_size": batch_size}
        rates = {"lr": [first, last], "lr_method": "linear", "freeze": freeze}
        strategy.append({"epoch": [begin, end], **rates, **data})
        begin = end
    return {"name": name, **model, **SETTINGS, "training_strategy": strategy}


TRAINED = recipe(
    "trained",
    MODEL,
    [(2, 0.02, 0.2, SMALL, []), (10, 0.2, 0.02, SMALL, []), (12, 0.02, 0.0, LARGE, [])],
    batch_size=64,
)
RACERS = {
    FROM_MODEL: recipe(
        "finetuned",
        {"model": "initial"},
        [
            (2, 0.05, 0.05, SMALL, ["!head"]),
            (12, 0.02, 0.01, SMALL, []),
            (15, 0.01, 0.0, LARGE, []),
        ],
        batch_size=32,
    ),
    FROM_NOTHING: recipe(
        "anew",
        MODEL,
        [(2, 0.02, 0.1, SMALL, []), (12, 0.1, 0.02, SMALL, []), (15, 0.02, 0.0, LARGE, [])],
        batch_size=32,
    ),
}


@click.command()
@click.option("--data", type=Path, required=True, help="The archive, with train/ and val/ in it.")
@click.option("--output", type=Path, required=True, help="Folder of images, runs and results.")
@click.option("--images_per_class", default=100, show_default=True, type=click.IntRange(10, 500))
@click.option("--seeds", default="0,1,2", show_default=True)
def main(data: Path, output: Path, images_per_class: int, seeds: str) -> None:
    """Runs what is missing, in turns, and prints the table."""
    output = output.resolve()  # commands run in the project's folder
    results = output / "results.jsonl"
    unpack(data, output / "images", images_per_class)
    trained = output / "trained"
    if not RunFolder(trained).model.exists():
        print(train(TRAINED, output / "images" / "first", trained, 0), flush=True)
    for turn, seed in enumerate(map(int, seeds.split(","))):
        # Who begins changes, as a machine may slow down or speed up in a turn.
        for who in sorted(RACERS, reverse=turn % 2 == 0):
            if any((row["who"], row["seed"]) == (who, seed) for row in read(results)):
                continue
            run = output / f"{RACERS[who]['name']}-{seed}"
            start = ["--init_from", str(trained)] if who == FROM_MODEL else []
            found = train(RACERS[who], output / "images" / "others", run, seed, *start)
            with results.open("a") as file:
                file.write(json.dumps({"who": who, "seed": seed, **found}) + "\n")
            print(who, seed, found, flush=True)
    show(read(results), Console(width=100, highlight=False))


def unpack(archive: Path, folder: Path, images_per_class: int) -> None:
    """Two sets of class folders: the `first` 10 classes, and a part of the `others`."""
    if (folder / "others" / "val").is_dir():
        return
    with tarfile.open(archive) as file:
        members = [member for member in file if member.isfile()]
        paths = {member: Path(member.name).parts[-3:] for member in members}
        paths = {m: parts for m, parts in paths.items() if parts[0] in ("train", "val")}
        classes = sorted({label for split, label, _ in paths.values() if split == "train"})
        seen: dict[tuple[str, str], int] = {}
        for member, (split, label, name) in paths.items():
            group = "first" if label in classes[: len(classes) // 2] else "others"
            seen[split, label] = seen.get((split, label), 0) + 1
            if (group, split) == ("others", "train") and seen[split, label] > images_per_class:
                continue
            path = folder / group / split / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.extractfile(member).read())  # type: ignore[union-attr]


def train(recipe: dict, images: Path, run: Path, seed: int, *options: str) -> dict[str, float]:
    """Top-1 in percent of a run at its end, and its seconds of training."""
    file = run.with_name(f"{run.name}.yaml")
    file.write_text(yaml.safe_dump({**recipe, "seed": seed}))
    command = [sys.executable, "recipe.py", "--recipe", str(file), "--images", str(images)]
    _, seconds = ran([*command, "--run_dir", str(run), "--overwrite", *options])
    folder = RunFolder(run)
    last = max(folder.evaluation_rows(), key=lambda row: row["step"])
    steps = folder.clock_rows()[-1]["steps"]
    return {"top1": 100 * last["top1"], "training": steps, "all": seconds}


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the table, and the difference of each seed's two runs."""
    table = Table("who", "seeds", *(head for head, _ in COLUMNS.values()))
    for who in RACERS:
        own = [row for row in rows if row["who"] == who]
        table.add_row(who, str(len(own)), *means(own, COLUMNS))
    console.print(table)
    top1 = {(row["who"], row["seed"]): row["top1"] for row in rows}
    seeds = [s for who, s in top1 if who == FROM_MODEL and (FROM_NOTHING, s) in top1]
    if seeds:
        gains = [top1[FROM_MODEL, seed] - top1[FROM_NOTHING, seed] for seed in seeds]
        console.print(f"gained by the model, points: {mean_and_interval(gains, '{:.1f}')}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"finetune.py: error: {error}")
