"""Sets in folders, as their makers release them, and how they are told apart."""

import shutil

import pytest

from core.errors import DataError
from datasets.build.sources.layouts import find_layout
from tests.datasets.build.sources.test_boxes import XML
from tests.datasets.samples import (
    build,
    file_bytes,
    find_source,
    halves,
    photograph,
    read,
    write_tree,
)

VALIDATION = {"val_0.JPEG": "n02", "val_1.JPEG": "n01", "val_2.JPEG": "n02"}


@pytest.fixture
def tiny(tmp_path):
    images = {
        f"train/{wnid}/images/{wnid}_{number}.JPEG": photograph(number, 64, 64)
        for wnid in ("n02", "n01")
        for number in range(3)
    } | {f"val/images/{name}": photograph(9, 64, 64) for name in VALIDATION}
    root = write_tree(tmp_path / "tiny-imagenet-200", images)
    for wnid in ("n01", "n02"):
        lines = (f"{wnid}_{number}.JPEG\t0\t16\t{32 + number}\t48\n" for number in range(3))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
    (root / "val" / "val_annotations.txt").write_text(
        "".join(f"{name}\t{wnid}\t8\t0\t56\t64\n" for name, wnid in VALIDATION.items())
    )
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\ttench\nn02\tgoldfish, Carassius\n")
    return root


def test_tiny_imagenet(tiny, tmp_path):
    build(tiny, tmp_path / "out", (64,))
    train = {r["image/filename"].numpy().decode(): r for r in read(tmp_path / "out", 64, "train")}
    assert train.keys() == {f"{wnid}_{n}.JPEG" for wnid in ("n01", "n02") for n in range(3)}
    for name, record in train.items():
        assert record["image/class/label"] == int(name[2])
        assert (
            record["image/class/text"] == {"n01": b"tench", "n02": b"goldfish, Carassius"}[name[:3]]
        )
        assert record["image/encoded"] == (tiny / "train" / name[:3] / "images" / name).read_bytes()
        assert record["image/object/bbox/xmin"].values.numpy().tolist() == [0]
    validation = read(tmp_path / "out", 64, "validation")
    labels = {r["image/filename"].numpy().decode(): int(r["image/class/label"]) for r in validation}
    assert labels == {"val_0.JPEG": 2, "val_1.JPEG": 1, "val_2.JPEG": 2}
    assert all(r["image/object/bbox/xmin"].values.numpy().tolist() == [0.125] for r in validation)


def test_kaggles_imagenet(tmp_path):
    data = "ILSVRC/Data/CLS-LOC"
    images = {
        f"{data}/train/{w}/{w}_{n}.JPEG": photograph(n) for w in ("n01", "n02") for n in (0, 7)
    }
    images |= {f"{data}/val/ILSVRC2012_val_0000000{n}.JPEG": photograph(n) for n in (1, 2)}
    images |= {f"{data}/test/ILSVRC2012_test_00000001.JPEG": photograph(3)}
    annotation = "ILSVRC/Annotations/CLS-LOC/train/n02/n02_7.xml"
    root = write_tree(tmp_path / "kaggle", images | {annotation: XML.encode()})
    (root / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca tinca\nn02 goldfish\n")
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n01 1 2 3 4 \n"
        "ILSVRC2012_val_00000001,n02 1 2 3 4 n02 5 6 7 8 \n"
    )
    source = find_source(root)
    assert source.layout == "cls-loc"
    assert source.words == {"n01": "tench, Tinca tinca", "n02": "goldfish"}
    assert {image.name for image in source.images["validation"]} == {
        "n02/ILSVRC2012_val_00000001.JPEG",
        "n01/ILSVRC2012_val_00000002.JPEG",
    }
    assert source.boxes["train"].keys() == {"n02/n02_7"}
    (root / "LOC_val_solution.csv").write_text("Id,Label\n1,2\n")
    with pytest.raises(DataError, match="ImageId"):
        find_source(root)


@pytest.fixture
def resized(tmp_path):
    """Two sizes; grey and progressive images, and a PNG that is named JPEG."""
    images = {}
    for size in (16, 32):
        for number in range(4):
            images[f"{size}/train/n01/{number}.JPEG"] = photograph(number, size * 3 // 2, size)
        images[f"{size}/train/n02/grey.JPEG"] = photograph(5, size, size).convert("L")
        images[f"{size}/train/n02/slow.JPEG"] = file_bytes(photograph(6), progressive=True)
        images[f"{size}/train/n02/png.JPEG"] = file_bytes(halves("red", "blue"), "PNG")
        images[f"{size}/val/n01/1.JPEG"] = photograph(8, size, size)
    return write_tree(tmp_path / "resized", images)


def test_resized_trees_are_stored_byte_for_byte(resized, tmp_path):
    manifests = build(resized, tmp_path / "out", ())
    assert sorted(manifests) == [16, 32]
    for size in (16, 32):
        for prefix, split, images in (("train", "train", 7), ("validation", "val", 1)):
            records = read(tmp_path / "out", size, prefix)
            assert len(records) == images
            for record in records:
                name = record["image/filename"].numpy().decode()
                synset = record["image/class/synset"].numpy().decode()
                encoded = record["image/encoded"].numpy()
                data = (resized / str(size) / split / synset / name).read_bytes()
                assert (encoded == data) == (name != "png.JPEG")
                assert encoded.startswith(b"\xff\xd8\xff")


def test_one_of_the_sizes(resized, tmp_path):
    assert list(build(resized, tmp_path / "out", (32,))) == [32]
    with pytest.raises(DataError, match=r"received 64; .* 16, 32"):
        build(resized, tmp_path / "other", (64,))


def test_records_are_not_written_into_a_resized_tree(resized):
    with pytest.raises(DataError, match="inside the source"):
        build(resized, resized, ())


def test_sizes_are_alike(resized):
    (resized / "16/train/n01/2.JPEG").unlink()
    with pytest.raises(DataError, match=r"differ in 1 file.*'n01/2.JPEG'"):
        find_source(resized)
    shutil.rmtree(resized / "16/train/n02")
    with pytest.raises(DataError, match="other classes"):
        find_source(resized)


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["train/n01/1.JPEG", "val/n01/1.JPEG"], "folders"),
        (["train/n01/images/1.JPEG"], "tiny-imagenet"),
        (["train/n01/1.JPEG", "val/val_annotations.txt"], "tiny-imagenet"),
        (["160/train/n01/1.JPEG", "320/train/n01/1.JPEG"], "resized"),
        (["ILSVRC/Data/CLS-LOC/train/n01/1.JPEG"], "cls-loc"),
        (["ILSVRC2012_img_train.tar"], "archives"),
        (["ILSVRC2012_img_train.tar", "devkit/readme.txt"], "archives"),
        (["cat/1.JPEG", "dog/1.JPEG"], "classes"),
        (["cat/1.JPEG", "val/cat/1.JPEG"], "folders"),  # an error: there is no train
        (["cat/.hidden", "1.JPEG"], "folders"),
    ],
)
def test_layouts_are_found_out(tmp_path, names, layout):
    assert find_layout(write_tree(tmp_path, dict.fromkeys(names, b""))) == layout


def test_two_layouts_at_once(tmp_path):
    write_tree(tmp_path, dict.fromkeys(["train/n01/1.JPEG", "ILSVRC2012_img_train.tar"], b""))
    with pytest.raises(DataError, match=r"archives and folders; .*--layout"):
        find_source(tmp_path)
    assert len(find_source(tmp_path, layout="folders").images["train"]) == 1
    with pytest.raises(DataError, match="received 'zip'"):
        find_source(tmp_path, layout="zip")


def _unlisted(root):
    (root / "val/images/val_9.JPEG").write_bytes(b"")


def _lost(root):
    (root / "val/images/val_2.JPEG").unlink()


def _no_tab(root):
    (root / "val/val_annotations.txt").write_text("val_0.JPEG n01\n")


def _other_class(root):
    path = root / "val/val_annotations.txt"
    path.write_text(path.read_text().replace("\tn02\t", "\tn05\t"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unlisted, "val_9.JPEG' has no line"),
        (_lost, "lists 1 file.*'val_2.JPEG'"),
        (_no_tab, "line 1"),
        (_other_class, "n05"),
    ],
)
def test_a_tiny_imagenet_that_does_not_add_up(tiny, change, words):
    change(tiny)
    with pytest.raises(DataError, match=words):
        find_source(tiny)
