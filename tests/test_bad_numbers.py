"""A run whose loss is not finite: it stops, passes over a batch when resumed, and gives up."""

import csv
import re

import pytest
import yaml

ARGUMENTS = ("--recipe", "recipe.yaml", "--run_dir", "run")


@pytest.fixture(scope="module")
def runs(run_process, root, digits, tmp_path_factory):
    """A rate with which no batch can be trained on: the run, and the run resumed."""
    folder = tmp_path_factory.mktemp("numbers")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {
        "name": "numbers", "skip_bad_batches": 1, "checkpoint_every": 10, "log_every": 5,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
        "training_strategy": [
            {"epoch": [0, 0.2], "lr": [0.01, 0.01], "lr_method": "linear", "batch_size": 50,
             "image_size": [20, 20], "data_dir": "20"},
            {"epoch": [0.2, 1], "lr": [1e30, 1e30], "lr_method": "linear", "batch_size": 50,
             "image_size": [20, 20], "data_dir": "20"},
        ],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = (root / "recipe.py", *ARGUMENTS, "--data_dir", digits)
    return folder, [run_process(*arguments, *more, cwd=folder) for more in ((), ("--resume",))]


def test_the_step_and_its_images_are_named(runs):
    _, (first, _) = runs
    assert first.returncode == 1
    assert re.search(r"step \d+: the loss of worker 0 is not finite; its batch holds '\d{4}.png'",
                     first.stderr)  # fmt: skip
    assert "Traceback" not in first.stderr


def test_a_resume_passes_over_the_batch(runs):
    folder, (first, second) = runs
    with open(folder / "run" / "bad_batches.csv", newline="") as file:
        (bad,) = [row["step"] for row in csv.DictReader(file)]
    assert f"step {bad}: the loss" in first.stderr
    assert "--resume passes over this batch (1 of 1 that may be)" in first.stderr
    assert f"the batch of step {bad} is passed over" in second.stdout + second.stderr
    assert "going on after step 10" in second.stdout + second.stderr


def test_where_that_does_not_help_it_is_said(runs):
    _, (_, second) = runs
    assert second.returncode == 1
    assert "its first batch was passed over, so it is hardly the data" in second.stderr
