"""The official archives, made small: names, nesting and the devkit's table are theirs."""

import io
import shutil

import numpy as np
import pytest

from core.errors import DataError
from tests.datasets.build.sources.test_boxes import XML
from tests.datasets.build.sources.test_tar import tar_bytes
from tests.datasets.samples import (
    build,
    file_bytes,
    find_source,
    photograph,
    read,
    snapshot,
    write_tree,
)

# ILSVRC2012_ID goes by another order than the wnids; 4 is an inner node of the tree.
IDS = {1: "n03", 2: "n01", 3: "n02", 4: "n00"}
WORDS = {"n00": "entity", "n01": "tench, Tinca tinca", "n02": "goldfish", "n03": "café"}
TRUTH = [3, 1, 2, 1, 3, 2]  # n02 n03 n01 n03 n02 n01


def meta_mat() -> bytes:
    io_module = pytest.importorskip("scipy.io")
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    synsets = np.zeros((len(IDS), 1), [(name, object) for name in fields])
    for row, (number, wnid) in enumerate(IDS.items()):
        leaf = wnid != "n00"
        children = np.zeros(0) if leaf else np.array([1.0, 2.0, 3.0])
        synsets[row, 0] = (float(number), wnid, WORDS[wnid], "a gloss", float(not leaf), children)
    file = io.BytesIO()
    io_module.savemat(file, {"synsets": synsets})
    return file.getvalue()


def train_files() -> dict[str, bytes]:
    return {
        f"{wnid}/{wnid}_{number}.JPEG": file_bytes(photograph(10 * int(wnid[1:]) + number))
        for wnid in ("n01", "n02", "n03")
        for number in range(4)
    }


def validation_files() -> dict[str, bytes]:
    return {
        f"ILSVRC2012_val_{number:08d}.JPEG": file_bytes(photograph(100 + number))
        for number in range(1, len(TRUTH) + 1)
    }


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    root = tmp_path_factory.mktemp("official")
    classes: dict[str, dict[str, bytes]] = {}
    for name, data in train_files().items():
        classes.setdefault(name[:3], {})[name[4:]] = data
    tars = {f"{wnid}.tar": tar_bytes(files) for wnid, files in reversed(classes.items())}
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tars))
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(validation_files()))
    kit = {
        "ILSVRC2012_devkit_t12/readme.txt": b"about",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{number}\n" for number in TRUTH
        ).encode(),
    }
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_bytes(kit, mode="w:gz"))
    (root / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(
        tar_bytes({"./n02/n02_2.xml": XML.encode()}, mode="w:gz")
    )
    (root / "ILSVRC2012_bbox_val_v3.tgz").write_bytes(
        tar_bytes({"val/ILSVRC2012_val_00000001.xml": XML.encode()}, mode="w:gz")
    )
    return root


def test_archives_become_records(official, tmp_path):
    before = {path: path.read_bytes() for path in official.iterdir()}
    build(official, tmp_path / "out", (32,), processes=2, shards=3)
    assert {path: path.read_bytes() for path in official.iterdir()} == before
    train = read(tmp_path / "out", 32, "train")
    found = {r["image/filename"].numpy().decode(): r for r in train}
    assert found.keys() == {name[4:] for name in train_files()}
    # Labels are places among the sorted wnids, from 1; not the devkit's numbers.
    for name, record in found.items():
        assert record["image/class/label"] == int(name[2])
        assert record["image/class/synset"] == name[:3].encode()
        assert record["image/class/text"] == WORDS[name[:3]].encode()
    assert found["n02_2.JPEG"]["image/object/bbox/xmin"].values.numpy().tolist() == [0.25, 0]
    assert found["n02_1.JPEG"]["image/object/bbox/xmin"].values.numpy().tolist() == []
    validation = read(tmp_path / "out", 32, "validation")
    labels = {r["image/filename"].numpy().decode(): int(r["image/class/label"]) for r in validation}
    assert labels == {
        f"ILSVRC2012_val_{number:08d}.JPEG": label
        for number, label in enumerate([2, 3, 1, 3, 2, 1], 1)
    }
    boxes = {r["image/filename"].numpy(): r["image/object/bbox/xmin"].values for r in validation}
    assert len(boxes[b"ILSVRC2012_val_00000001.JPEG"]) == 2


def test_archives_give_the_bytes_of_the_unpacked_tree(official, tmp_path):
    wnids = [IDS[number] for number in TRUTH]
    tree = {f"train/{name}": data for name, data in train_files().items()} | {
        f"val/{wnid}/{name}": data
        for wnid, (name, data) in zip(wnids, validation_files().items(), strict=True)
    }
    source = write_tree(tmp_path / "tree", tree)
    (source / "words.txt").write_text("".join(f"{k}\t{v}\n" for k, v in WORDS.items()))
    archives = tmp_path / "archives"
    shutil.copytree(official, archives)
    for path in archives.glob("*bbox*"):
        path.unlink()
    for root, out in ((source, "a"), (archives, "b")):
        build(root, tmp_path / out, (16, 32))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_members_that_leave_the_archive_are_listed_and_not_read(official, tmp_path):
    import tarfile

    root = tmp_path / "set"
    root.mkdir()
    secret = tmp_path / "secret.JPEG"
    secret.write_bytes(file_bytes(photograph(5)))
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        for number in range(3):
            data = file_bytes(photograph(number))
            member = tarfile.TarInfo(f"n01_{number}.JPEG")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in (
            ("../../../n01_up.JPEG", tarfile.REGTYPE),
            ("/n01_root.JPEG", tarfile.REGTYPE),
            ("n01_link.JPEG", tarfile.SYMTYPE),
            ("n01_hard.JPEG", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes({"n01.tar": inner.getvalue()}))
    before = set(tmp_path.rglob("*"))
    build(root, tmp_path / "out", (32,), shards=1, max_rejected=0.6)
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert len(read(tmp_path / "out", 32, "train")) == 3
    listed = (tmp_path / "out" / "rejected.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[0].rsplit("/", 1)[1] for line in listed) == [
        f"n01_{name}.JPEG" for name in ("hard", "link", "root", "up")
    ]


def _without_devkit(root):
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()


def _one_image_less(root):
    files = dict(list(validation_files().items())[:-1])
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(files))


def _an_image_twice(root):
    name, data = next(iter(validation_files().items()))
    data = tar_bytes({name: data, f"again/{name}": data})
    (root / "ILSVRC2012_img_val.tar").write_bytes(data)


def _another_name(root):
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes({"cat.JPEG": b"cat"}))


def _cut_train(root):
    path = root / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:12000])


def _no_train(root):
    (root / "ILSVRC2012_img_train.tar").rename(root / "train.tar")


def _devkit(**files):
    def write(root):
        names = {"meta": "meta.mat", "truth": "ILSVRC2012_validation_ground_truth.txt"}
        kit = {f"ILSVRC2012_devkit_t12/data/{names[k]}": data for k, data in files.items()}
        (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_bytes(kit, mode="w:gz"))

    return write


def _cut_devkit(root):
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_devkit, "needs 'ILSVRC2012_devkit_t12.tar.gz' beside it"),
        (_one_image_less, "lists 1 file.*'ILSVRC2012_val_00000006.JPEG'"),
        (_an_image_twice, "holds 'ILSVRC2012_val_00000001.JPEG' twice"),
        (_another_name, "cat.JPEG' has no line in"),
        (_cut_train, "ILSVRC2012_img_train.tar.*cut short or damaged"),
        (_no_train, "no 'ILSVRC2012_img_train.tar'"),
        (_devkit(truth=b"1"), "has no 'data/meta.mat'"),
        (_devkit(meta=b"no matrix", truth=b"1"), "meta.mat' cannot be read"),
        (_devkit(meta=meta_mat(), truth=b"1 2 9"), "ILSVRC2012_ID 9"),
        (_devkit(meta=meta_mat(), truth=b"one"), "is not a list of numbers"),
        (_devkit(meta=meta_mat(), truth=b"4 4 4 4 4 4"), "1 class.*that train does not have: n00"),
        (_cut_devkit, "is not a whole tar archive"),
    ],
)
def test_refusals(official, tmp_path, change, words):
    root = tmp_path / "set"
    shutil.copytree(official, root)
    change(root)
    with pytest.raises(DataError, match=words) as raised:
        find_source(root, layout="archives")
    assert str(raised.value).count("\n") <= 1
