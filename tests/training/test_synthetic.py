"""Synthetic data: every preset without a data directory, and a run that says what it is."""

import csv

import pytest
import yaml

from training import synthetic
from training.recipes import load_recipe, presets


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_its_own_schedule_and_shapes_without_data(name):
    recipe = synthetic.marked(load_recipe(name))
    data = synthetic.data_for(recipe)
    schedule = recipe.schedule(recipe.workers, data.images)
    assert schedule.total_steps == load_recipe(name).schedule(recipe.workers).total_steps
    assert recipe.name == f"{name}-synthetic"
    for stage in schedule.stages():

        class Net:
            def train_step(self, batch):
                return batch

        net = Net()
        dataset = synthetic.batches(stage, recipe, net)
        images, labels = net.train_step(None)
        size, count = stage.data.image_size, stage.data.batch_size
        assert images.shape == (count, *size, 3)
        assert (images.dtype, labels.shape) == ("uint8", (count,))
        assert 0 <= int(min(labels)) <= int(max(labels)) < recipe.classes
        assert int(dataset.cardinality()) == stage.steps


@pytest.fixture(scope="module")
def ran(run_process, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    phase = {"lr": [0.01, 0.01], "lr_method": "linear", "batch_size": 40, "data_dir": "20"}
    recipe |= {
        "model_arguments": {"widths": [16, 16, 16]},
        "log_every": 10,
        "training_strategy": [
            {"epoch": [0, 0.2], "image_size": 20, **phase},
            {"epoch": [0.2, 0.4], "image_size": 28, **phase},
        ],
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("recipe.py", "--recipe", folder / "r.yaml", "--data", "synthetic")
    return folder / "run", run_process(*arguments, "--run_dir", folder / "run")


def test_a_run_needs_no_data_and_says_that_it_learnt_nothing(ran):
    folder, process = ran
    assert process.returncode == 0, process.stderr
    with open(folder / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["image_size"]) for row in rows] == [
        ("10", "20"), ("20", "20"), ("30", "28"), ("40", "28")
    ]  # fmt: skip
    assert "nothing was learnt" in process.stdout
    assert "nothing was learnt" in (folder / "train.log").read_text()


def test_its_folder_is_marked_and_holds_no_result(ran):
    folder, _ = ran
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["name"] == "demo-synthetic"
    assert not (folder / "model.keras").exists()
    assert not (folder / "evaluation.csv").exists()
