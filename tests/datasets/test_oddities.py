"""The oddities of ImageNet's files, and of those of others, in one set that is trained on."""

import csv
import io
import os

import numpy as np
import pytest
import yaml
from PIL import Image

from core.workers import Workers
from datasets.input.faults import Faults
from datasets.input.validation import evaluation_pipeline
from tests.datasets.build.test_images import swapped_profile, ycck
from tests.datasets.samples import (
    BLUE,
    RED,
    build,
    file_bytes,
    halves,
    photograph,
    read,
    write_tree,
)
from training import model
from training.inputs import find_data
from training.recipes import Recipe
from training.stages import stage_pipeline


def _exif(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_bytes(image, exif=exif, quality=95)


def _sixteen_bits():
    return file_bytes(Image.fromarray(np.full((32, 64), 180 << 8, np.uint16)), "PNG")


def _animation():
    frames = [Image.new("RGB", (64, 32), colour) for colour in (RED, BLUE)]
    return file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])


GOOD = {
    "a/photograph.JPEG": file_bytes(photograph(1)),
    "a/png.JPEG": file_bytes(halves(RED, BLUE), "PNG"),
    "a/bmp.JPEG": file_bytes(halves(RED, BLUE), "BMP"),
    "a/cmyk.JPEG": file_bytes(halves((0, 255, 255, 0), (255, 255, 0, 0), mode="CMYK")),
    "a/ycck.JPEG": ycck(RED, BLUE),
    "a/grey.JPEG": file_bytes(halves(200, 100, mode="L")),
    "a/turned.JPEG": _exif(halves(RED, BLUE), 6),
    "a/icc.JPEG": file_bytes(halves(RED, BLUE), icc_profile=swapped_profile()),
    "a/bad icc.JPEG": file_bytes(halves(RED, BLUE), icc_profile=b"none"),
    "a/animated.gif": _animation(),
    "a/16 bits.png": _sixteen_bits(),
    'a/it\'s "so".JPEG': file_bytes(photograph(2)),
    "a/naïve 日本, 1.JPEG": file_bytes(photograph(3)),
    "a/comma, \\ and %s.JPEG": file_bytes(photograph(4)),
    "a/same.JPEG": file_bytes(photograph(5)),
    "classe é/same.JPEG": file_bytes(photograph(6)),
    os.fsdecode(b"classe \xc3\xa9/latin \xe9.JPEG"): file_bytes(photograph(7)),
    "classe é/one pixel.png": file_bytes(Image.new("RGB", (1, 1), RED), "PNG"),
    "classe é/long.png": file_bytes(Image.new("RGB", (900, 2), RED), "PNG"),
}
PHOTOGRAPH = file_bytes(photograph(8))
BAD = {
    "a/empty.JPEG": b"",
    "a/cut.JPEG": PHOTOGRAPH[: len(PHOTOGRAPH) * 2 // 3],
    "a/header, only.JPEG": PHOTOGRAPH[:20],
    'classe é/words "1".JPEG': b"<html>404: not found</html>",
    "classe é/cut.png": file_bytes(photograph(9), "PNG")[:900],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("oddities")
    train = {f"train/{name}": data for name, data in (GOOD | BAD).items()}
    images = train | {f"val/a/{number}.JPEG": photograph(number) for number in range(4)}
    write_tree(root / "set", images)
    (root / "set/train/nothing").mkdir()
    os.symlink("nowhere", root / "set/train/a/dead link.JPEG")
    os.mkfifo(root / "set/train/a/pipe.JPEG")
    options = {"shards": 2, "max_rejected": 0.4, "enlarge": True, "processes": 2}
    build(root / "set", root / "out", (32,), **options)
    return root / "out"


def test_just_what_cannot_be_read_is_rejected(corpus):
    with open(corpus / "rejected.csv", newline="", errors="surrogateescape") as file:
        rejected = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    lost = {*BAD, "a/dead link.JPEG", "a/pipe.JPEG"}
    assert rejected.keys() == {f"train/{name}" for name in lost}
    assert all(reason and "\n" not in reason for reason in rejected.values())
    assert rejected["train/a/empty.JPEG"] == "empty file"
    records = read(corpus, 32, "train")
    names = [r["image/filename"].numpy() for r in records]
    assert sorted(names) == sorted(os.fsencode(name.split("/")[1]) for name in GOOD)


def test_what_can_be_read_is_an_rgb_jpeg_of_its_class(corpus):
    # An empty class keeps its place in the labels.
    labels = {"a": 1, "classe é": 2, "nothing": 3}
    colours = {}
    for record in read(corpus, 32, "train"):
        image = Image.open(io.BytesIO(record["image/encoded"].numpy()))
        assert (image.format, min(image.size)) == ("JPEG", 32)
        synset = record["image/class/synset"].numpy().decode()
        assert int(record["image/class/label"]) == labels[synset]
        name = os.fsdecode(record["image/filename"].numpy())
        corners = (
            image.convert("RGB").getpixel((1, 1)),
            image.convert("RGB").getpixel((image.width - 2, image.height - 2)),
        )
        colours[f"{synset}/{name}"] = corners
    red_blue = ["png.JPEG", "bmp.JPEG", "cmyk.JPEG", "ycck.JPEG", "turned.JPEG", "bad icc.JPEG"]
    for name in red_blue:
        np.testing.assert_allclose(colours[f"a/{name}"], [RED, BLUE], atol=25, err_msg=name)
    np.testing.assert_allclose(colours["a/icc.JPEG"], [BLUE, RED], atol=25)
    np.testing.assert_allclose(colours["a/animated.gif"], [RED, RED], atol=25)
    np.testing.assert_allclose(colours["a/16 bits.png"], [[180] * 3] * 2, atol=3)
    np.testing.assert_allclose(colours["a/grey.JPEG"], [[200] * 3, [100] * 3], atol=3)


def test_a_model_trains_on_it(corpus, root):
    """On the batches of a run, and of its evaluation."""
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe.pop("embedded_data")
    recipe |= {
        "name": "oddities",
        "classes": 3,
        "images": len(GOOD),
        "workers": 1,
        # Not narrower: in a process of several tests, `avoid_overrun` may come too late.
        "model_arguments": {"widths": [16, 16, 16]},
        "policy": "float32",
        "evaluation": {"image_size": 32, "data_dir": "32", "prefix": "validation", "batch_size": 4},
        "log_every": 1,
        "training_strategy": [
            {
                "epoch": [0, 1],
                "lr": [0.01, 0.01],
                "lr_method": "linear",
                "batch_size": 9,
                "image_size": [32, 32],
                "data_dir": "32",
                "prefix": "train",
            }
        ],
    }
    recipe = Recipe.model_validate(recipe)
    data = find_data(corpus, recipe)
    (stage,) = recipe.schedule(1, data.images).stages()
    net = model.build(recipe)
    model.compile_for_training(net, recipe, recipe.policy)
    batches = stage_pipeline(stage, recipe, data, Workers(), threads=2, faults=Faults(0))
    losses = [net.train_on_batch(images, labels)[0] for images, labels in batches]
    assert len(losses) == len(GOOD) // 9
    assert np.isfinite(losses).all()
    (evaluated,) = evaluation_pipeline(data.validation, recipe.evaluation, recipe.classes)
    assert np.isfinite(net.predict_on_batch(evaluated[0])).all()
