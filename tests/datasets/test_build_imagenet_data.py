import csv
import io
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from core.errors import DataError
from datasets.build_imagenet_data import main
from datasets.records.manifest import count_images, read_manifest, shard_files
from tests.datasets.samples import (
    BLUE,
    GREEN,
    RED,
    build,
    file_bytes,
    photograph,
    read,
    snapshot,
    write_tree,
)
from tests.waiting import HANG_SECONDS, until

SPLITS = ("train", "val")
REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three classes, 20 training and 4 validation images each, each class of one hue."""
    images = {}
    for synset, colour in (("n03", BLUE), ("n01", RED), ("n02", GREEN)):
        for number in range(24):
            image = Image.blend(photograph(number), Image.new("RGB", (96, 64), colour), 0.8)
            split = "train" if number < 20 else "val"
            images[f"{split}/{synset}/{synset}_{number}.JPEG"] = image
    return write_tree(tmp_path_factory.mktemp("source"), images)


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("built")
    build(tree, output, (24, 48))
    return output


def test_records_hold_the_tree(tree, tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("n01\ttench, Tinca tinca\nn03 great white shark\nn99\tnot here\n")
    output = tmp_path / "out"
    manifests = build(tree, output, (24, 48), shards=5, class_names=names)
    hues = {1: 0, 2: 1, 3: 2}  # labels from 1 in the order of the names: red, green, blue
    for size in (24, 48):
        for prefix, images in (("train", 60), ("validation", 12)):
            records = read(output, size, prefix)
            assert len(records) == images
            expected = {
                path.name.encode()
                for path in (tree / prefix.replace("idation", "")).rglob("*.JPEG")
            }
            assert {record["image/filename"].numpy() for record in records} == expected
            for record in records:
                image = Image.open(io.BytesIO(record["image/encoded"].numpy()))
                assert image.size == (size * 3 // 2, size)
                assert image.width == record["image/width"]
                assert image.height == record["image/height"]
                label = int(record["image/class/label"])
                assert np.asarray(image).mean((0, 1)).argmax() == hues[label]
                assert record["image/class/synset"] == b"n0%d" % label
                assert record["image/filename"].numpy().startswith(b"n0%d_" % label)
                words = {1: b"tench, Tinca tinca", 2: b"", 3: b"great white shark"}
                assert record["image/class/text"] == words[label]
        labels = [int(record["image/class/label"]) for record in read(output, size, "train")]
        assert all(len(set(labels[i : i + 12])) == 3 for i in range(0, 60, 12)), "not mixed"
        files = shard_files(output, str(size), "train")
        assert [path.name for path in files] == [f"train-0000{i}-of-00005" for i in range(5)]
        assert read_manifest(output / str(size)) == manifests[size]
        assert manifests[size].classes == ("n01", "n02", "n03")
        assert (manifests[size].label_offset, manifests[size].size) == (1, size)
        assert count_images(files, None) == count_images(files, manifests[size]) == 60


def test_the_number_of_processes_does_not_show(tree, built, tmp_path):
    build(tree, tmp_path, (24, 48), processes=2)
    assert snapshot(tmp_path) == snapshot(built)


def test_a_seed_mixes_the_images_its_own_way(tree, built, tmp_path):
    build(tree, tmp_path, (24,), seed=1)
    before, after = (
        [record["image/filename"].numpy() for record in read(output, 24, "train")]
        for output in (built, tmp_path)
    )
    assert before != after
    assert sorted(before) == sorted(after)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _workers(pid: int) -> list[int]:
    return [
        child
        for child in _children(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _finished(output: Path) -> int:
    """Shards that a build has noted as finished; 0 behind its end."""
    done = output / ".build.done"
    return done.read_text().count("\n") if done.exists() else 0


def test_a_killed_build_resumes_with_the_same_bytes(tmp_path):
    source, output = tmp_path / "source", tmp_path / "out"
    write_tree(source, {"train/a/0.JPEG": photograph(0, 450, 350)})
    (source / "train" / "b").mkdir()
    for number in range(1, 160):
        os.link(source / "train/a/0.JPEG", source / f"train/{'ab'[number % 2]}/{number}.JPEG")
    settings = {"source": source, "output": output, "sizes": "200,100", "shards": 16}
    command = [sys.executable, "-m", "datasets.build_imagenet_data", "--processes", "2"]
    command += [f"--{key}={value}" for key, value in settings.items()]

    def start_and_wait_for(shards: int) -> subprocess.Popen:
        build = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        until(lambda: _finished(output) >= shards, look_every=0.001)
        return build

    build_1 = start_and_wait_for(2)  # a process of the pool dies, as if memory were short
    os.kill(_workers(build_1.pid)[0], signal.SIGKILL)
    _, messages = build_1.communicate(timeout=HANG_SECONDS)
    assert build_1.returncode == 1
    assert "a process of the build died" in messages
    assert "Traceback" not in messages

    build_2 = start_and_wait_for(5)  # the build itself dies
    workers = _workers(build_2.pid)
    build_2.kill()
    build_2.communicate(timeout=HANG_SECONDS)
    assert len(workers) == 2
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert not (output / "100" / "manifest.json").exists()
    with pytest.raises(DataError, match="did not end"):
        shard_files(output, "100", "train")

    finished = {path: path.stat().st_mtime_ns for path in (output / "200").glob("train-*")}
    assert 5 <= len(finished) < 16
    build(source, output, (200, 100), shards=16)
    kept = [path for path, time_ns in finished.items() if path.stat().st_mtime_ns == time_ns]
    assert len(kept) >= 5
    whole = tmp_path / "whole"
    build(source, whole, (200, 100), shards=16)
    assert snapshot(output) == snapshot(whole)
    assert {path.name for path in (output / "100").glob(".*")} == set(), "temporary files are left"


def test_six_kills_at_random_moments_leave_the_same_bytes(tmp_path):
    source, whole, output = (tmp_path / name for name in ("source", "whole", "out"))
    write_tree(source, {f"{s}/{c}/0.JPEG": photograph(7, 500, 400) for s in SPLITS for c in "ab"})
    for number in range(1, 100):
        for split in SPLITS:
            first = source / split / "ab"[number % 2] / "0.JPEG"
            os.link(first, first.with_name(f"{number}.JPEG"))
    settings = {"source": source, "sizes": "300,150", "shards": 25, "validation_shards": 25}
    build(source, whole, (300, 150), shards=25, validation_shards=25)
    command = [sys.executable, "-m", "datasets.build_imagenet_data", "--processes", "2"]
    command += [f"--{key}={value}" for key, value in (settings | {"output": output}).items()]
    moments = random.Random(5)
    lock = output / ".build.lock"
    killed, finished = 0, []
    while killed < 6:
        lock.unlink(missing_ok=True)
        enough = _finished(output) + moments.randrange(6)
        running = subprocess.Popen(
            command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(
            lambda enough=enough, running=running: (
                (lock.exists() and _finished(output) >= enough) or running.poll() is not None
            ),
            look_every=0.001,
        )
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            killed += 1
        else:  # it was faster than the kill; it is given work again
            for path in (output / "150").glob("train-*"):
                path.unlink()
        running.wait(HANG_SECONDS)
        finished.append(_finished(output))
    assert max(finished) >= 1, "no build got anywhere"
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=HANG_SECONDS)
    assert snapshot(output) == snapshot(whole)
    assert len(snapshot(whole)) == 2 * (25 + 25 + 1) + 1
    assert not list(output.glob("*/.*")), "temporary files are left"


def test_a_finished_build_is_left_alone(tree, built):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("train-*")}
    build(tree, built, (24, 48))
    assert {path: path.stat().st_mtime_ns for path in built.rglob("train-*")} == before
    assert read_manifest(built / "24") is not None


def test_a_lost_shard_is_built_again(tree, built, tmp_path):
    build(tree, tmp_path, (24, 48))
    (tmp_path / "24" / "train-00002-of-00008").unlink()
    build(tree, tmp_path, (24, 48))
    assert snapshot(tmp_path) == snapshot(built)


def test_other_builds_and_records_are_not_touched_unasked(tree, tmp_path):
    (tmp_path / "24").mkdir()
    foreign = tmp_path / "24" / "train-00000-of-00001"
    foreign.write_bytes(b"theirs")
    (tmp_path / "24" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other origin.*train-00000-of-00001"):
        build(tree, tmp_path, (24,))
    assert foreign.read_bytes() == b"theirs"
    build(tree, tmp_path, (24,), overwrite=True)
    assert not foreign.exists()
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match="other quality, seed;"):
        build(tree, tmp_path, (24,), quality=50, seed=3)
    assert snapshot(tmp_path) == before
    build(tree, tmp_path, (24,), quality=50, shards=4, overwrite=True)
    assert len(shard_files(tmp_path, "24", "train")) == 4
    assert (tmp_path / "24" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("noted", ["{", "null", "3", "[1]"])
def test_a_broken_note_of_the_build_counts_as_another_build(tree, tmp_path, noted):
    (tmp_path / ".build.json").write_text(noted)
    with pytest.raises(DataError, match="a build with other"):
        build(tree, tmp_path, (24,))


def test_two_builds_do_not_share_an_output(tree, tmp_path):
    with (
        filelock.FileLock(tmp_path / ".build.lock"),
        pytest.raises(DataError, match="another build is running"),
    ):
        build(tree, tmp_path, (24,))


def test_unreadable_images_are_listed_and_too_many_end_the_build(tmp_path):
    good = file_bytes(photograph(1))
    source = write_tree(
        tmp_path / "source",
        {f"train/a/{number}.JPEG": good for number in range(17)}
        | {
            "train/a/cut.JPEG": good[: len(good) // 2],
            "train/a/empty.JPEG": b"",
            "train/a/words.JPEG": b"404: not found",
        },
    )
    output = tmp_path / "out"
    with pytest.raises(DataError, match="3 of 20 images"):
        build(source, output, (32,), shards=2, max_rejected=0.1)
    with pytest.raises(DataError, match="did not end"):
        shard_files(output, "32", "train")

    manifests = build(source, output, (32,), shards=2, max_rejected=0.15)
    assert manifests[32].splits["train"].images == 17
    assert count_images(shard_files(output, "32", "train"), None) == 17
    with open(output / "rejected.csv", newline="") as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {f"train/a/{name}.JPEG" for name in ("cut", "empty", "words")}
    assert "truncated" in reasons["train/a/cut.JPEG"]
    assert reasons["train/a/empty.JPEG"] == "empty file"
    assert reasons["train/a/words.JPEG"].startswith("not an image")


def test_an_empty_class_keeps_its_label(tmp_path, caplog):
    source = write_tree(tmp_path / "source", {"train/c/1.JPEG": photograph(1)})
    (source / "train" / "b").mkdir()
    output = tmp_path / "out"
    manifests = build(source, output, (32,))
    assert manifests[32].classes == ("b", "c")
    assert [int(record["image/class/label"]) for record in read(output, 32, "train")] == [2]
    assert any("'b'" in m or "/b'" in m for m in caplog.messages)
    assert any("no folder 'val'" in m for m in caplog.messages)


def _no_source(path):
    return {"source": path / "nowhere"}


def _no_train(path):
    write_tree(path / "other", {"val/a/1.JPEG": photograph(1)})
    return {"source": path / "other"}


def _no_classes(path):
    write_tree(path / "other", {"train/1.JPEG": photograph(1)})
    return {"source": path / "other"}


def _no_images(path):
    (path / "other/train/a").mkdir(parents=True)
    return {"source": path / "other"}


def _new_class_in_val(path):
    image = photograph(1)
    write_tree(path / "other", {"train/a/1.JPEG": image, "val/b/1.JPEG": image})
    return {"source": path / "other"}


def _val_twice(path):
    image = photograph(1)
    names = ("train/a/1.JPEG", "val/a/1.JPEG", "validation/a/1.JPEG")
    write_tree(path / "other", dict.fromkeys(names, image))
    return {"source": path / "other"}


def _names_of_other_classes(path):
    (path / "names.txt").write_text("n99\tother\n")
    return {"class_names": path / "names.txt"}


def _output_is_a_file(path):
    (path / "file").touch()
    return {"output": path / "file"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (_no_source, ["nowhere", "no such folder"]),
        (_no_train, ["other", "'train'"]),
        (_no_classes, ["train", "no class folders"]),
        (_no_images, ["train", "no images"]),
        (_new_class_in_val, ["val", "1 class", "b"]),
        (_val_twice, ["'val' and 'validation'"]),
        (_names_of_other_classes, ["names.txt", "n01"]),
        (_output_is_a_file, ["file", "cannot be written"]),
        (lambda path: {"class_names": path / "none"}, ["none", "No such file"]),
        (lambda path: {"sizes": "160,big"}, ["--sizes", "160,big"]),
        (lambda path: {"sizes": "160,160"}, ["--sizes", "160,160"]),
        (lambda path: {"sizes": "0"}, ["--sizes", "0"]),
        (lambda path: {"quality": 101}, ["--quality", "101"]),
        (lambda path: {"processes": 0}, ["--processes", "0"]),
        (lambda path: {"max_rejected": 5}, ["--max_rejected", "5"]),
        (lambda path: {"shards": 61}, ["--shards", "61", "60"]),
        (lambda path: {"validation_shards": 0}, ["--validation_shards", "12"]),
    ],
)
def test_mistakes_end_with_status_2_and_leave_nothing(tree, tmp_path, arguments, words):
    settings = {"source": tree, "output": tmp_path / "out", "sizes": "24"} | arguments(tmp_path)
    result = CliRunner().invoke(main, [f"--{key}={value}" for key, value in settings.items()])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") <= 2
    assert all(word in result.stderr for word in words), result.stderr
    assert not list(tmp_path.rglob("train-*"))
    assert not (tmp_path / "out").exists()


def test_the_output_may_not_be_in_the_source(tmp_path):
    source = write_tree(tmp_path, {"train/a/1.JPEG": photograph(1)})
    with pytest.raises(DataError, match="inside the source"):
        build(source, source / "train" / "out", (24,))


def test_the_command_ends_with_a_table(tree, tmp_path):
    arguments = ["--source", tree, "--output", tmp_path / "out", "--sizes", "24", "--processes", 1]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    rows = [line.split()[:4] for line in result.stdout.splitlines()]
    assert rows == [
        ["size", "split", "images", "shards"],
        ["24", "train", "60", "8"],
        ["24", "validation", "12", "1"],
    ]


@pytest.mark.skipif(
    not (SHARED / "imagenet-sample.tar.gz").exists(),
    reason="needs ../shared/data/imagenet-sample.tar.gz",
)
def test_real_photographs_are_read_by_tensorflow(tmp_path):
    import tarfile

    tf = pytest.importorskip("tensorflow")
    with tarfile.open(SHARED / "imagenet-sample.tar.gz") as archive:
        members = (member for member in archive if member.isfile())
        for member in [next(members) for _ in range(6)]:
            target = tmp_path / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
    build(tmp_path / "imagenet-sample", tmp_path / "out", (160, 320))
    for size in (160, 320):
        records = read(tmp_path / "out", size, "train")
        shapes = [tf.io.decode_jpeg(record["image/encoded"]).shape for record in records]
        assert len(shapes) == 6
        assert all(min(shape[:2]) <= size and shape[2] == 3 for shape in shapes)
        assert sum(min(shape[:2]) == size for shape in shapes) >= 4
