"""Augmentations eagerly and inside `dataset.map`, against NumPy, Pillow and the formula."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets.augmentation import centre_crop, load, random_resized_crop, resize, shift_and_flip
from datasets.settings import Augmentation, ColourJitter


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


def test_the_centre_crop_is_pillows(gradient):
    encoded = jpeg(gradient)
    expected = np.asarray(Image.open(io.BytesIO(encoded)))[10:50, 25:65]
    for found in (centre_crop(encoded, 40).numpy(), mapped(lambda x: centre_crop(x, 40), encoded)):
        assert found.shape == (40, 40, 3)
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_smaller_image_is_enlarged_for_its_centre(gradient):
    found = centre_crop(jpeg(gradient), 120).numpy()
    assert found.shape == (120, 120, 3)
    # Twice the size: the middle is still the middle, and a step of a row is half of it.
    assert found[60, 60, 0] == pytest.approx(60, abs=3)
    assert found[60, 60, 1] == pytest.approx(90, abs=3)
    assert int(found[80, 60, 0]) - int(found[60, 60, 0]) == pytest.approx(20, abs=3)


def test_greyscale_becomes_rgb():
    encoded = jpeg(np.full((40, 40), 77, "uint8"))
    assert np.unique(centre_crop(encoded, 32)).tolist() == [77]


def test_a_resize_of_its_own_size_changes_nothing(gradient):
    np.testing.assert_array_equal(resize(tf.constant(gradient), 60, 90), gradient)


def test_crops_have_the_area_and_the_aspect_of_the_formula(gradient):
    """The gradient tells where a crop begins and ends, to within its interpolation."""
    encoded = jpeg(gradient)
    areas, aspects = [], []
    for i in range(300):
        crop = random_resized_crop(encoded, (1, i), 32, 32, (0.25, 1.0), (3 / 4, 4 / 3)).numpy()
        height = (int(crop[-1, 16, 0]) - int(crop[0, 16, 0])) / 2 * 32 / 31
        width = (int(crop[16, -1, 1]) - int(crop[16, 0, 1])) / 2 * 32 / 31
        areas.append(height * width / (60 * 90))
        aspects.append(width / height)
    fits = np.asarray(areas)
    assert 0.2 < fits.min() < 0.35
    assert fits.max() < 0.95  # an aspect up to 4 : 3 cannot fill 3 : 2
    assert 0.68 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.45


def test_the_same_seed_gives_the_same_crop_eagerly_and_mapped(gradient):
    encoded = jpeg(gradient)
    settings = Augmentation(crop="random_resized")
    one = load(encoded, (3, 4), 24, 32, settings).numpy()
    other = mapped(lambda x: load(x, (3, 4), 24, 32, settings), encoded)
    np.testing.assert_array_equal(one, other)
    assert (load(encoded, (3, 5), 24, 32, settings).numpy() != one).any()


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


def test_only_a_recipe_that_asks_for_colour_loads_addons(run_process):
    code = (
        "import sys, tensorflow as tf\n"
        "from datasets.augmentation import load\n"
        "from datasets.settings import Augmentation\n"
        "jpeg = tf.io.encode_jpeg(tf.constant([[[200, 100, 50]] * 40] * 40, tf.uint8))\n"
        "load(jpeg, (1, 2), 32, 32, Augmentation())\n"
        "assert 'tensorflow_addons' not in sys.modules\n"
        "colour = Augmentation(colour={})\n"
        "dataset = tf.data.Dataset.from_tensors(jpeg).repeat(8)\n"
        "images = list(dataset.map(lambda x: load(x, (1, 2), 32, 32, colour)))\n"
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
    from datasets.colour import jitter

    image = tf.random.stateless_uniform((8, 8, 3), (1, 2)) * 255
    still = ColourJitter(brightness=0, saturation=0, hue=0, contrast=0)
    # The constants of YIQ and its inverse are rounded to three digits in addons.
    np.testing.assert_allclose(jitter(image, (1, 2), still), image, atol=0.6)
