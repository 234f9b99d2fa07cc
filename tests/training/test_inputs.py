"""What a recipe takes from its records, and what `--images` asks of it."""

import pytest

from core.errors import UserError
from datasets.records.manifest import Manifest, Shard, Split, write_manifest
from training.inputs import in_words, sizes_of, taken_from
from training.recipes import Recipe, load_recipe

PHASE = {"lr": [0.4, 0.2], "lr_method": "linear", "image_size": 20, "data_dir": "20"}


def recipe(batches=(32, 32), **changes):
    phases = [
        PHASE | {"epoch": [n, n + 1], "batch_size": size} | changes.pop("phase", {})
        for n, size in enumerate(batches)
    ]
    settings = {"evaluation": {"image_size": 20, "data_dir": "20"}, "training_strategy": phases}
    return Recipe.model_validate(settings | changes)


def records(root, images, classes=5):
    shard = Shard(images=images, bytes=1, sha256="")
    (root / "20").mkdir()
    write_manifest(
        root / "20",
        Manifest(
            label_offset=1,
            classes=tuple(map(str, range(classes))),
            splits={"train": Split(images=images, shards={"train-00000-of-00001": shard})},
            size=20,
            settings={},
            versions={},
        ),
    )
    return root


@pytest.mark.parametrize(
    ("images", "workers", "batches", "expected"),
    [
        # 160 images are 20 steps of 8; 10 of 16 would be too few.
        (160, 1, (32, 64), (8, 8)),
        (160, 2, (32, 16), (8, 8)),
        (520, 1, (32, 64), (32, 32)),
        # 740 becomes 370, 185, ...; at 46, an epoch of 750 images has 16 steps.
        (750, 1, (740, 4), (46, 4)),
        (10, 1, (12, 9), (10, 9)),
    ],
)
def test_batches_are_halved_until_an_epoch_has_enough_steps(
    tmp_path, images, workers, batches, expected
):
    asked = recipe(batches)
    taken = taken_from(records(tmp_path, images), asked, workers, True)
    found = asked.taking(taken)
    phases = found.training_strategy.root
    assert tuple(phase.batch_size for phase in phases) == expected
    for phase, before in zip(phases, batches, strict=True):
        share = phase.batch_size / before
        assert phase.lr == pytest.approx((0.4 * share, 0.2 * share))
    assert (found.classes, found.images) == (5, images)


def test_how_often_it_is_saved_and_logged_follows_the_steps(tmp_path):
    root = records(tmp_path, 640)
    taken = taken_from(root, recipe(), 1, True)  # two epochs of 20 steps
    assert (taken["checkpoint_every"], taken["log_every"]) == (5, 1)
    stated = recipe(checkpoint_every=7)
    assert stated.taking(taken_from(root, stated, 1, True)).checkpoint_every == 7


def test_of_other_records_only_the_classes_are_taken_where_they_are_left_out(tmp_path):
    root = records(tmp_path, 160)
    assert taken_from(root, recipe(), 1, False) == {"classes": 5}
    assert taken_from(root, recipe(classes=7), 1, False) == {}
    assert taken_from(root, recipe(classes=7), 1, True)["classes"] == 5
    assert taken_from(tmp_path / "nowhere", recipe(), 1, True) == {}


def test_what_is_taken_survives_json_and_another_number_of_phases(tmp_path):
    import json

    asked = recipe()
    taken = taken_from(records(tmp_path, 160), asked, 1, True) | {"mean": [1.0, 2.0, 3.0]}
    again = json.loads(json.dumps(taken))
    assert asked.taking(again) == asked.taking(taken)
    assert asked.taking(again).mean == (1.0, 2.0, 3.0)
    longer = recipe((32, 32, 32))
    assert longer.taking(again).training_strategy == longer.training_strategy
    text = in_words(taken)
    assert "classes 5; images 160; batches of 8, with rates in proportion; " in text
    assert text.endswith("mean 1, 2, 3")


def test_the_sizes_are_the_names_of_the_folders():
    assert sizes_of(load_recipe("finetune")) == [160, 256]
    with pytest.raises(UserError, match=r"phase 1, key 'data_dir': received '\.'"):
        sizes_of(recipe(phase={"data_dir": "."}))
    with pytest.raises(UserError, match=r"key 'evaluation.data_dir': received '020'"):
        sizes_of(recipe(evaluation={"data_dir": "020"}))
    with pytest.raises(UserError, match=r"key 'prefix': received 'all'"):
        sizes_of(recipe(phase={"prefix": "all"}))
