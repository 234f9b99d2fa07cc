"""Synthetic data: every preset without a data directory, and a run that says what it is."""

import csv
import json
import shutil

import pytest
import yaml

from core.errors import UserError
from evaluation.run import evaluate_run
from reports.reader import read_record
from training import synthetic
from training.recipes import load_recipe, presets
from training.run import Options, find_run


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_its_own_schedule_and_shapes_without_data(name):
    recipe = synthetic.marked(load_recipe(name))
    data = synthetic.data_for(recipe)
    schedule = recipe.schedule(recipe.workers, data.images)
    assert schedule.total_steps == load_recipe(name).schedule(recipe.workers).total_steps
    assert recipe.name == f"{name}-synthetic"
    stages = [*schedule.stages()]
    for stage in (stages[0], stages[-1]):  # noise for all 20 of some presets takes seconds

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
        ("10", "20"),
        ("20", "20"),
        ("30", "28"),
        ("40", "28"),
    ]
    assert "nothing was learnt" in process.stdout
    assert "nothing was learnt" in (folder / "train.log").read_text()


def test_its_folder_is_marked_and_holds_no_result(ran):
    folder, _ = ran
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["name"] == "demo-synthetic"
    assert not (folder / "model.keras").exists()
    assert not (folder / "evaluation.csv").exists()


def test_it_is_not_evaluated_later_and_its_report_says_what_it_is(ran, digits):
    folder, _ = ran
    with pytest.raises(UserError, match=r"was trained on noise \(--data synthetic\)"):
        evaluate_run(folder, digits, follow=False, patience=1.0, choices={})
    record = read_record(folder)
    assert any("noise" in remark for remark in record.remarks)
    assert not any("recipe.py evaluate" in remark for remark in record.remarks)


def test_it_is_no_repeat_of_a_run_on_records(ran, tmp_path):
    folder, _ = ran
    other = shutil.copytree(folder, tmp_path / "other")
    environment = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps(environment | {"synthetic": False}))
    assert read_record(folder).settings == read_record(folder).settings
    assert read_record(folder).settings != read_record(other).settings


def test_a_name_makes_nothing_synthetic(digits, tmp_path, root):
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe | {"name": "not-synthetic"}))
    for kind in ("records", "synthetic"):
        options = Options(tmp_path / "r.yaml", digits, tmp_path / "run", data=kind)
        _, data, *_ = find_run(options, 1, "now")
        assert data.synthetic == (kind == "synthetic")
