"""Each fault is put into sound records from outside and has to be found, alone."""

import hashlib
import io
import json
import shutil
import struct

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from datasets.verify import main, verify
from tests.datasets.samples import build

tf = pytest.importorskip("tensorflow")

CLASSES = ("n01", "n02", "n03")
TRAIN, VALIDATION = "train-00001-of-00003", "validation-00000-of-00002"


def photograph(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Records of three classes, 10 training and 4 validation images each, in two sizes."""
    tree = tmp_path_factory.mktemp("tree")
    for number in range(42):
        split = "train" if number < 30 else "val"
        folder = tree / split / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.JPEG").write_bytes(photograph(number))
    root = tmp_path_factory.mktemp("sound")
    build(tree, root, (24, 48), shards=3, validation_shards=2, processes=1, progress=False)
    return root


@pytest.fixture
def data(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "data")


def check(root, **options):
    return verify(root, processes=1, progress=False, **options)


def read(path):
    return [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(path))]


def write(path, examples):
    """Writes a shard anew, and its own line of the manifest, so that one fault is left."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    manifest = json.loads((path.parent / "manifest.json").read_text())
    data = path.read_bytes()
    split = manifest["splits"][path.name.split("-")[0]]
    split["images"] += len(examples) - split["shards"][path.name]["images"]
    split["shards"][path.name] = {
        "images": len(examples),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def value(example, key):
    feature = example.features.feature[key]
    return getattr(feature, feature.WhichOneof("kind")).value


def change(path, record, **values):
    """Sets values of one record; `__` stands for `/`."""
    examples = read(path)
    for key, new in values.items():
        value(examples[record], key.replace("__", "/"))[:] = [new]
    write(path, examples)


def test_sound_records_have_no_fault(data):
    found = check(data)
    assert (found.findings, found.notes, found.counts) == ([], [], {})
    held = [(s.folder, s.prefix, s.shards, s.images, s.labels) for s in found.splits]
    assert held == [
        (str(data / size), prefix, shards, images, (1, 3))
        for size in ("24", "48")
        for prefix, shards, images in (("train", 3, 30), ("validation", 2, 12))
    ]
    assert found.images == 84
    assert check(data / "48").images == 42


FAULTS = []


def fault(function):
    """A fault to put into a folder, with the kind, file, record and words of its finding."""
    FAULTS.append(function)
    return function


@fault
def flip_a_byte(folder):
    data = bytearray((folder / TRAIN).read_bytes())
    length = struct.unpack_from("<Q", data)[0]
    data[12 + length + 4 + 12 + 300] ^= 1  # inside the second record
    (folder / TRAIN).write_bytes(data)
    return "checksum", TRAIN, 1, "checksum of its data is wrong"


@fault
def flip_a_length(folder):
    data = bytearray((folder / TRAIN).read_bytes())
    data[12 + struct.unpack_from("<Q", data)[0] + 4] ^= 1
    (folder / TRAIN).write_bytes(data)
    return "checksum", TRAIN, 1, "9 of 10 records are lost"


@fault
def truncate(folder):
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[:-7])
    return "truncated", TRAIN, 9, "7 bytes early; 1 of 10 records are lost"


@fault
def truncate_between_records(folder):
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[: 12 + struct.unpack_from("<Q", data)[0] + 4])
    return "count", TRAIN, None, "1 records, the manifest says 10"


@fault
def empty(folder):
    (folder / TRAIN).write_bytes(b"")
    return "truncated", TRAIN, None, "empty"


@fault
def remove(folder):
    (folder / TRAIN).unlink()
    return "missing", TRAIN, None, "the manifest lists it"


@fault
def remove_without_manifest(folder):
    (folder / TRAIN).unlink()
    (folder / "manifest.json").unlink()
    return "missing", "", None, "1 of the 3 'train-*' files are missing, the first is number 00001"


@fault
def label_too_high(folder):
    change(folder / TRAIN, 4, image__class__label=4)
    return "label", TRAIN, 4, "label 4 is outside 1 to 3"


@fault
def label_too_low(folder):
    change(folder / VALIDATION, 2, image__class__label=0)
    return "label", VALIDATION, 2, "label 0 is outside 1 to 3"


@fault
def label_of_another_class(folder):
    label = value(read(folder / TRAIN)[4], "image/class/label")[0]
    change(folder / TRAIN, 4, image__class__label=label % 3 + 1)
    return "label", TRAIN, 4, f"label {label % 3 + 1} is '{CLASSES[label - 1]}' here"


@fault
def jpeg_cut_short(folder):
    jpeg = value(read(folder / TRAIN)[4], "image/encoded")[0]
    change(folder / TRAIN, 4, image__encoded=jpeg[: len(jpeg) // 2])
    return "image", TRAIN, 4, "truncated"


@fault
def no_image(folder):
    change(folder / TRAIN, 4, image__encoded=b"no image at all")
    return "image", TRAIN, 4, "cannot identify"


@fault
def a_png(folder):
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG")
    change(folder / TRAIN, 4, image__encoded=file.getvalue())
    return "image", TRAIN, 4, "PNG; the pipelines only read JPEGs"


@fault
def wrong_width(folder):
    change(folder / TRAIN, 4, image__width=65)
    return "schema", TRAIN, 4, "image/width is [65], but the image has 64 pixels"


@fault
def no_label(folder):
    examples = read(folder / TRAIN)
    del examples[4].features.feature["image/class/label"]
    write(folder / TRAIN, examples)
    return "schema", TRAIN, 4, "image/class/label"


@fault
def no_example(folder):
    """A sound frame around bytes that are no protobuf."""
    with tf.io.TFRecordWriter(str(folder / "own")) as writer:
        for number, example in enumerate(read(folder / TRAIN)):
            writer.write(b"\xff\xff\xff" if number == 4 else example.SerializeToString())
    (folder / "own").rename(folder / TRAIN)
    (folder / "manifest.json").unlink()
    return "schema", TRAIN, 4, "no tf.Example"


@fault
def same_bytes_in_both(folder):
    examples = read(folder / VALIDATION)
    twin = read(folder / TRAIN)[2]
    for key in ("image/encoded", "image/class/label", "image/class/synset"):
        value(examples[3], key)[:] = value(twin, key)
    write(folder / VALIDATION, examples)
    return "duplicate", VALIDATION, 3, f"the bytes of record 2 of {TRAIN}"


@fault
def same_pixels_in_both(folder):
    """The same JPEG but for a comment, which no decoder looks at."""
    same_bytes_in_both(folder)
    jpeg = value(read(folder / VALIDATION)[3], "image/encoded")[0]
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 5) + b"other"
    change(folder / VALIDATION, 3, image__encoded=jpeg[:2] + comment + jpeg[2:])
    return "duplicate", VALIDATION, 3, f"the pixels of record 2 of {TRAIN}"


@fault
def too_large(folder):
    examples = read(folder / TRAIN)
    value(examples[4], "image/encoded")[:] = [photograph(99)]
    value(examples[4], "image/width")[:], value(examples[4], "image/height")[:] = [96], [72]
    write(folder / TRAIN, examples)
    return "size", TRAIN, 4, "96 x 72 pixels, the short side should be 48"


@fault
def other_bytes_than_the_manifests(folder):
    """Sound in itself, but not what was built."""
    before = (folder / "manifest.json").read_bytes()
    name = value(read(folder / TRAIN)[4], "image/filename")[0]
    change(folder / TRAIN, 4, image__filename=bytes(reversed(name)))
    (folder / "manifest.json").write_bytes(before)
    return "manifest", TRAIN, None, "SHA-256"


@fault
def broken_manifest(folder):
    (folder / "manifest.json").write_text("{")
    return "manifest", "", None, "broken"


@fault
def unfinished(folder):
    (folder / ".unfinished").touch()
    return "missing", "", None, "did not end"


@fault
def unlisted(folder):
    (folder / "test-00000-of-00001").write_bytes(b"")
    with tf.io.TFRecordWriter(str(folder / "test-00000-of-00001")) as writer:
        example = read(folder / TRAIN)[0]
        value(example, "image/encoded")[:] = [_resized(photograph(100))]
        writer.write(example.SerializeToString())
    return "unlisted", "test-00000-of-00001", None, "does not list"


def _resized(jpeg):
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).resize((64, 48)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("put", FAULTS, ids=lambda put: put.__name__)
def test_each_fault_is_found(data, put):
    kind, name, record, words = put(data / "48")
    (finding,) = check(data).findings
    path = data / "48" / name if name else data / "48"
    assert (finding.kind, finding.file, finding.record) == (kind, str(path), record)
    assert words in finding.detail


def test_a_label_out_of_range_without_a_manifest(data):
    """The range of labels is then told, or else taken from the labels and said so."""
    change(data / "48" / TRAIN, 4, image__class__label=9)
    (data / "48" / "manifest.json").unlink()
    found = check(data / "48", classes=3, label_offset=1)
    assert [(f.kind, f.record) for f in found.findings] == [("label", 4)]
    assert "labels from 1 as given" in found.notes[0]
    found = check(data / "48")
    assert not found.findings
    assert "9 classes with labels from 1 by the labels themselves" in found.notes[0]
    assert "5 of 9 classes have no image in 'train'" in " ".join(found.notes)


def test_many_faults_are_counted_and_few_are_told(data):
    for name in ("train-00000-of-00003", TRAIN, "train-00002-of-00003"):
        examples = read(data / "24" / name)
        for example in examples:
            value(example, "image/class/label")[:] = [77]
        write(data / "24" / name, examples)
    assert check(data).counts == {"label": 30}


@pytest.mark.parametrize("schema", ["classic", "tfds"])
def test_foreign_records(tmp_path, schema):
    from tests.foreign import write_classic, write_tfds, write_tfds_notes

    own = {"classic": write_classic, "tfds": write_tfds}[schema]
    images = [(photograph(n), n % 4, f"{n}.JPEG") for n in range(24)]
    own(tmp_path, "train", images[:16])
    paths = own(tmp_path, "validation", images[16:])
    found = check(tmp_path)
    assert not found.findings
    first = 1 if schema == "classic" else 0
    assert [(s.prefix, s.images, s.labels) for s in found.splits] == [
        ("train", 16, (first, first + 3)),
        ("validation", 8, (first, first + 3)),
    ]
    assert "no manifest; 4 classes" in found.notes[0]
    own(tmp_path, "validation", [*images[16:], images[5]])
    assert [f.kind for f in check(tmp_path).findings] == ["duplicate"]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    assert [f.kind for f in check(tmp_path).findings] == ["truncated"]
    if schema == "tfds":
        own(tmp_path, "validation", images[16:])
        write_tfds_notes(tmp_path, 3, {"train": [8, 8], "validation": [4, 5]})
        kinds = [(f.kind, f.detail[:20]) for f in check(tmp_path).findings]
        assert kinds.count(("label", "label 3 is outside 0")) == 6
        assert [kind for kind, _ in kinds if kind != "label"] == ["count"]


def test_several_processes_find_the_same(data):
    same_bytes_in_both(data / "48")
    truncate(data / "24")
    found = verify(data, processes=2, progress=False)
    assert found.processes == 2
    assert found.findings == check(data).findings


def test_the_command_line(data, run_process, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, [*map(str, arguments)])

    picture = tmp_path / "new" / "picture.png"
    ran = run_process("-m", "datasets.verify", data, "--processes", 1, "--picture", picture)
    assert ran.returncode == 0, ran.stderr
    assert "84 records in" in ran.stdout
    assert "nothing is wrong" in ran.stdout
    with Image.open(picture) as image:
        assert min(image.size) > 300
    flip_a_byte(data / "24")
    ran = run(data, "--json", "--no_picture", "--processes", 1)
    assert ran.exit_code == 1
    (finding,) = json.loads(ran.stdout)["findings"]
    assert finding == {
        "kind": "checksum",
        "file": str(data / "24" / TRAIN),
        "record": 1,
        "detail": "the checksum of its data is wrong",
    }
    for wrong, words in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "new", "no records"),
    ):
        ran = run(wrong)
        assert ran.exit_code == 2
        assert ran.stderr.startswith("error: ")
        assert words in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


def test_it_needs_no_tensorflow(run_process):
    modules = "datasets.verify, datasets.check.contact_sheet, training.inputs"
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert run_process("-c", code).returncode == 0
