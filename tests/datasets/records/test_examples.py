import subprocess
import sys

import pytest

from datasets.records.examples import make_example
from datasets.records.frames import frame


def test_a_frame_of_known_bytes():
    # tf.io.TFRecordWriter's file for the single record b"phases".
    assert frame(b"phases").hex() == "06000000000000007369d53770686173657397999fb4"


@pytest.mark.parametrize("length", [0, 1, 3, 4, 255, 256, 257, 512, 70001])
def test_tensorflow_writes_the_same_file(tmp_path, length):
    tf = pytest.importorskip("tensorflow")
    data = bytes(index * index % 251 for index in range(length))
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        writer.write(data)
    assert frame(data) == (tmp_path / "theirs").read_bytes()


def test_an_example_holds_the_classic_keys():
    tf = pytest.importorskip("tensorflow")
    serialized = make_example(
        b"\xff\xd8 a JPEG" * 100,
        height=160,
        width=213,
        label=1000,
        synset="n15075141",
        text="toilet tissue, papier hygiénique",
        filename=b"n15075141_7.JPEG",
    )
    feature = tf.train.Example.FromString(serialized).features.feature
    received = {
        key: list(getattr(value, value.WhichOneof("kind")).value) for key, value in feature.items()
    }
    assert received == {
        "image/encoded": [b"\xff\xd8 a JPEG" * 100],
        "image/height": [160],
        "image/width": [213],
        "image/colorspace": [b"RGB"],
        "image/channels": [3],
        "image/format": [b"JPEG"],
        "image/class/label": [1000],
        "image/class/synset": [b"n15075141"],
        "image/class/text": ["toilet tissue, papier hygiénique".encode()],
        "image/object/bbox/xmin": [],
        "image/object/bbox/xmax": [],
        "image/object/bbox/ymin": [],
        "image/object/bbox/ymax": [],
        "image/object/bbox/label": [],
        "image/filename": [b"n15075141_7.JPEG"],
    }
    kinds = {key: value.WhichOneof("kind") for key, value in feature.items()}
    assert kinds["image/object/bbox/xmin"] == "float_list"
    assert kinds["image/object/bbox/label"] == "int64_list"


def test_bounding_boxes_are_read_by_tensorflow():
    tf = pytest.importorskip("tensorflow")
    boxes = [(0.25, 0.125, 0.75, 0.5), (0.0, 0.5, 1.0, 1.0)]
    data = make_example(b"", height=1, width=1, label=7, synset="n01", boxes=boxes)
    feature = tf.train.Example.FromString(data).features.feature
    for name, values in zip(
        ("xmin", "ymin", "xmax", "ymax"), list(zip(*boxes, strict=True)), strict=True
    ):
        assert feature[f"image/object/bbox/{name}"].float_list.value == list(values)
    assert feature["image/object/bbox/label"].int64_list.value == [7, 7]


def test_writing_needs_no_tensorflow():
    code = "import sys, datasets.build_imagenet_data; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
