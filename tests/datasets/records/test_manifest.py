import json
import struct

import pytest

from core.errors import DataError
from datasets.records.frames import frame
from datasets.records.manifest import (
    Manifest,
    Shard,
    Split,
    count_images,
    read_manifest,
    shard_files,
    write_manifest,
)


def record(data: bytes) -> bytes:
    """A TFRecord frame by the format's description; checksums are not looked at here."""
    return struct.pack("<Q", len(data)) + b"crc1" + data + b"crc2"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "160"
    folder.mkdir()
    for index in range(3):
        (folder / f"train-0000{index}-of-00003").write_bytes(record(b"x" * (index + 1)) * 2)
    return folder


def manifest(**changes) -> Manifest:
    shard = Shard(images=2, bytes=34, sha256="00" * 32)
    fields = {
        "label_offset": 1,
        "classes": ("cat", "dog"),
        "splits": {"train": Split(images=2, shards={"train-00000-of-00003": shard})},
        "size": 160,
        "settings": {"quality": 90, "seed": 0},
        "versions": {"pillow": "1.0"},
    }
    return Manifest(**(fields | changes))


def test_shards_come_in_order_without_other_files(folder):
    for name in (
        "train-00003-of-00003.tmp",
        ".train-00000-of-00003.tmp-12",
        "train-notes.txt",
        "train-big-00000-of-00009",
        "validation-00000-of-00001",
    ):
        (folder / name).write_bytes(b"x")
    names = [path.name for path in shard_files(folder.parent, "160", "train")]
    assert names == [f"train-0000{index}-of-00003" for index in range(3)]


def test_unnumbered_files_are_taken_as_they_are(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("train-b.tfrecord", "train-a.tfrecord", "train-c.tmp"):
        (folder / name).write_bytes(record(b"x"))
    names = [path.name for path in shard_files(tmp_path, "own", "train")]
    assert names == ["train-a.tfrecord", "train-b.tfrecord"]


def _remove_one(folder):
    (folder / "train-00001-of-00003").unlink()


def _add_another_set(folder):
    (folder / "train-00000-of-00008").write_bytes(b"x")


def _add_a_twin(folder):
    (folder / "train-00000-of-00003.tfrecord").write_bytes(b"x")


def _empty_one(folder):
    (folder / "train-00001-of-00003").write_bytes(b"")


def _leave_unfinished(folder):
    (folder / ".unfinished").touch()


@pytest.mark.parametrize(
    ("spoil", "root", "data_dir", "prefix", "words"),
    [
        (None, "nowhere", "160", "train", ["nowhere", "no such folder"]),
        (None, ".", "320", "train", ["320", "no such folder", "160"]),
        (None, ".", "160", "validation", ["160", "'validation-*'"]),
        (_remove_one, ".", "160", "train", ["1 of the 3", "00001"]),
        (_add_another_set, ".", "160", "train", ["mixes", "3 and 8"]),
        (_add_a_twin, ".", "160", "train", ["4", "set of 3"]),
        (_empty_one, ".", "160", "train", ["train-00001-of-00003", "empty"]),
        (_leave_unfinished, ".", "160", "train", ["160", "did not end"]),
    ],
)
def test_refuses_folders_that_are_not_whole(folder, spoil, root, data_dir, prefix, words):
    if spoil:
        spoil(folder)
    with pytest.raises(DataError) as error:
        shard_files(folder.parent / root, data_dir, prefix)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert message.count("\n") <= 1


def test_a_manifest_comes_back_as_it_was_written(folder):
    assert read_manifest(folder) is None
    write_manifest(folder, manifest(size=None))
    assert read_manifest(folder) == manifest(size=None)
    assert json.loads((folder / "manifest.json").read_text())["classes"] == ["cat", "dog"]
    assert not list(folder.glob(".*")), "a temporary file is left"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda text: text[:40], "JSON"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "format_version"),
        (lambda text: text.replace('"label_offset": 1,', ""), "label_offset"),
        (lambda text: text.replace('"images": 2', '"images": 3', 1), "add up to 2"),
    ],
)
def test_refuses_a_broken_manifest(folder, change, word):
    path = write_manifest(folder, manifest())
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=word) as error:
        read_manifest(folder)
    assert str(path) in str(error.value)


def test_images_are_counted_record_by_record_without_a_manifest(folder):
    (folder / "train-00001-of-00003").write_bytes(record(b"") + record(bytes(70000)) * 4)
    assert count_images(shard_files(folder.parent, "160", "train"), None) == 2 + 5 + 2


def test_the_manifest_is_believed_where_the_bytes_agree(folder):
    files = shard_files(folder.parent, "160", "train")
    assert count_images(files, manifest()) == 6
    files[0].write_bytes(b"?" * 34)
    assert count_images(files, manifest()) == 6
    files[0].write_bytes(b"?" * 33)
    with pytest.raises(DataError, match="33 bytes, its manifest says 34"):
        count_images(files, manifest())


@pytest.mark.parametrize("cut", [1, 5, 12, 20])
def test_refuses_a_file_cut_in_a_record(folder, cut):
    path = folder / "train-00002-of-00003"
    path.write_bytes((frame(b"12345") * 2)[:-cut])
    with pytest.raises(
        DataError, match=r"record 1 \(from 0\): the file ends in the middle"
    ) as error:
        count_images([path], None)
    assert str(path) in str(error.value)
