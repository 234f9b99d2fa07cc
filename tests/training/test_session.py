"""What a run's scribe hands from one process to the next."""

import time

import keras
import pytest

from training import checkpoints, model, resume, workers
from training.checkpoints import Snapshot
from training.recipes import Recipe
from training.run_folder import RunFolder
from training.session import Scribe

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
