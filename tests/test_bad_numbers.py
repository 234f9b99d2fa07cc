"""A run whose loss is not finite: it stops, skips a batch when resumed, and gives up."""

import csv
import re

import pytest
import yaml

ARGUMENTS = ("--recipe", "recipe.yaml", "--run_dir", "run")

# The real command line on a disk that is slower than any limit: a checkpoint is written, and
# a batch's names are read, only after signs of life between two steps, three of them.
SLOW_DISK = """
import sys, threading
import recipe
from training import callbacks_for
from core import checkpoints
from launch import supervisor
from launch.supervisor import exit_status
from core import workers

signs, last = threading.Semaphore(0), None

def beat(step, longest, beat=supervisor.board.beat):
    global last
    if step == last:
        signs.release()
    last = step
    beat(step, longest)

def slow(action):
    def slowly(*arguments):
        for _ in range(3):
            assert signs.acquire(timeout=600), "no sign of life"
        return action(*arguments)
    return slowly

workers.MEET_EVERY_SECONDS = 0.01
supervisor.board.beat = beat
checkpoints.write = slow(checkpoints.write)
callbacks_for.names_in_batch = slow(callbacks_for.names_in_batch)
sys.exit(exit_status(recipe.main))
"""


@pytest.fixture(scope="module")
def runs(run_process, root, digits, tmp_path_factory):
    """A rate with which no batch can be trained on: the run, and the run resumed.

    The first one's disk is slow.
    """
    folder = tmp_path_factory.mktemp("numbers")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    sound = {"epoch": [0, 0.2], "lr": [0.01, 0.01], "lr_method": "linear"}
    sound |= {"batch_size": 50, "image_size": [20, 20], "data_dir": "20"}
    recipe |= {
        "name": "numbers",
        "skip_bad_batches": 1,
        "checkpoint_every": 10,
        "log_every": 5,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
        "training_strategy": [sound, sound | {"epoch": [0.2, 1], "lr": [1e30, 1e30]}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = (*ARGUMENTS, "--data_dir", digits)
    first = run_process("-c", SLOW_DISK, *arguments, cwd=folder)
    return folder, [first, run_process(root / "recipe.py", *arguments, "--resume", cwd=folder)]


def test_waiting_for_a_slow_disk_is_no_hang(runs):
    folder, (first, _) = runs
    assert "no sign of life" not in first.stderr
    written = (folder / "run" / "checkpoints").iterdir()
    assert {path.name for path in written} == {
        "step-00000000-workers-1.keras",
        "step-00000010-workers-1.keras",
    }


def test_the_step_and_its_images_are_named(runs):
    _, (first, _) = runs
    assert first.returncode == 1
    said = r"step \d+: the loss of worker 0 is not finite; its batch holds '\d{4}.png'"
    assert re.search(said, first.stderr)
    assert "Traceback" not in first.stderr


def test_a_resume_passes_over_the_batch(runs):
    folder, (first, second) = runs
    with open(folder / "run" / "bad_batches.csv", newline="") as file:
        (bad,) = [row["step"] for row in csv.DictReader(file)]
    assert f"step {bad}: the loss" in first.stderr
    assert "--resume skips this batch (1 of at most 1)" in first.stderr
    assert f"the batch of step {bad} is skipped" in second.stdout + second.stderr
    assert "resuming after step 10" in second.stdout + second.stderr


def test_where_that_does_not_help_it_is_said(runs):
    _, (_, second) = runs
    assert second.returncode == 1
    assert "its first batch was skipped, so the data are probably not the cause" in second.stderr
