"""How soon a resumed run makes its first step, compared with a new run.

    python benchmarks/resume.py --data_dir DIR

`DIR` holds CIFAR-10's records. A run is stopped late in its first epoch. Then new runs and
resumes of copies of the stopped run take turns. Each is timed from the start of the process
until the row of its first step is in train.csv. The aim: a resume takes at most 1.2 times
the time of a new run.
"""

import csv
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import yaml

from training.recipes import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0  # seconds


def start(recipe: Path, data: Path, run: Path, *more: str) -> subprocess.Popen:
    command = [ROOT / "recipe.py", "--recipe", recipe, "--data_dir", data, "--run_dir", run, *more]
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_step(run: Path) -> int:
    try:
        with open(run / "train.csv", newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (FileNotFoundError, ValueError):
        return 0


def seconds_until(job: subprocess.Popen, run: Path, step: int) -> float:
    """Waits for the row of `step`, kills the job, and returns the seconds until the row."""
    begun = time.monotonic()
    while last_step(run) < step:
        if job.poll() is not None or time.monotonic() - begun > PATIENCE:
            raise click.ClickException(f"no step {step} in {run}; ended with {job.poll()}")
        time.sleep(0.02)
    taken = time.monotonic() - begun
    job.kill()
    job.wait()
    return taken


@click.command()
@click.option("--data_dir", type=Path, required=True, help="CIFAR-10's records.")
@click.option("--repeats", default=5, help="Number of new runs, and of resumes.")
@click.option("--at", default=180, help="Step to resume after; an epoch of one worker has 200.")
def main(data_dir: Path, repeats: int, at: int) -> None:
    """Prints both medians, and the median of the ratios."""
    fresh, resumed = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = yaml.safe_load((PRESETS / "cifar10.yaml").read_text())
        recipe |= {"name": "resume", "log_every": 1, "checkpoint_every": at}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        job = start(folder / "recipe.yaml", data_dir, folder / "first")
        while last_step(folder / "first") < at + 5 and job.poll() is None:
            time.sleep(0.1)
        job.send_signal(signal.SIGKILL)
        job.wait()
        for _ in range(repeats):
            job = start(folder / "recipe.yaml", data_dir, folder / "fresh")
            fresh.append(seconds_until(job, folder / "fresh", 1))
            shutil.rmtree(folder / "fresh")
            shutil.copytree(folder / "first", folder / "again")
            rows = (folder / "again" / "train.csv").read_text().splitlines(keepends=True)
            (folder / "again" / "train.csv").write_text("".join(rows[: at + 1]))
            job = start(folder / "recipe.yaml", data_dir, folder / "again", "--resume")
            resumed.append(seconds_until(job, folder / "again", at + 1))
            shutil.rmtree(folder / "again")
    ratios = [b / a for a, b in zip(fresh, resumed, strict=True)]
    print(
        f"first step of a new run after {statistics.median(fresh):.2f} s, of one resumed at step "
        f"{at} after {statistics.median(resumed):.2f} s (medians of {repeats})\n"
        f"resumed / new: median {statistics.median(ratios):.3f}, "
        f"{min(ratios):.3f} to {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
