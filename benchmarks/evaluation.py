"""What evaluation costs: two workers against one, and the loading of a checkpoint.

    python benchmarks/evaluation.py --run_dir RUN

RUN is a run with checkpoints; it is not changed. Its checkpoints are evaluated in a
temporary folder, by one worker on one core and by two workers on one core each. Each
worker has one thread that computes and one that decodes, both on its core. The aims: two
workers take at most 0.6 of the time of one; loading a checkpoint and getting its first
batch take less than 5 % of its evaluation.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
from rich.console import Console
from rich.table import Table

from core import devices, workers
from core.errors import UserError
from launch.command_line import horovodrun
from training.inputs import RunData, find_validation
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
# The columns of evaluation.csv that are the same for any number of workers.
FIGURES = ("step", "top1", "top5", "loss", "images", "image_size", "crop")


@click.command()
@click.option("--run_dir", required=True, type=Path, help="A run with checkpoints.")
@click.option("--data_dir", type=Path, help="Folder of the records; by default the run's own.")
@click.option("--limit", type=click.IntRange(1), help="Evaluate only this many, from the first.")
def main(run_dir: Path, data_dir: Path | None, limit: int | None) -> None:
    """Prints the seconds of one worker and of two, and the share of loading."""
    console = Console(width=100, highlight=False)
    run = RunFolder(run_dir)
    root = data_dir or run.environment().get("data_dir")
    if root is None:
        raise UserError("--data_dir is missing; the run does not say where its records are")
    rows = run.checkpoint_rows()[:limit]
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("two workers of one core each need two cores")

    found = [evaluate(run, rows, root, count) for count in (1, 2)]
    table = Table("workers", "whole command, s", "evaluation, s", "images/s of all workers")
    images = sum(row["images"] for row in found[0][2])
    for count, (whole, within, _) in enumerate(found, 1):
        table.add_row(str(count), f"{whole:.1f}", f"{within:.1f}", f"{images / within:,.0f}")
    console.print(table)
    ratios = [two / one for one, two in zip(found[0][:2], found[1][:2], strict=True)]
    console.print(
        f"two workers / one, {len(rows)} checkpoints: {ratios[0]:.3f} of the whole command, "
        f"{ratios[1]:.3f} of the evaluation"
    )
    one, two = (sorted(tuple(r[n] for n in FIGURES) for r in rows) for _, _, rows in found)
    console.print(f"figures of one and of two workers: {'equal' if one == two else 'DIFFERENT'}")
    console.print(loading(load_recipe(run.recipe_file), Path(root), run.checkpoint_of(rows[-1])))


def evaluate(run: RunFolder, rows: list, root: Path, count: int) -> tuple[float, float, list]:
    """Seconds of the whole command and of the evaluation within, and its rows."""
    with tempfile.TemporaryDirectory() as folder:
        copy = RunFolder(Path(folder) / "run")
        copy.checkpoints.mkdir(parents=True)
        for path in (run.recipe_file, run.environment_file):
            shutil.copy(path, copy.path)
        for row in rows:
            copy.checkpoint_of(row).symlink_to(run.checkpoint_of(row).resolve())
            copy.write_checkpoint_row(
                row["written_step"], row["epoch"], row["seconds"], row["images"], row["workers"]
            )
        command = [sys.executable, "recipe.py", "evaluate", "--run_dir", str(copy.path)]
        command += ["--data_dir", str(root)]
        if count > 1:
            command = [*horovodrun(count), *command]
        cores = sorted(os.sched_getaffinity(0))[:count]
        began = time.monotonic()
        ran = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        whole = time.monotonic() - began
        said = re.search(r"evaluated in ([\d.]+) s", ran.stdout)
        if ran.returncode or not said:
            raise UserError(f"{' '.join(command)}:\n{ran.stdout}{ran.stderr}")
        return whole, float(said[1]), copy.evaluation_rows()


def loading(recipe: Recipe, root: Path, path: Path, repeats: int = 5) -> str:
    """The share of an evaluation that loading the checkpoint and its first batch take."""
    from evaluation.run import make_evaluator

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    threads = devices.prepare_devices(workers.current())
    records = find_validation(root, recipe)
    evaluator = make_evaluator(recipe, RunData({}, records), threads)
    evaluator.evaluate(path)  # traces
    load, start, whole = [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        evaluator.load(path)
        loaded = time.perf_counter()
        next(iter(evaluator.batches(0, 1)))
        load.append(loaded - began)
        start.append(time.perf_counter() - loaded)
        whole.append(evaluator.evaluate(path)[1])
    spent = [statistics.median(values) for values in (load, start, whole)]
    return (
        f"loading a checkpoint {1000 * spent[0]:.0f} ms, its first batch {1000 * spent[1]:.0f} ms; "
        f"together {(spent[0] + spent[1]) / spent[2]:.2%} of the {spent[2]:.2f} s of its "
        f"evaluation on {records.images:,} images (medians of {repeats}, one thread)"
    )


if __name__ == "__main__":
    main()
