"""A run on the digits, without the training: the demo's files, and a small model as it begins."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.waiting import HANG_SECONDS
from training import recipes
from training.inputs import find_data
from training.run_folder import RunFolder

PYTHON = Path(__file__).parents[2] / ".venv-export" / "bin" / "python"
CHANGES = {"model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0}, "name": "small"}
# step, seconds in steps, top-1, top-5; each checkpoint took 1 s to write.
CHECKPOINTS = [
    *((0, 0.0, 0.1, 0.5), (360, 30.0, 0.9, 0.99), (600, 50.0, 0.8, 0.99), (810, 70.0, 0.95, 1.0)),
]


def write_run(path, digits, **changes):
    """The folder of a run of the demo whose recipe has these changes; without a model."""
    settings = yaml.safe_load((recipes.PRESETS / "demo.yaml").read_text()) | CHANGES | changes
    recipe = recipes.Recipe.model_validate(settings)
    data = find_data(digits, recipe)
    facts = {"data": {"28/train": {"images": 4000, "files": "8 files, 0a1b"}}}
    run = RunFolder(path)
    own = {"workers": 2, "images": data.images, "policy": "float32", "facts": facts}
    own |= {"data_dir": str(data.root), "validation": data.validation.name}
    run.start(recipe, own)
    run.write_classes(data.validation.classes)
    for number, (step, seconds, top1, top5) in enumerate(CHECKPOINTS):
        clock = {"start_up": 8.0, "data": 1.0, "tracing": 1.0, "steps": seconds}
        clock |= {"checkpoints": number + 1.0, "evaluation": 0.0}
        schedule, spent = recipe.schedule(2, data.images), sum(clock.values())
        run.note_checkpoint(schedule, step, spent, clock)
        row = {"step": step, "epoch": schedule.epoch(step), "seconds": spent, "loss": 1.0}
        row |= {"top1": top1, "top5": top5, "images": 1000, "time": "then", "workers": 2}
        row |= {"image_size": 28, "crop": recipe.evaluation.crop, "data": data.validation.name}
        row |= {"folder": str(data.root), "images_per_second": 1.0}
        run.write_evaluation_row(number, row)
    return run


def add_model(run):
    """Saves the recipe's model in a run, with random weights and statistics."""
    import keras

    from training import model

    keras.utils.set_random_seed(0)
    net = model.build(recipes.load_recipe(run.recipe_file))
    draw = np.random.default_rng(0)
    for variable in net.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(draw.normal(0, 0.3, variable.shape))
    net.save(run.model)
    return run


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """A run that has ended; not to be changed."""
    return add_model(write_run(tmp_path_factory.mktemp("finished") / "run", digits))


@pytest.fixture
def run(digits, tmp_path):
    """A run that has ended, to be changed; there is nothing in its model."""
    run = write_run(tmp_path / "run", digits)
    run.model.touch()
    return run


@pytest.fixture(scope="session")
def exported(root, finished, tmp_path_factory):
    """The folder of an export and what the command printed; not to be changed.

    The command runs in the environment that has all runtimes, if there is one.
    """
    folder = tmp_path_factory.mktemp("exported") / "export"
    python = PYTHON if PYTHON.exists() else sys.executable
    ran = subprocess.run(
        [python, "recipe.py", "export", finished.path, "--output", folder],
        **{"cwd": root, "capture_output": True, "text": True, "timeout": HANG_SECONDS},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder, ran.stdout
