"""What a run's log hands from one process to the next, and what waits for a disk."""

import time

import keras
import pytest

from core import checkpoints
from core.checkpoints import Snapshot
from datasets.records.schema import Records
from training import model, resume
from training.inputs import RunData
from training.recipes import Recipe
from training.run_folder import RunFolder
from training.run_log import DeferredWrites, RunLog

PHASE = {"epoch": [0, 1], "lr": [0.1, 0.1], "lr_method": "linear"}
PHASE |= {"batch_size": 10, "image_size": 20, "data_dir": "20"}


@pytest.mark.parametrize("count", [1, 2])
def test_skipped_steps_outlive_a_resume_on_any_number_of_workers(tmp_path, count):
    """10 steps of 1 or 2 workers, 3 of them skipped; 1 worker resumes and skips none."""
    recipe = Recipe(
        model="resnet8",
        model_arguments={"widths": [16, 16, 16]},
        classes=10,
        images=400,
        loss_scale="dynamic",
        training_strategy=[PHASE],
    )
    run = RunFolder(tmp_path / "run")
    asked = resume.identity(recipe, RunData({}, Records((), 0, 1)), "mixed_float16")
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
    schedule = recipe.schedule(1, {"20": 400})
    start = resume.choose_start(True, run, asked, recipe, schedule)
    model.load_checkpoint(net, start.checkpoint)
    log = RunLog(run, recipe, schedule, asked, start, time.monotonic(), net.optimizer)
    assert start.step == 10 * count
    assert log.facts(start.step)["skipped_steps"] == 3
    net.optimizer.inner_optimizer.iterations.assign(7 + 5)
    assert log.facts(start.step + 5)["skipped_steps"] == 3
    assert log.skipped.at(start.step + 6) == 4


def test_writes_that_failed_are_made_first_and_the_user_is_told_once():
    full, written, told = True, [], []

    def entry(text):
        def write():
            if full:
                raise OSError(28, "No space left on device", "run/train.csv")
            written.append(text)

        return write

    deferred = DeferredWrites(told.append)
    deferred.do(entry("a"))
    deferred.do(entry("b"))
    assert (len(deferred), written) == (2, [])
    assert told == [
        "the log cannot be written (No space left on device, run/train.csv); "
        "training continues, trying again"
    ]
    full = False
    deferred.do(entry("c"))
    assert (len(deferred), written) == (0, ["a", "b", "c"])
    assert deferred.settle() is None


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk():
    with pytest.raises(KeyError):
        DeferredWrites(print).do(lambda: {}["x"])
