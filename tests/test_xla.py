"""A run whose loss and gradients XLA compiles, as a user starts it, and its resume.

Two sizes, so two compilations; `deterministic`, so that the resumed run has to have the same bits.
It trains on noise, as with `--data synthetic`: what XLA compiles is the same.
"""

import csv
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
import yaml

from training import model
from training.recipes import load_recipe
from training.run_folder import RunFolder

PHASE = {"lr": [0.1, 0.01], "lr_method": "linear", "batch_size": 20, "data_dir": "20"}
STRATEGY = [
    {"epoch": [0, 1], "image_size": 12, **PHASE},
    {"epoch": [1, 2], "image_size": 16, **PHASE},
]
RESUMED, END = 6, 8  # 4 steps a phase: in the second one


@pytest.fixture(scope="module")
def arguments(root, tmp_path_factory):
    """Of the run's command line, but for its folder."""
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {"training_strategy": STRATEGY, "checkpoint_every": RESUMED, "log_every": 2}
    recipe |= {"xla": True, "deterministic": True, "batch_norm": "fused", "ema": 0.9}
    recipe |= {"model_arguments": {"widths": [8, 8, 8]}, "images": 80}
    path = tmp_path_factory.mktemp("xla") / "xla.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ("recipe.py", "--recipe", path, "--data", "synthetic", "--run_dir")


@pytest.fixture(scope="module")
def whole(run_process, arguments, tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    ran = run_process(*arguments, run.path)
    assert ran.returncode == 0, ran.stderr
    return run


def test_the_run_says_what_is_not_kerass_own(whole):
    log = (whole.path / "train.log").read_text()
    assert "XLA compiles loss and gradients" in log
    assert "BatchNorm: 9 layers train by TensorFlow's fused op" in log


def without_ids(config):
    """A configuration without the numbers by which Keras tells objects of one process apart."""
    if isinstance(config, dict):
        return {k: without_ids(v) for k, v in config.items() if k != "shared_object_id"}
    return [without_ids(part) for part in config] if isinstance(config, list) else config


def test_what_it_saves_is_plain(whole, arguments):
    with zipfile.ZipFile(whole.checkpoint(END)) as archive:
        saved = json.loads(archive.read("config.json"))
    plain = json.loads(model.build(load_recipe(arguments[2])).to_json())
    assert without_ids(saved["config"]) == without_ids(plain["config"])
    assert saved["compile_config"]["jit_compile"] is False


def test_a_resumed_run_has_the_same_bits(whole, run_process, arguments, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(whole.path, run.path)
    run.checkpoint(END).unlink()
    ran = run_process(*arguments, run.path, "--resume")
    assert ran.returncode == 0, ran.stderr
    assert f"resuming after step {RESUMED}" in ran.stdout
    models = [keras.saving.load_model(one.checkpoint(END)) for one in (whole, run)]
    for a, b in zip(*([*m.variables, *m.optimizer.variables] for m in models), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    losses = []
    for one in (whole, run):
        with open(one.path / "train.csv", newline="") as file:
            losses.append([(row["step"], row["loss"]) for row in csv.DictReader(file)])
    assert losses[0] == losses[1]
    assert len(losses[0]) == END // 2
