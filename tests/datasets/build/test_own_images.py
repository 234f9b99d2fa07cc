"""A folder of someone's own images, odd ones among them, as records beside it."""

import io
import re

import pytest
from PIL import Image

from core.errors import DataError
from datasets.build.own_images import prepare_images, records_beside
from tests.datasets.samples import file_bytes, halves, photograph, read, write_tree

SIZES = [16, 24]


def names(output, prefix):
    return sorted(r["image/filename"].numpy().decode() for r in read(output, 16, prefix))


def sixteen_bits():
    file = io.BytesIO()
    Image.new("I;16", (30, 20), 40000).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Two classes of ten photographs, one of a single one, an empty one, and odd files."""
    images = {f"{name}/{n:02d}.jpg": photograph(n) for name in ("cat", "dog") for n in range(10)}
    images |= {
        "bird/only.jpg": photograph(1),
        "cat/broken.jpg": file_bytes(photograph(2))[:300],
        "cat/words.jpg": b"<html>404: not found</html>",
        "dog/cmyk.jpg": file_bytes(halves((0, 255, 255, 0), (255, 0, 0, 0), mode="CMYK")),
        "dog/deep.png": sixteen_bits(),
    }
    root = write_tree(tmp_path / "my_photos", images)
    (root / "empty").mkdir()
    return root


def test_records_lie_beside_the_images(tmp_path, monkeypatch):
    (tmp_path / "my_photos").mkdir()
    monkeypatch.chdir(tmp_path / "my_photos")
    assert records_beside(tmp_path / "x" / "my_photos") == tmp_path / "x" / "my_photos-records"
    assert records_beside(tmp_path / "my_photos" / ".") == tmp_path / "my_photos-records"
    assert records_beside(type(tmp_path)(".")) == tmp_path / "my_photos-records"


def test_odd_images_and_classes_are_said(photos, tmp_path):
    output = records_beside(photos)
    said = "\n".join(prepare_images(photos, output, SIZES))
    # A fifth of the 12 files of a class is 2.4; of the bird, nothing is left to validate on. Two
    # of the 25 files are no images.
    found = re.search(r"3 classes \(bird, cat, dog\); (\d+) to train on, (\d+) to validate", said)
    train, validation = names(output, "train"), names(output, "validation")
    assert [len(train), len(validation)] == [int(count) for count in found.groups()]
    assert len(train) + len(validation) == 23
    assert "no images: class empty; left out" in said
    assert "no image to validate on: class bird; its only image is trained on" in said
    assert "cannot be read and left out: 2 file(s), cat/broken.jpg (" in said
    assert "cat/words.jpg (not an image" in said
    assert str(output / "rejected.csv") in said
    assert {"only.jpg"} <= set(train)
    assert {"cmyk.jpg", "deep.png"} <= {*train, *validation}
    labels = {int(record["image/class/label"]) for record in read(output, 24, "train")}
    assert labels == {1, 2, 3}


def test_they_are_made_once_and_the_same_again(photos, monkeypatch):
    output = records_beside(photos)
    before = prepare_images(photos, output, SIZES)
    monkeypatch.setattr("datasets.build.own_images.build_source", None)  # would raise
    # Another Pillow does not make finished records anew.
    note = output / ".build.json"
    note.write_text(re.sub(r'"pillow": ".*?"', '"pillow": "1.0"', note.read_text()))
    assert prepare_images(photos, output, SIZES) == before


def test_a_build_that_did_not_end_is_resumed(photos):
    output = records_beside(photos)
    prepare_images(photos, output, SIZES)
    whole = {path: path.read_bytes() for path in (output / "16").iterdir()}
    (output / "16" / "manifest.json").unlink()
    (output / "16" / ".unfinished").touch()
    shard = next((output / "16").glob("train-*"))
    shard.unlink()
    prepare_images(photos, output, SIZES)
    assert {path: path.read_bytes() for path in (output / "16").iterdir()} == whole


def another_image(photos):
    (photos / "cat" / "new.jpg").write_bytes(file_bytes(photograph(30)))


def one_image_less(photos):
    (photos / "dog" / "03.jpg").unlink()


@pytest.mark.parametrize("change", [another_image, one_image_less])
def test_changed_images_are_refused(photos, change):
    output = records_beside(photos)
    prepare_images(photos, output, SIZES)
    change(photos)
    with pytest.raises(DataError, match=r"--images .*-records' was made with other .*files"):
        prepare_images(photos, output, SIZES)
    assert (output / "16" / "manifest.json").exists()


def test_other_sizes_are_refused_and_may_go_elsewhere(photos, tmp_path):
    prepare_images(photos, records_beside(photos), SIZES)
    with pytest.raises(DataError, match=r"made with other sizes: .*Remove that.*--data_dir"):
        prepare_images(photos, records_beside(photos), [20])
    prepare_images(photos, tmp_path / "others", [20])
    assert (tmp_path / "others" / "20" / "manifest.json").exists()


def test_what_is_kept_to_validate_on_hardly_moves_when_images_come_in(photos, tmp_path):
    prepare_images(photos, tmp_path / "before", SIZES)
    another_image(photos)
    prepare_images(photos, tmp_path / "after", SIZES)
    before, after = (set(names(tmp_path / x, "validation")) for x in ("before", "after"))
    assert len(before - after) <= 1
    assert len(after - before) <= 1


def test_a_set_with_a_val_of_its_own_keeps_it(tmp_path):
    images = {f"train/{c}/{n}.jpg": photograph(n) for c in "ab" for n in range(6)}
    images |= {f"val/a/v{n}.jpg": photograph(10 + n) for n in range(3)}
    root = write_tree(tmp_path / "set", images)
    said = "\n".join(prepare_images(root, records_beside(root), [16]))
    assert "12 to train on, 3 to validate on\n" in said
    assert "no image to validate on: class b" in said
    assert names(records_beside(root), "validation") == ["v0.jpg", "v1.jpg", "v2.jpg"]


def nothing(root):
    return root / "nowhere"


def one_class(root):
    return write_tree(root / "one", {f"a/{n}.jpg": photograph(n) for n in range(4)})


def singles(root):
    return write_tree(root / "singles", {f"{c}/1.jpg": photograph(1) for c in "abc"})


def only_words(root):
    good = {f"{c}/{n}.jpg": photograph(n) for c in "ab" for n in range(12)}
    return write_tree(root / "words", {**good, "c/1.jpg": b"404", "c/2.jpg": b"404"})


def mostly_words(root):
    good = {f"{c}/{n}.jpg": photograph(n) for c in "ab" for n in range(4)}
    return write_tree(root / "words", {**good, **{f"a/x{n}.jpg": b"404" for n in range(4)}})


def no_folders(root):
    return write_tree(root / "flat", {"1.jpg": photograph(1), "2.jpg": photograph(2)})


def val_alone(root):
    names = [*(f"a/{n}.jpg" for n in range(3)), *(f"val/a/{n}.jpg" for n in range(3))]
    return write_tree(root / "val", dict.fromkeys(names, file_bytes(photograph(1))))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (nothing, "nowhere': there is no such folder"),
        (one_class, r"it has 1 class\(es\) with images \(a\)"),
        (singles, "no class of '.*singles' has two images"),
        (only_words, "class c: none of its images to train on can be read"),
        (mostly_words, "4 of 12 images cannot be read"),
        (no_folders, "no folder 'train' with a folder for each class"),
        (val_alone, "no folder 'train' with a folder for each class"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, images, words):
    images = images(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        prepare_images(images, records_beside(images), [16])
    assert str(caught.value).startswith(f"--images {images}: ")


def test_records_inside_the_images_are_refused(photos):
    with pytest.raises(DataError, match="is inside it; name another"):
        prepare_images(photos, photos / "records", [16])
