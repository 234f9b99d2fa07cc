"""The end of a run: its last words."""

import time

import keras

from core import workers
from datasets.records.schema import Records
from reports import conclude
from training import model
from training.inputs import RunData
from training.recipes import Recipe
from training.resume import Start
from training.run import Run
from training.run_folder import RunFolder
from training.run_log import RunLog, Scalars

PHASE = {"epoch": [0, 1], "lr": [0.1, 0.1], "lr_method": "linear"}
PHASE |= {"batch_size": 10, "image_size": 20, "data_dir": "20"}


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
    run.note_checkpoint(recipe.schedule(1, 400), 40, 9.0, {})
    run.checkpoint(40, 1).touch()
    schedule, start = recipe.schedule(1, 400), Start()
    log = RunLog(run, recipe, schedule, {}, start, time.monotonic(), keras.optimizers.SGD())
    said, shown = [], []
    monkeypatch.setattr(log, "say", said.append)
    monkeypatch.setattr(Scalars, "write", lambda _, group, row, names: shown.append(row["top1"]))
    monkeypatch.setattr(model, "save_result", lambda *arguments: None)
    monkeypatch.setattr(conclude, "report", lambda paths: None)  # the pictures
    log.note_evaluations(validation.name)
    data, team = RunData({}, validation), workers.current()
    conclude.conclude(Run(team, recipe, data, schedule, run, 1, None, start, log, None, None))
    assert shown == [0.5]
    assert said[-1].startswith("50.00% top-1, 90.00% top-5 after 9 s of training")
