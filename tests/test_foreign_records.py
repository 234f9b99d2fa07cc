"""Records of others, trained on without a flag and with the right labels."""

import csv
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml

from core.errors import DataError, UserError
from datasets.input.validation import evaluation_pipeline
from tests.foreign import write_classic, write_tfds, write_tfds_notes
from training.inputs import find_data
from training.recipes import PRESETS, load_recipe

WRITERS = {"classic": write_classic, "tfds": write_tfds}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def images(digits):
    """JPEG, digit from 0 and a name that tells it, by split; labels as MNIST has them."""
    found = {}
    for split, prefix, count in (("train", "train", 400), ("validation", "validation", 100)):
        found[split] = []
        files = sorted(map(str, (digits / "28").glob(f"{prefix}-*")))
        for raw in tf.data.TFRecordDataset(files).take(count):
            features = tf.train.Example.FromString(raw.numpy()).features.feature
            digit = int(features["image/class/synset"].bytes_list.value[0])
            jpeg = features["image/encoded"].bytes_list.value[0]
            found[split].append((jpeg, digit, f"{digit}_{len(found[split])}.JPEG"))
    return found


@pytest.fixture(scope="module", params=WRITERS)
def records(request, images, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    for split, examples in images.items():
        WRITERS[request.param](root / "28", split, examples)
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    fields = yaml.safe_load((PRESETS / "demo.yaml").read_text())
    fields.pop("embedded_data")
    phase = {"epoch": [0, 1], "lr": [0.05, 0.01], "lr_method": "linear"}
    phase |= {"batch_size": 100, "image_size": [28, 28], "data_dir": "28"}
    fields |= {
        "training_strategy": [phase],
        "checkpoint_every": 4,
        "log_every": 2,
        "model_arguments": {"widths": [16, 16, 16]},
        "augmentation": {"crop": "none", "flip": False},
    }
    return write_recipe(tmp_path_factory.mktemp("recipe") / "short.yaml", fields)


def write_recipe(path, fields):
    path.write_text(yaml.safe_dump(fields))
    return path


def changed(recipe, path, **changes):
    return write_recipe(path, yaml.safe_load(recipe.read_text()) | changes)


def test_recipe_py_trains_on_them(run_process, images, recipe, tmp_path):
    """Two workers, with a phase on each kind; they count the records of a folder once."""
    for kind, write in WRITERS.items():
        for split, examples in images.items():
            write(tmp_path / "data" / kind, split, examples)
    fields = yaml.safe_load(recipe.read_text())
    (phase,) = fields["training_strategy"]
    phases = [phase | {"data_dir": "classic"}, phase | {"data_dir": "tfds", "epoch": [1, 2]}]
    evaluation = fields["evaluation"] | {"data_dir": "tfds"}
    both = changed(recipe, tmp_path / "r.yaml", training_strategy=phases, evaluation=evaluation)
    options = ("--recipe", both, "--data_dir", tmp_path / "data", "--run_dir", tmp_path / "run")
    own = str(tmp_path / "own")
    ran = run_process("recipe.py", *options, workers=2, XDG_CACHE_HOME=own)
    assert ran.returncode == 0, ran.stderr
    with open(tmp_path / "run" / "train.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    with open(tmp_path / "run" / "evaluation.csv", newline="") as file:
        assert {row["images"] for row in csv.DictReader(file)} == {"100"}
    assert len(list((tmp_path / "own").rglob("records/*.json"))) == 2


def test_the_labels_that_reach_the_model_are_those_written(records, recipe, images):
    from core.workers import Workers
    from training.stages import stage_pipeline

    loaded = load_recipe(recipe)
    data = find_data(records, loaded)
    schedule = loaded.schedule(1, data.images)
    # Every JPEG's pixels tell its digit: no two of the 400 are alike.
    digit_of = {
        tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_FAST").numpy().tobytes(): digit
        for jpeg, digit, _ in images["train"]
    }
    seen = []
    for stage in schedule.stages(0):
        for batch, labels in stage_pipeline(stage, loaded, data, Workers(), threads=2):
            for image, label in zip(batch.numpy(), labels.numpy(), strict=True):
                assert digit_of[image.tobytes()] == label
                seen.append(label)
    assert len(seen) == 400
    assert set(seen) == set(range(10))
    digits = [digit for _, digit, _ in images["validation"]]
    evaluated = evaluation_pipeline(data.validation, loaded.evaluation, loaded.classes)
    found = np.concatenate([labels.numpy() for _, labels in evaluated])
    assert sorted(found[found >= 0]) == sorted(digits)


def test_two_workers_share_files_of_unequal_length(images, recipe, tmp_path):
    from core.workers import Workers
    from training.stages import stage_pipeline

    folder = tmp_path / "28"
    write_classic(folder, "validation", images["validation"])
    for number, part in enumerate((images["train"][:30], images["train"][30:40])):
        (path,) = write_classic(folder, "part", part, shards=1)
        path.rename(folder / f"train-{number:05d}-of-00002")
    phase = yaml.safe_load(recipe.read_text())["training_strategy"][0] | {"batch_size": 5}
    loaded = load_recipe(changed(recipe, tmp_path / "r.yaml", training_strategy=[phase]))
    data = find_data(tmp_path, loaded)
    assert data.training["28", "train"].counts == (30, 10)
    (stage,) = loaded.schedule(2, data.images).stages()
    seen = {
        image.tobytes()
        for rank in range(2)
        for batch, _ in stage_pipeline(stage, loaded, data, Workers(rank, 2), threads=1)
        for image in batch.numpy()
    }
    assert len(seen) == 40


def test_plan_counts_the_images_of_a_folder(run_command, records, recipe):
    ran = run_command("plan", "--recipe", recipe, "--workers", 1, "--data_dir", records)
    assert ran.returncode == 0, ran.stderr
    assert "4 steps with 1 worker(s) on 400 images" in ran.stdout


def test_the_notes_of_tfds_are_believed_and_checked(images, recipe, tmp_path):
    few = [image for image in images["train"] if 0 < image[1] < 9]  # tells no offset
    for split in ("train", "validation"):
        write_tfds(tmp_path / "28", split, few, shards=1)
    with pytest.raises(DataError, match="from 1 to 8, which does not show"):
        find_data(tmp_path, load_recipe(recipe))
    write_tfds_notes(tmp_path / "28", 10, {"train": [len(few)], "validation": [len(few)]})
    assert find_data(tmp_path, load_recipe(recipe)).validation.label_offset == 0
    write_tfds_notes(tmp_path / "28", 10, {"train": [len(few) + 1]})
    with pytest.raises(DataError, match=f"holds {len(few)} images.*says {len(few) + 1}"):
        find_data(tmp_path, load_recipe(recipe))
    write_tfds_notes(tmp_path / "28", 100, {})
    with pytest.raises(DataError, match="100 classes, but the recipe has classes: 10"):
        find_data(tmp_path, load_recipe(recipe))


@pytest.mark.parametrize(
    ("labels", "changes", "words"),
    [
        # Written as they stand: the classic writer adds 1 to each.
        (range(11), {}, "labels run from 1 to 11, which 10 classes have neither"),
        (range(-1, 10), {}, "labels run from 0 to 10, which 10 classes have neither"),
        (range(1, 9), {}, "from 2 to 9, which does not show"),
        (range(10), {"label_offset": 0}, "run from 1 to 10, but by the recipe's label_offset: 0"),
        (range(-1, 9), {"label_offset": 1}, "run from 0 to 9, but by the recipe's label_offset: 1"),
        (range(10), {"classes": 9}, "labels run from 1 to 10, which 9 classes have neither"),
    ],
)
def test_a_wrong_guess_is_refused(images, recipe, tmp_path, labels, changes, words):
    jpeg = images["train"][0][0]
    for split in ("train", "validation"):
        write_classic(tmp_path / "28", split, [(jpeg, label, "x.jpg") for label in labels])
    told = load_recipe(changed(recipe, tmp_path / "r.yaml", **changes))
    with pytest.raises(DataError, match=re.escape(words)) as error:
        find_data(tmp_path, told)
    assert str(tmp_path / "28") in str(error.value)
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize("offset", [0, 1])
def test_an_offset_that_is_told_is_taken(images, recipe, tmp_path, offset):
    jpeg = images["train"][0][0]
    for split in ("train", "validation"):
        write_classic(tmp_path / "28", split, [(jpeg, label, "x.jpg") for label in range(1, 9)])
    told = load_recipe(changed(recipe, tmp_path / "r.yaml", label_offset=offset))
    assert find_data(tmp_path, told).validation.label_offset == offset


def test_a_split_that_tells_nothing_goes_by_its_folder(images, recipe, tmp_path):
    """All of train shows labels 1 to 10; the validation images are of one class alone."""
    write_classic(tmp_path / "28", "train", images["train"])
    write_classic(tmp_path / "28", "validation", [i for i in images["validation"] if i[1] == 5])
    data = find_data(tmp_path, load_recipe(recipe))
    assert (data.validation.label_offset, data.images) == (1, {"28/train": 400})


def test_two_prefixes_of_a_folder_are_counted_apart(records, recipe, tmp_path):
    first = yaml.safe_load(recipe.read_text())["training_strategy"][0]
    phases = [first, first | {"epoch": [1, 2], "prefix": "validation"}]
    loaded = load_recipe(changed(recipe, tmp_path / "r.yaml", training_strategy=phases))
    data = find_data(records, loaded)
    assert data.images == {"28/train": 400, "28/validation": 100}
    schedule = loaded.schedule(1, data.images)
    assert [p.steps_per_epoch for p in schedule.phases] == [4, 1]


def test_a_manifest_and_a_recipe_must_agree(digits, recipe, tmp_path):
    told = load_recipe(changed(recipe, tmp_path / "r.yaml", label_offset=0))
    with pytest.raises(DataError, match="manifest has label_offset 1, but the recipe has"):
        find_data(digits, told)
    with pytest.raises(UserError, match="label_offset"):
        load_recipe(changed(recipe, tmp_path / "r.yaml", label_offset=2))


def test_a_set_directly_in_the_data_folder(images, recipe, tmp_path):
    for split, examples in images.items():
        write_tfds(tmp_path / "5.1.0", split, examples[:50])
    with pytest.raises(DataError, match=r"data_dir: '\.' in the recipe"):
        find_data(tmp_path / "5.1.0", load_recipe(recipe))
    fields = yaml.safe_load(recipe.read_text())
    fields["training_strategy"][0]["data_dir"] = fields["evaluation"]["data_dir"] = "."
    here = load_recipe(write_recipe(tmp_path / "r.yaml", fields))
    assert find_data(tmp_path / "5.1.0", here).images == {"./train": 50}


def test_a_shard_that_is_missing_of_a_tfds_set(records, recipe, tmp_path):
    shutil.copytree(records, tmp_path / "data")
    next((tmp_path / "data" / "28").glob("*train*-00001-of-00002")).unlink()
    with pytest.raises(DataError, match=r"1 of the 2 .*train-.*missing.*00001"):
        find_data(tmp_path / "data", load_recipe(recipe))
