"""The race: this project and PyTorch's CIFAR-10 speedrun, side by side on the same JPEG files.

    make bench-peers
    tar -xf cifar10.tar.gz           a folder with train/ and val/, of class folders
    python benchmarks/race.py --data cifar10 --output race
    python benchmarks/race.py steps  only the step: images a second, side by side

Ours is the recipe `cifar10`, run by two Horovod workers. The peer is `race_peer.py`, PyTorch
on all cores. They run in turns with one seed after the other, and nothing else should run
beside them. Each finished run is a line of `results.jsonl` in the output folder: the same command
runs what is missing, and then prints the table. `--phases` adds the peer with phases of its own.

Both are asked the same: how many seconds of training, and in all, for which accuracy on the
10,000 test images, by one plain view and by six (the image, and two crops shifted by a pixel,
each also mirrored). Means have 95 % intervals by Student's t.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import keras
import yaml
from click_default_group import DefaultGroup
from rich.console import Console
from rich.table import Table
from scipy import stats

from core.errors import UserError
from core.schedule import Schedule
from launch.command_line import horovodrun
from models import build_model
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
PEER = Path(__file__).resolve().parent / "race_peer.py"
WORKERS = 2
PLAIN = ["--no_flip", "--shift", "0"]
COLUMNS = {  # of results.jsonl, with their heads and formats in the table
    "training": ("training, s", "{:.0f}"),
    "all": ("in all, s", "{:.0f}"),
    "plain": ("plain, %", "{:.2f}"),
    "views": ("six views, %", "{:.2f}"),
}


PEERS = click.option(
    "--peers", type=Path, default=ROOT / ".venv-peers", help="The peer's environment."
)


@click.group(cls=DefaultGroup, default="run")
def main() -> None:
    """The race; `run` is the default command."""


@main.command()
@click.option("--data", type=Path, required=True, help="Folder with train/ and val/.")
@click.option("--output", type=Path, required=True, help="Folder of results, records and runs.")
@click.option("--recipe", "name", default="cifar10", show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--phases", help="A third row: the peer with these, as epochs@size,...")
@PEERS
@click.option("--table", is_flag=True, help="Run nothing; print the table of what there is.")
def run(
    data: Path, output: Path, name: str, seeds: str, phases: str | None, peers: Path, table: bool
) -> None:
    """Runs what is missing, in turns, and prints the table."""
    recipe = load_recipe(name)
    data, output = data.resolve(), output.resolve()  # commands run in the project's folder
    results = output / "results.jsonl"
    output.mkdir(parents=True, exist_ok=True)
    racers = {"ours": lambda seed: ours(recipe, data, output, seed)}
    racers["peer"] = lambda seed: peer(peers, data, seed)
    if phases:
        racers[f"peer, {phases}"] = lambda seed: peer(peers, data, seed, "--phases", phases)
    for turn, seed in enumerate([] if table else map(int, seeds.split(","))):
        # Who begins changes, as a machine may slow down or speed up in a turn.
        for who in sorted(racers, reverse=turn % 2 == 0):
            if any((row["who"], row["seed"]) == (who, seed) for row in read(results)):
                continue
            row = {"who": who, "seed": seed, **racers[who](seed)}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    show(read(results), Console(width=120, highlight=False))


def read(results: Path) -> list[dict[str, Any]]:
    """The rows of the runs that are done."""
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def ran(command: list[str], **options: Any) -> tuple[str, float]:
    """What a command printed, and its seconds."""
    began = time.monotonic()
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    if job.returncode:
        raise UserError(f"{' '.join(command)}:\n{job.stdout[-2000:]}{job.stderr[-2000:]}")
    return job.stdout, time.monotonic() - began


def peer(environment: Path, data: Path, seed: int, *options: str) -> dict[str, Any]:
    """A run of the peer."""
    python = environment / "bin" / "python"
    if not python.exists():
        raise UserError(f"{environment}: no environment of the peer; run `make bench-peers`")
    command = [str(python), str(PEER), "--data", str(data), "--seed", str(seed)]
    threads = ["--threads", str(len(os.sched_getaffinity(0)))]
    printed, seconds = ran([*command, *threads, *options])
    row = json.loads(printed.splitlines()[-1])
    return {**row, "all": seconds}


def ours(recipe: Recipe, data: Path, output: Path, seed: int) -> dict[str, Any]:
    """A run of this project."""
    records, folder = output / "records", RunFolder(output / f"{recipe.name}-{seed}")
    sizes = sorted({phase.image_size[0] for phase in recipe.training_strategy.root})
    if not all((records / str(size)).exists() for size in sizes):
        wanted = ["--sizes", ",".join(map(str, {*sizes, recipe.evaluation.image_size}))]
        command = ["-m", "datasets.build_imagenet_data", "--source", str(data), *wanted]
        ran([sys.executable, *command, "--output", str(records)])
    file = output / f"{recipe.name}-{seed}.yaml"
    file.write_text(yaml.safe_dump({**recipe.model_dump(mode="json"), "seed": seed}))
    command = [*horovodrun(WORKERS), sys.executable, "recipe.py"]
    asked = ["--recipe", str(file), "--data_dir", str(records), "--run_dir", str(folder.path)]
    _, seconds = ran([*command, *asked, "--overwrite"])
    ran([*command, "evaluate", "--run_dir", str(folder.path), *PLAIN])
    rows = folder.evaluation_rows()
    last = max(row["step"] for row in rows)
    by_crop = {row["crop"]: 100 * row["top1"] for row in rows if row["step"] == last}
    steps = folder.clock_rows()[-1]["steps"]
    schedule = recipe.schedule(WORKERS)
    return {
        "training": steps,
        "all": seconds,
        "plain": by_crop.pop("centre"),
        "views": by_crop.popitem()[1],
        "images": schedule.images_between(0, schedule.total_steps),
        "pflop": work(recipe, schedule) / 1e15,
    }


def work(recipe: Recipe, schedule: Schedule) -> int:
    """Floating-point operations of a run: three times those of the forward passes."""
    total = 0
    for phase in schedule.phases:
        size = phase.phase.image_size
        net = build_model(recipe.model, size, recipe.classes, **recipe.model_arguments)
        images = schedule.images_between(phase.first, phase.end)
        total += 3 * images * sum(map(operations, net.layers))
    return total


def operations(layer: keras.Layer) -> int:
    """Of the forward pass of a layer on one image: two for each multiply-add."""
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return 0
    return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])


@main.command()
@click.option("--sizes", default="32,24,16", show_default=True, help="Image sizes, in pixels.")
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
@click.option("--batch_size", default=500, show_default=True, help="Of all workers together.")
@PEERS
def steps(sizes: str, rounds: int, batch_size: int, peers: Path) -> None:
    """Images a second of one training step: two workers of one thread, PyTorch on two.

    The batch is at hand, so that no input pipeline counts. The peer is also measured with its
    own batch of 2,000. Medians of the rounds, which take turns.
    """
    wanted = [int(size) for size in sizes.split(",")]
    found: dict[tuple[str, int], list[float]] = {}
    peer_batches = {f"PyTorch, batch {batch}": batch for batch in (batch_size, 2000)}
    for _ in range(rounds):
        for size, rate in our_steps(wanted, batch_size // WORKERS).items():
            found.setdefault(("ours", size), []).append(rate)
        for who, batch in peer_batches.items():
            command = [str(peers / "bin" / "python"), str(PEER), "--threads", str(WORKERS)]
            printed, _ = ran([*command, "--steps", sizes, "--batch_size", str(batch)])
            for size, rate in json.loads(printed).items():
                found.setdefault((who, int(size)), []).append(rate)
    table = Table("image size, px", "ours", *peer_batches, "ours / the faster")
    for size in wanted:
        rates = [statistics.median(found[who, size]) for who in ("ours", *peer_batches)]
        cells = [f"{rate:,.0f}" for rate in rates]
        table.add_row(str(size), *cells, f"{rates[0] / max(rates[1:]):.2f}")
    Console(width=120, highlight=False).print(table)


def our_steps(sizes: list[int], batch_size: int) -> dict[int, float]:
    """Images a second of both workers, by image size, as `throughput.py` measures them."""
    recipe = load_recipe("cifar10").model_dump(mode="json")
    phase = recipe["training_strategy"][0]
    recipe["training_strategy"] = [
        {**phase, "epoch": [i, i + 1], "image_size": size, "batch_size": batch_size, "freeze": []}
        for i, size in enumerate(sizes)
    ]
    with tempfile.TemporaryDirectory() as name:
        asked, rates = Path(name) / "steps.yaml", Path(name) / "rates.yaml"
        asked.write_text(yaml.safe_dump(recipe))
        command = [*horovodrun(WORKERS), sys.executable, "benchmarks/throughput.py"]
        ran([*command, "--recipe", str(asked), "--output", str(rates), "--steps", "4"])
        measured = yaml.safe_load(rates.read_text())["rates"]
    return {rate["image_size"]: rate["images_per_second"] for rate in measured}


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean."""
    if len(values) < 2:
        return float("nan")
    spread = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1) * spread)


def mean_and_interval(values: list[float], form: str) -> str:
    """Such as `89.20 ± 0.12`; without an interval for one value."""
    text = form.format(statistics.mean(values))
    return f"{text} ± {form.format(interval(values))}" if len(values) > 1 else text


def means(rows: list[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> list[str]:
    """The cells of a table's row: the mean of each of the columns, with its interval."""
    return [
        mean_and_interval([row[key] for row in rows], form) for key, (_, form) in columns.items()
    ]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the table, and the ratio of the times of each seed that both ran."""
    table = Table("who", "seeds", *(head for head, _ in COLUMNS.values()), "images", "PFLOP")
    for who in dict.fromkeys(row["who"] for row in rows):
        own = [row for row in rows if row["who"] == who]
        cells = means(own, COLUMNS)
        work = f"{own[0]['images']:,}", f"{own[0]['pflop']:.3f}"
        table.add_row(who, str(len(own)), *cells, *work)
    console.print(table)
    for key in ("training", "all"):
        times = {(row["who"], row["seed"]): row[key] for row in rows}
        seeds = [seed for who, seed in times if who == "ours" and ("peer", seed) in times]
        ratios = [times["ours", seed] / times["peer", seed] for seed in seeds]
        if ratios:
            console.print(f"ours / peer, {COLUMNS[key][0]}: {mean_and_interval(ratios, '{:.3f}')}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"race.py: error: {error}")
