"""Augmentations eagerly and inside `dataset.map`, against NumPy, Pillow and the formula."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.stats import ks_2samp, kstest

from core.settings import Augmentation, ColourJitter
from datasets.input.augmentation import (
    alternating_flips,
    jitter,
    load,
    random_windows,
    shift_and_flip,
)


def jpeg(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **{"quality": 100, "subsampling": 0, **options})
    return buffer.getvalue()


@pytest.fixture(scope="module")
def gradient():
    """60 x 90: red counts the rows and green the columns."""
    rows, columns = np.mgrid[0:60, 0:90].astype("uint8")
    return np.stack([rows * 2, columns * 2, np.full_like(rows, 50)], axis=-1)


def mapped(function, *values):
    """The same op inside a graph of tf.data."""
    dataset = tf.data.Dataset.from_tensors(values).map(function)
    return next(iter(dataset)).numpy()


def crop_of_torchvision(height, width, area, aspect, rng):
    """`RandomResizedCrop.get_params` as torchvision documents it, in NumPy."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < aspect[0]:
        w, h = width, round(width / aspect[0])
    elif width / height > aspect[1]:
        w, h = round(height * aspect[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "area"),
    [
        (160, 213, (0.08, 1.0)),
        (160, 213, (0.25, 1.0)),
        (320, 240, (0.08, 1.0)),
        (100, 400, (0.08, 1.0)),
        (33, 32, (0.9, 1.0)),
    ],
)
def test_random_crops_are_torchvisions(height, width, area):
    """Area, aspect and place of 20,000 crops have its distribution (Kolmogorov-Smirnov)."""
    aspect, count = (3 / 4, 4 / 3), 20000
    sizes = tf.constant([[height, width]] * count)
    found = random_windows(sizes, (1, 2), area, aspect).numpy().astype(float)
    rng = np.random.default_rng(3)
    expected = np.array(
        [crop_of_torchvision(height, width, area, aspect, rng) for _ in range(count)]
    )

    def features(windows):
        top, left, h, w = windows[:, :4].T
        return {
            "area": h * w,
            "aspect": w / h,
            "top": (top + 0.5) / (height - h + 1),
            "left": (left + 0.5) / (width - w + 1),
        }

    theirs = features(expected)
    for name, values in features(found).items():
        p = ks_2samp(values, theirs[name]).pvalue
        assert p > 1e-3, f"{name}: p = {p}"
    assert found[:, 4].mean() == pytest.approx(0.5, abs=0.02)


def test_the_areas_of_crops_are_uniform():
    """Of an image so large that nothing is rounded or refused: the formula itself."""
    sizes = tf.constant([[10000, 10000]] * 20000)
    # At most half of the area and no odd shape, so that every first draw fits.
    windows = random_windows(sizes, (0, 77), (0.1, 0.5), (3 / 4, 4 / 3)).numpy().astype(float)
    top, left, height, width, _ = windows.T
    assert kstest(height * width / 1e8, "uniform", (0.1, 0.4)).pvalue > 1e-3
    span = (np.log(3 / 4), 2 * np.log(4 / 3))
    assert kstest(np.log(width / height), "uniform", span).pvalue > 1e-3
    assert kstest(top / (10000 - height), "uniform").pvalue > 1e-3
    assert kstest(left / (10000 - width), "uniform").pvalue > 1e-3


def test_an_image_that_no_crop_fits_gives_its_centre():
    sizes = tf.constant([[10, 1000], [1000, 10]])
    found = random_windows(sizes, (1, 2), (0.9, 1.0), (3 / 4, 4 / 3), flip=False).numpy()
    # 10 * 4 / 3 is 13 pixels, in the middle of 1000.
    assert found.tolist() == [[0, 493, 10, 13, 0], [493, 0, 13, 10, 0]]


def test_the_same_seed_gives_the_same_batch_eagerly_and_mapped(gradient):
    encoded = tf.constant([jpeg(gradient)] * 3)
    settings = Augmentation(crop="random_resized")
    one = load(encoded, (3, 4), 24, 32, settings).numpy()
    other = mapped(lambda x: load(x, (3, 4), 24, 32, settings), encoded)
    np.testing.assert_array_equal(one, other)
    assert (load(encoded, (3, 5), 24, 32, settings).numpy() != one).any()
    assert (one[0] != one[1]).any()  # each image of a batch has draws of its own


def reachable(image, padding, fill):
    """All crops of a padded image, and their mirror images, by NumPy."""
    height, width, _ = image.shape
    p, q = round(height * padding), round(width * padding)
    padded = np.pad(image, [(p, p), (q, q), (0, 0)], mode=fill)
    crops = [
        padded[y : y + height, x : x + width] for y in range(2 * p + 1) for x in range(2 * q + 1)
    ]
    return {c.tobytes() for c in crops}, {c[:, ::-1].tobytes() for c in crops}


@pytest.mark.parametrize("fill", ["reflect", "constant"])
def test_shifts_and_flips_are_numpys(fill):
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype("uint8")
    batch = np.repeat(image[None], 400, axis=0)
    settings = Augmentation(crop="pad", padding=0.25, fill=fill)
    found = shift_and_flip(tf.constant(batch), (5, 6), settings).numpy()
    straight, mirrored = reachable(image, 0.25, fill)
    seen = [f.tobytes() for f in found]
    assert set(seen) <= straight | mirrored
    flipped = sum(s in mirrored for s in seen)
    assert 150 < flipped < 250
    # 5 x 7 places, straight or not: 400 draws reach nearly all of the 70.
    assert len(set(seen)) > 60


def test_nothing_is_flipped_where_the_recipe_says_so():
    image = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype("uint8")
    pad = Augmentation(crop="pad", padding=0.0, flip=False)
    none = Augmentation(crop="none", flip=False)
    for settings in (pad, none):
        np.testing.assert_array_equal(shift_and_flip(tf.constant(image), (1, 2), settings), image)


@pytest.mark.parametrize("exact", [True, False])
def test_an_exact_decode_gives_the_pixels_of_the_evaluation(exact):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    encoded = jpeg(noise, quality=75, subsampling=2)
    settings = Augmentation(crop="none", flip=False, exact_decode=exact)
    found = load(tf.constant([encoded]), (1, 2), 32, 32, settings).numpy()[0]
    expected = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy()
    difference = np.abs(found.astype(int) - expected).max()
    assert difference <= 1 if exact else difference > 10


def test_alternating_flips_know_an_image_by_class_and_name():
    """The name without folder and extension; without a name, the bytes of the JPEG."""
    count = 2000

    def first(name, jpeg=b"", label=0, seed=1):
        names = [name.format(i) for i in range(count)]
        jpegs = [jpeg + str(i).encode() for i in range(count)]
        return alternating_flips(jpegs, tf.fill([count], label), names, seed, 0).numpy()

    def agreement(one, other):
        return (one == other).mean()

    plain = first("{}.jpg")
    half = pytest.approx(0.5, abs=0.05)  # 4.5 standard deviations
    assert plain.mean() == half
    for same in (first("{}.JPEG"), first("train/cat/{}.jpg"), first("{}.jpg", b"other")):
        np.testing.assert_array_equal(same, plain)
    unnamed = first("")
    others = [first("{}x.jpg"), first("{}.jpg", label=1), first("{}.jpg", seed=2), unnamed]
    assert [agreement(plain, other) for other in others] == [half] * 4
    assert agreement(unnamed, first("", b"other")) == half
    np.testing.assert_array_equal(unnamed, first(""))


def test_only_a_recipe_that_asks_for_colour_loads_addons(run_process):
    code = (
        "import sys, tensorflow as tf\n"
        "from datasets.input.augmentation import load\n"
        "from core.settings import Augmentation\n"
        "jpeg = tf.io.encode_jpeg(tf.constant([[[200, 100, 50]] * 40] * 40, tf.uint8))\n"
        "load(jpeg[None], (1, 2), 32, 32, Augmentation())\n"
        "assert 'tensorflow_addons' not in sys.modules\n"
        "colour = Augmentation(colour={})\n"
        "dataset = tf.data.Dataset.from_tensors(jpeg).repeat(8).batch(4, drop_remainder=True)\n"
        "images = list(dataset.map(lambda x: load(x, (1, 2), 32, 32, colour)).unbatch())\n"
        "assert 'tensorflow_addons' in sys.modules\n"
        "assert len({i.numpy().tobytes() for i in images}) > 1\n"
        "import keras\n"
        "assert tf.keras.__version__ == keras.__version__\n"
        "model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(),\n"
        "                          keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(tf.cast(tf.stack(images), tf.float32), tf.zeros((8, 1)), verbose=0)\n"
    )
    ran = run_process("-c", code)
    assert ran.returncode == 0, ran.stderr


def test_no_colour_jitter_is_no_change():
    image = tf.random.stateless_uniform((8, 8, 3), (1, 2)) * 255
    still = ColourJitter(brightness=0, saturation=0, hue=0, contrast=0)
    # The constants of YIQ and its inverse are rounded to three digits in addons.
    np.testing.assert_allclose(jitter(image, (1, 2), still), image, atol=0.6)
