"""The validation set as batches, against what was written into the records."""

import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.settings import Evaluation
from datasets.input.fused_jpeg import EXACT
from datasets.input.validation import (
    ASPECTS,
    centre_crops,
    centre_windows,
    crop_shapes,
    evaluation_crop,
    evaluation_pipeline,
)
from datasets.records.examples import make_example
from datasets.records.schema import Records
from tests.datasets.input import test_fused_jpeg as kinds

SIZE = 16
# Width and height of photographs as a resize to short side 20 leaves them.
PHOTOGRAPHS = [(20, 20), (27, 20), (20, 27), (30, 20), (20, 30), (60, 20), (22, 20)]


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def image(number, width=20, height=20):
    """A grey image of the value `number`."""
    return jpeg(np.full((height, width, 3), number, "uint8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image i of 77 is grey of value i, of label i % 5, and of one of seven shapes."""
    folder = tmp_path_factory.mktemp("validation")
    paths = [folder / f"validation-{i:05d}-of-00002" for i in range(2)]
    for path, numbers in zip(paths, (range(40), range(40, 77)), strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in numbers:
                width, height = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
                encoded, label = image(number, width, height), number % 5 + 1
                writer.write(
                    make_example(encoded, height=height, width=width, label=label, synset="")
                )
    return paths


# Photographs of 213 x 160 pixels, of every coding; one with restart markers, as in built records.
KINDS = kinds.KINDS | {
    "CMYK": kinds.jpeg(kinds.photograph(213, 160, "CMYK")),
    "marked": kinds.jpeg(kinds.photograph(213, 160), restart_marker_blocks=1, optimize=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [(16, 31, 128, 150), (30, 32, 100, 149)])
def test_a_crop_of_the_stored_resolution_is_an_exact_decode(ops, kind, window):
    """To the bit that of TensorFlow; and libjpeg's of the whole image, as Pillow has it.

    At the edge of a part, no reader has the colours beside it to smooth them.
    """
    top, left, height, width = window
    (found,) = centre_crops(tf.constant([KINDS[kind]]), height, width).numpy()
    expected = tf.image.decode_and_crop_jpeg(KINDS[kind], window, channels=3, **EXACT)
    np.testing.assert_array_equal(found, expected)
    if kind != "CMYK":  # Pillow has other colours there
        image = Image.open(io.BytesIO(KINDS[kind])).convert("RGB")
        whole = np.asarray(image)[top : top + height, left : left + width]
        np.testing.assert_array_equal(found[2:-2, 2:-2], whole[2:-2, 2:-2])


@pytest.mark.parametrize(
    ("shape", "crop", "resized", "corner"),
    [
        # By hand: the scale is the larger of crop / shape.
        ((60, 90), (120, 120), (120, 180), (0, 30)),
        ((100, 200), (288, 576), (288, 576), (0, 0)),
        ((33, 50), (64, 48), (64, 97), (0, 24)),  # 64 / 33 of 50 is 96.97
        ((20, 27), (16, 32), (24, 32), (4, 0)),  # 32 / 27 of 20 is 23.7
        ((7, 100), (8, 8), (8, 114), (0, 53)),
        ((16, 33), (16, 33), (0, 0), (0, 0)),  # just large enough
        ((160, 213), (128, 150), (0, 0), (16, 31)),
    ],
)
def test_an_image_that_is_too_small_is_enlarged_for_its_centre(ops, shape, crop, resized, corner):
    (window,) = centre_windows(tf.constant([shape]), tf.constant(crop)).numpy().tolist()
    assert window == [*corner, *crop, 0, *resized]
    encoded = kinds.jpeg(kinds.photograph(*shape[::-1]), subsampling=0)
    (found,) = centre_crops(tf.constant([encoded]), *crop).numpy()
    image = tf.io.decode_jpeg(encoded, channels=3, **EXACT)
    whole = np.rint(tf.image.resize(image, resized if any(resized) else shape))
    (top, left), (height, width) = corner, crop
    assert np.abs(found - whole[top : top + height, left : left + width]).max() <= 1


def written(path, jpegs):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for encoded in jpegs:
            writer.write(make_example(encoded, height=1, width=1, label=1, synset=""))
    return Records((path,), len(jpegs))


@pytest.mark.parametrize("rectangular", [False, True])
def test_a_batch_holds_the_crops_of_its_images(ops, tmp_path, rectangular):
    """Of every coding, large and small, decoded together: each is that of the image alone."""
    small = [kinds.jpeg(kinds.photograph(*sides)) for sides in ((50, 40), (90, 41), (31, 77))]
    jpegs = [*KINDS.values(), *small]
    records = written(tmp_path / "validation-00000-of-00001", jpegs)
    settings = Evaluation(image_size=144, batch_size=4, rectangular=rectangular)
    seen = []
    for images, labels, places, _ in evaluation_pipeline(records, settings, 5, placed=True):
        assert len(labels) == 4
        assert not images[len(places) :].numpy().any()
        for image, place in zip(images.numpy(), places.numpy(), strict=False):
            np.testing.assert_array_equal(image, evaluation_crop(jpegs[place], settings))
            seen.append(place)
    assert sorted(seen) == list(range(len(jpegs)))


@pytest.mark.parametrize(
    ("damage", "rectangular"), [("cut short", False), ("cut short", True), ("PNG", True)]
)
def test_a_record_that_does_not_decode_ends_the_evaluation(ops, tmp_path, damage, rectangular):
    good, buffer = KINDS["4:2:0"], io.BytesIO()
    kinds.photograph(213, 160).save(buffer, "PNG")
    bad = {"cut short": good[:2000], "PNG": buffer.getvalue()}[damage]
    records = written(tmp_path / "validation-00000-of-00001", [good, bad])
    settings = Evaluation(image_size=144, batch_size=2, rectangular=rectangular)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(evaluation_pipeline(records, settings, 5))


def evaluate(files, share=0, shares=1, **settings):
    chosen = Evaluation(image_size=SIZE, **settings)
    return list(evaluation_pipeline(Records(tuple(files), 77), chosen, 5, share, shares))


def numbers(found):
    """The images that count, by their grey."""
    return [
        int(value)
        for images, labels in found
        for value, label in zip(images[:, 8, 8, 0].numpy(), labels.numpy(), strict=True)
        if label >= 0
    ]


@pytest.mark.parametrize(
    ("batch_size", "rectangular"), [(7, False), (77, False), (100, False), (7, True), (16, True)]
)
def test_every_image_counts_once_and_every_batch_is_whole(files, batch_size, rectangular):
    found = evaluate(files, batch_size=batch_size, rectangular=rectangular)
    assert {len(labels) for _, labels in found} == {batch_size}
    assert sorted(numbers(found)) == list(range(77))
    for images, labels in found:
        assert images.dtype == tf.uint8
        own = labels.numpy() >= 0
        np.testing.assert_array_equal(images[:, 8, 8, 0].numpy()[own] % 5, labels.numpy()[own])


def test_square_crops_come_in_the_files_order(files):
    found = evaluate(files, batch_size=16)
    assert numbers(found) == list(range(77))
    assert {images.shape[1:3] for images, _ in found} == {(SIZE, SIZE)}


@pytest.mark.parametrize(("shares", "rectangular"), [(2, False), (5, False), (3, True)])
def test_shares_are_disjoint_and_together_everything(files, shares, rectangular):
    settings = {"batch_size": 10, "rectangular": rectangular}
    found = [numbers(evaluate(files, share, shares, **settings)) for share in range(shares)]
    assert sorted(itertools.chain(*found)) == list(range(77))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("rectangular", [False, True])
def test_a_batch_says_which_images_it_holds(files, rectangular):
    """The number of an image is its grey; those that fill up a batch have none."""
    chosen = Evaluation(image_size=SIZE, rectangular=rectangular, batch_size=10)
    records = Records(tuple(files), 77)
    found = list(evaluation_pipeline(records, chosen, 5, share=1, shares=3, placed=True))
    for images, labels, places, names in found:
        assert numbers([(images, labels)]) == places.numpy().tolist()
        assert len(names) == len(places)
    everything = np.concatenate([places for _, _, places, _ in found])
    assert sorted(everything.tolist()) == list(range(1, 77, 3))


def test_files_that_hold_another_number_of_images_are_not_evaluated_in_silence(files):
    with pytest.raises(tf.errors.FailedPreconditionError, match="only 40 elements"):
        evaluate(files[:1], batch_size=10)


def test_rectangular_batches_are_of_like_aspect(files):
    found = evaluate(files, batch_size=4, rectangular=True)
    # Short side 16; 4/3 of it is 21, 3/2 is 24, 2 is 32: in steps of 8.
    by_shape = {}
    for images, labels in found:
        own = [n % len(PHOTOGRAPHS) for n in numbers([(images, labels)])]
        by_shape.setdefault(tuple(images.shape[1:3]), set()).update(own)
    assert by_shape == {(16, 16): {0, 1, 2, 6}, (16, 24): {3}, (24, 16): {4}, (16, 32): {5}}


def test_crop_shapes_of_imagenet():
    square, *others = crop_shapes(288)
    assert square == (288, 288)
    assert others[::2] == [(288, 360), (288, 384), (288, 432), (288, 512), (288, 576)]
    assert others[1::2] == [(width, height) for height, width in others[::2]]


@pytest.mark.parametrize(
    ("width", "height", "crop"),
    [
        (427, 320, (288, 384)),  # 4:3, a photograph's usual shape
        (426, 320, (288, 384)),  # the same, cut down to whole pixels
        (320, 480, (432, 288)),
        (569, 320, (288, 512)),
        (350, 320, (288, 288)),
        (1000, 320, (288, 576)),
        (200, 100, (288, 576)),  # too small: enlarged
    ],
)
def test_a_rectangular_crop_is_the_centre_of_the_nearest_shape(ops, width, height, crop):
    rows = np.linspace(0, 250, height)[:, None] * np.ones((1, width))
    columns = np.linspace(0, 250, width)[None] * np.ones((height, 1))
    pixels = np.stack([rows, columns, rows], axis=2).astype("uint8")
    found = evaluation_crop(jpeg(pixels), Evaluation(image_size=288, rectangular=True)).numpy()
    assert found.shape == (*crop, 3)
    # The middle stays in the middle, and both edges are as far from it.
    middle = found[crop[0] // 2, crop[1] // 2].astype(int)
    assert middle[:2] == pytest.approx([125, 125], abs=4)
    for one, other in ((found[0], found[-1]), (found[:, 0], found[:, -1])):
        total = one.astype(float).mean(axis=0) + other.astype(float).mean(axis=0)
        assert total[:2] == pytest.approx([250, 250], abs=6)


def test_the_aspects_are_in_order_from_the_square():
    assert list(ASPECTS) == sorted(ASPECTS)
    assert ASPECTS[0] == 1
