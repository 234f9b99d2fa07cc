"""What a run's scribe hands from one process to the next, and its last words."""

import time

import keras
import pytest

from core import checkpoints, workers
from core.checkpoints import Snapshot
from reports import report
from training import model, resume
from training.inputs import Records, RunData
from training.recipes import Recipe
from training.run_folder import RunFolder
from training.run_log import Scribe

PHASE = {"epoch": [0, 1], "lr": [0.1, 0.1], "lr_method": "linear"}
PHASE |= {"batch_size": 10, "image_size": 20, "data_dir": "20"}


@pytest.mark.parametrize("count", [1, 2])
def test_skipped_steps_outlive_a_resume_on_any_number_of_workers(tmp_path, count):
    """10 steps of 1 or 2 workers, 3 of them skipped; 1 worker goes on and skips none."""
    recipe = Recipe(
        model="resnet8",
        model_arguments={"widths": [16, 16, 16]},
        classes=10,
        images=400,
        loss_scale="dynamic",
        training_strategy=[PHASE],
    )
    run = RunFolder(tmp_path / "run")
    asked = resume.facts(recipe, None, "mixed_float16")
    run.start(recipe, {"workers": count, "facts": asked, "images": {"20": 400}})

    def compiled():
        keras.utils.clear_session()
        net = model.build(recipe)
        model.compile_for_training(net, recipe, "mixed_float16")
        return net

    before = compiled()
    before.optimizer.inner_optimizer.iterations.assign(7)
    state = {**asked, "workers": count, "seconds": 1.0, "clock": {}, "skipped_steps": 3}
    checkpoints.write(before, Snapshot(10, (), state, [[]] * count), run.checkpoint(10))

    net = compiled()
    scribe = Scribe(run, recipe.schedule(1, {"20": 400}), time.monotonic())
    start = scribe.begin(workers.join(), recipe, net, "mixed_float16", True, False, None)
    assert start.step == 10 * count
    assert scribe.facts(start.step)["skipped_steps"] == 3
    net.optimizer.inner_optimizer.iterations.assign(7 + 5)
    assert scribe.facts(start.step + 5)["skipped_steps"] == 3
    assert scribe.skipped.at(start.step + 6) == 4
    scribe.end_training()


def test_the_last_words_are_of_what_the_recipe_evaluates(tmp_path, monkeypatch):
    """Beside it the same checkpoint was evaluated with mirror images, and on other records."""
    recipe = Recipe(evaluation={"image_size": 20}, training_strategy=[PHASE])
    (tmp_path / "validation-0").write_bytes(b"12345")
    validation = Records((tmp_path / "validation-0",), 10, 1)
    run = RunFolder(tmp_path / "run")
    run.start(recipe, {"validation": validation.name})
    for top1, crop, data in (
        (0.5, "centre", validation.name),
        (0.6, "centre+flip", validation.name),
        (0.7, "centre", "records-other"),
    ):
        row = {"step": 40, "epoch": 1.0, "seconds": 9.0, "top1": top1, "top5": 0.9, "loss": 1.0}
        way = {"image_size": 20, "crop": crop, "data": data, "folder": "/data", "time": "then"}
        run.write_evaluation_row(0, {**row, **way, "images": 10, "images_per_second": 1.0})
    data = RunData({}, validation)
    scribe = Scribe(run, recipe.schedule(1, {"20": 400}), time.monotonic(), data)
    scribe.asked = {"recipe": recipe.model_dump(mode="json")}
    said, shown = [], []
    monkeypatch.setattr(scribe, "say", said.append)
    monkeypatch.setattr(scribe, "_scalars", lambda group, row, names: shown.append(row["top1"]))
    monkeypatch.setattr(report, "report", lambda paths: None)  # the pictures
    scribe.note_evaluations()
    scribe.conclude()
    assert shown == [0.5]
    assert said[-1].startswith("50.00% top-1, 90.00% top-5 after 9 s of training")
