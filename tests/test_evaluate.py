"""`recipe.py evaluate` as a user starts it: one worker, two, one of them killed."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from core import devices
from core.errors import UserError
from evaluation.run import evaluate_run
from launch.command_line import horovodrun
from launch.launcher import below, that_work
from reports.reader import read_record
from tests.waiting import HANG_SECONDS, until
from training.inputs import find_data
from training.recipes import load_recipe
from training.run_folder import RunFolder

STEPS = (0, 10, 20, 30, 40)


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo").model_copy(
        update={"model_arguments": {"widths": [16, 16, 16], "initial_scale": 2.0}}
    )


@pytest.fixture(scope="module")
def trained(recipe, digits, tmp_path_factory):
    """A run folder with five checkpoints of different weights, and one cut short."""
    from training import model

    run = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    data = find_data(digits, recipe)
    run.start(recipe, {"policy": "float32", "data_dir": str(digits)})
    run.write_classes(data.validation.classes)
    for step in (*STEPS, 50):
        keras.utils.set_random_seed(step)
        model.build(recipe).save(run.checkpoint(step))
        run.write_checkpoint_row(step, step / 40, float(step), 100 * step)
    content = run.checkpoint(50).read_bytes()
    run.checkpoint(50).write_bytes(content[: len(content) // 2])
    run.write_state("trained")
    return run


def copy(run, path):
    shutil.copytree(run.path, path)
    return RunFolder(path)


def rows(run):
    with open(run.evaluation_csv, newline="") as file:
        return list(csv.DictReader(file))


def figures(run):
    names = ("step", "epoch", "seconds", "top1", "top5", "loss", "images", "image_size", "crop")
    return sorted(tuple(row[name] for name in names) for row in rows(run))


def kill_one_worker(command, run, root):
    """Kills one of two workers once a row is there; what was said, when both have ended.

    In place of a checkpoint there is a pipe that nobody writes to, so that they do not come
    to the end before.
    """
    held_up, kept = run.checkpoint(40), run.path / "kept"
    held_up.rename(kept)
    os.mkfifo(held_up)
    launched = [*horovodrun(2), sys.executable, *map(str, command)]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(launched, cwd=root, **output)
    try:
        until(run.evaluation_rows)
        os.kill(that_work(below(process.pid), str(run.path))[-1], signal.SIGKILL)
        said = process.communicate(timeout=HANG_SECONDS)[1]
        assert process.returncode != 0
        return said
    finally:
        process.kill()
        kept.rename(held_up)


def test_one_worker_two_workers_and_a_second_start_come_to_the_same_rows(
    run_process, trained, tmp_path, root, monkeypatch
):
    one, two = copy(trained, tmp_path / "one"), copy(trained, tmp_path / "two")
    ran = run_process("recipe.py", "evaluate", "--run_dir", one.path, "--batch_size", 97)
    assert ran.returncode == 1
    (message,) = re.findall(r"recipe\.py: error: (.*)", ran.stderr)
    assert str(one.checkpoint(50)) in message
    assert "cut short or damaged" in message
    assert "Traceback" not in ran.stderr
    assert [int(row["step"]) for row in rows(one)] == list(STEPS)
    for row, line in zip(rows(one), re.findall(r"Log @eval: .*", ran.stdout), strict=True):
        assert f"step@{row['step']:>5}" in line
        assert f"top1@{100 * float(row['top1']):5.3f}" in line

    command = ("recipe.py", "evaluate", "--run_dir", two.path)
    said = kill_one_worker(command, two, root)
    assert said.count("was ended by SIGKILL") == 1
    words = " ".join(map(str, command))
    launched = f"python -m launch.horovodrun -np 2 --gloo python {words}"
    # The lines of worker 1 begin with its rank.
    assert f"; to resume, run\n  {launched}\n" in re.sub(r"^\[1\] ", "", said, flags=re.M)
    assert 1 <= len(rows(two)) < len(STEPS)
    with open(two.evaluation_csv, "a") as file:
        file.write("40,1,40,0.97")  # as if it had died in the middle of a row
    ran = run_process(*command, workers=2)
    assert ran.returncode != 0
    assert str(two.checkpoint(50)) in ran.stderr
    assert figures(two) == figures(one)

    before = two.evaluation_csv.read_bytes()  # nothing is left to do
    two.checkpoint(50).unlink()
    monkeypatch.setattr(devices, "prepare_devices", lambda team: 2)  # they are in use here
    evaluate_run(two.path, None, follow=False, patience=1.0, choices={})
    assert two.evaluation_csv.read_bytes() == before


def test_follow_keeps_up_with_a_training(run_process, recipe, digits, tmp_path, root):
    """A real one, in another process, which ends with the same rows as its follower."""
    phase = {"epoch": [0, 1], "lr": [0.05, 0.01], "lr_method": "linear"}
    phase |= {"batch_size": 50, "image_size": [20, 20], "data_dir": "20"}
    small = recipe.model_dump(mode="json") | {
        "checkpoint_every": 20,
        "log_every": 20,
        "ema": 0.9,
        "evaluation": {**recipe.evaluation.model_dump(), "flip": True, "ema": True},
        "training_strategy": [phase],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    folder = tmp_path / "run"
    options = ["--recipe", tmp_path / "small.yaml", "--data_dir", digits, "--run_dir", folder]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    training = subprocess.Popen([sys.executable, "recipe.py", *options], cwd=root, **output)
    try:
        options = ("--follow", "--no_flip", "--no_ema", "--patience", HANG_SECONDS)
        ran = run_process("recipe.py", "evaluate", "--run_dir", folder, *options)
        assert ran.returncode == 0, ran.stderr
        output, _ = training.communicate(timeout=HANG_SECONDS)
        assert training.returncode == 0, output
    finally:
        training.kill()
    found = sorted((int(row["step"]), row["crop"]) for row in rows(RunFolder(folder)))
    assert found == [
        (step, crop) for step in (0, 20, 40, 60, 80) for crop in ("centre", "centre+flip+ema")
    ]
    # The result is what the recipe evaluates: the average.
    from core.checkpoints import load_weights

    last = RunFolder(folder).checkpoint(80)
    from training import model

    averaged = load_recipe(tmp_path / "small.yaml")
    net = model.build(averaged)
    load_weights(net, last, model.averaging_optimizer(averaged, net))
    result = keras.saving.load_model(folder / "model.keras")
    for a, b in zip(result.variables, net.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def half_of_the_validation_images(digits, root):
    """Other records, of the same classes, without a manifest."""
    folder = root / "28"
    folder.mkdir(parents=True)
    files = sorted(map(str, (digits / "28").glob("validation-*")))
    with tf.io.TFRecordWriter(str(folder / "validation-00000-of-00001")) as writer:
        for record in tf.data.TFRecordDataset(files).take(500):
            writer.write(record.numpy())
    return root


def test_other_records_make_rows_of_their_own(trained, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "prepare_devices", lambda team: 1)  # TensorFlow has run before
    run = copy(trained, tmp_path / "run")
    for step in (*STEPS[1:], 50):
        run.checkpoint(step).unlink()
    other = half_of_the_validation_images(digits, tmp_path / "other")
    moved = tmp_path / "moved"
    shutil.copytree(digits / "28", moved / "28")
    for root in (None, other, moved, other):
        evaluate_run(run.path, data_dir=root, follow=False, patience=1.0, choices={})
    found = [(row["step"], row["images"], row["folder"]) for row in rows(run)]
    assert found == [("0", "1000", str(digits / "28")), ("0", "500", str(other / "28"))]
    names = [row["data"] for row in rows(run)]
    assert run.environment()["validation"] == names[0] != names[1]
    # The log holds the run's own, and the report shows it.
    assert [line.split()[:4] for line in run.log.read_text().splitlines()] == [
        ["Log", "@eval:", "count@", "0"]
    ]
    record = read_record(run.path)
    assert [c.top1 for c in record.checkpoints] == [float(rows(run)[0]["top1"])]
    assert record.evaluation == (
        "28 px, plain centre crop (also there: 28 px, plain centre crop on "
        f"{other / '28'} ({names[1]}))"
    )


def no_run(run, digits):
    shutil.rmtree(run.path)
    return {}, "holds no run"


def no_checkpoints(run, digits):
    shutil.rmtree(run.checkpoints)
    return {}, "holds no checkpoints to evaluate"


def no_average(run, digits):
    return {"choices": {"ema": True}}, "keeps no average of its weights; add `ema:"


def other_number_of_classes(run, digits):
    recipe = yaml.safe_load(run.recipe_file.read_text())
    run.recipe_file.write_text(yaml.safe_dump(recipe | {"classes": 11}))
    return {}, "10 classes, but the recipe has classes: 11"


def other_classes(run, digits):
    names = [f"n0{number}" for number in range(10)]
    run.write_classes(names)
    return {"data_dir": digits}, "its class 1 is '0', the model's is 'n00'; name the"


def no_data_folder_known(run, digits):
    run.environment_file.write_text("{}")
    return {}, "--data_dir is missing"


@pytest.mark.parametrize(
    "mistake",
    [
        no_run,
        no_checkpoints,
        no_average,
        other_number_of_classes,
        other_classes,
        no_data_folder_known,
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_lost(trained, digits, tmp_path, mistake):
    run = copy(trained, tmp_path / "run")
    changes, message = mistake(run, digits)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    arguments = {"data_dir": None, "follow": False, "patience": 1.0, "choices": {}} | changes
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        evaluate_run(run.path, **arguments)
    assert len(str(caught.value).splitlines()) <= 2
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
