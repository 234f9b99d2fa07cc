"""Windows of JPEGs against Pillow and TensorFlow's own ops, with the compiled ops and without."""

import io
import subprocess
from pathlib import Path

import numpy as np
import PIL
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from datasets.input import fused_jpeg
from datasets.input.fused_jpeg import EXACT, FAST, decode_windows, sizes_of


def photograph(width, height, mode="RGB"):
    """Something with edges, slopes and colours."""
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    waves = [np.sin(columns / 9 + c) * np.cos(rows / 13 - c) * 60 + 128 for c in range(3)]
    image = Image.fromarray(np.stack(waves, -1).astype("uint8"))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.2, height * 0.3, width * 0.7, height * 0.8), fill=(250, 20, 40))
    draw.line((0, 0, width, height), fill=(10, 240, 230), width=3)
    return image.convert(mode)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


KINDS = {
    "4:2:0": jpeg(photograph(213, 160)),
    "4:4:4": jpeg(photograph(213, 160), subsampling=0),
    "4:2:2": jpeg(photograph(213, 160), subsampling=1),
    "progressive": jpeg(photograph(213, 160), progressive=True),
    "greyscale": jpeg(photograph(213, 160, "L")),
    "odd": jpeg(photograph(213, 160), subsampling=2, quality=60, restart_marker_blocks=3),
}
WINDOWS = [(0, 0, 160, 213), (0, 0, 1, 1), (159, 212, 1, 1), (17, 33, 90, 110), (3, 101, 157, 112)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [False, True])
def test_windows_are_those_of_tensorflow(kind, exact):
    """At most 1 of 255 apart; the two libjpegs and the rounding differ by no more."""
    options = EXACT if exact else FAST
    windows = np.array([(*window, 0) for window in WINDOWS], "int32")
    jpegs = tf.constant([KINDS[kind]] * len(windows))
    found = decode_windows(jpegs, windows, 64, 48, exact=exact, scaled=False)
    for image, window in zip(found.numpy(), WINDOWS, strict=True):
        cropped = tf.image.decode_and_crop_jpeg(KINDS[kind], window, channels=3, **options)
        expected = np.rint(tf.image.resize(cropped, (64, 48)))
        assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [False, True])
def test_windows_of_a_resized_image_are_tensorflows(kind, exact):
    """Enlarged by little and by much, made smaller, stretched, and as it is."""
    options, rng = EXACT if exact else FAST, np.random.default_rng(3)
    whole = tf.io.decode_jpeg(KINDS[kind], channels=3, **options)
    for resized in ((161, 214), (400, 533), (101, 134), (200, 150), (160, 213)):
        rows, columns = (int(rng.integers(1, side + 1)) for side in resized)
        top, left = (
            int(rng.integers(n - m + 1)) for n, m in zip(resized, (rows, columns), strict=True)
        )
        window = (top, left, rows, columns, 0, *resized)
        (found,) = decode_windows(
            tf.constant([KINDS[kind]]), [window], rows, columns, exact=exact, scaled=False
        ).numpy()
        image = np.rint(tf.image.resize(whole, resized))
        expected = image[top : top + rows, left : left + columns]
        assert np.abs(found - expected).max() <= 1, window


def test_a_part_of_the_windows_may_be_of_resized_images(ops):
    """Zeros in place of the resized sides: the image as it is stored, to the bit."""
    jpegs = tf.constant([KINDS["4:2:0"]] * 2)
    windows = tf.constant([[5, 7, 30, 40, 1, 0, 0], [5, 7, 30, 40, 1, 320, 426]])
    one, other = decode_windows(jpegs, windows, 30, 40, exact=True).numpy()
    (expected,) = decode_windows(jpegs[:1], windows[:1, :5], 30, 40, exact=True).numpy()
    np.testing.assert_array_equal(one, expected)
    assert np.abs(other.astype(int) - expected).max() > 10


def noise(width, height, mode="RGB"):
    """Black, white and full colours side by side: where a blend differs most, if it differs."""
    values = np.random.default_rng(width).integers(0, 2, (height, width, 3)) * 255
    return Image.fromarray(values.astype("uint8")).convert(mode)


def random_cases(rng):
    """Sizes of the image, of the result, and windows in it: usual ones and odd ones."""
    for side in (1, 2, 7, 16, 33, 120):
        shape = (side, int(rng.integers(1, 150)))
        for height, width in ((1, 1), (5, 3), (64, 71), (17, 224)):
            rows, columns = (int(rng.integers(1, n + 1)) for n in shape)
            top, left = (
                int(rng.integers(n - m + 1)) for n, m in zip(shape, (rows, columns), strict=True)
            )
            yield shape, (top, left, rows, columns), (height, width)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_fixed_point_is_within_one_of_floats(mode):
    """For any window and size; and the vectors of newer processors give the plain code's bits."""
    rng, differences = np.random.default_rng(len(mode)), []
    for (tall, wide), window, (height, width) in random_cases(rng):
        encoded = jpeg(noise(wide, tall, mode), quality=100, subsampling=0)
        given = tf.constant([encoded]), tf.constant([[*window, int(rng.integers(2))]])
        sides = {"height": height, "width": width, "scaled": False}
        found = fused_jpeg.native().decode_windows(*given, **sides)
        plain = fused_jpeg.native().decode_windows(*given, **sides, plain=True)
        np.testing.assert_array_equal(found, plain)
        cropped = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, **FAST)
        expected = np.rint(tf.image.resize(cropped, (height, width)))
        mirrored = bool(given[1].numpy()[0, 4])
        difference = found.numpy()[0] - (expected[:, ::-1] if mirrored else expected)
        assert np.abs(difference).max() <= 1, (window, height, width)
        differences.append(difference.ravel())
    every = np.concatenate(differences)
    assert np.abs(every).mean() < 0.1
    assert abs(every.mean()) < 0.02  # rounded, not cut off


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4", "L"])
@pytest.mark.parametrize("exact", [False, True])
def test_restart_markers_change_no_pixel(kind, exact):
    """Whatever they let the reader leave out: single units, parts of a row, rows, two rows."""
    image = photograph(213, 160, "L" if kind == "L" else "RGB")
    options = {} if kind == "L" else {"subsampling": kind}
    row = -(-213 // (16 if "2" in kind else 8))
    plain = jpeg(image, **options)
    rng = np.random.default_rng(7)
    for interval in (1, 3, 7, row, 2 * row, row + 1):
        marked = jpeg(image, restart_marker_blocks=interval, **options)
        assert b"\xff\xdd\0\4" in marked
        rows, columns = rng.integers(1, 161, 12), rng.integers(1, 214, 12)
        tops, lefts = rng.integers(161 - rows), rng.integers(214 - columns)
        windows = np.stack([tops, lefts, rows, columns, rng.integers(2, size=12)], 1)
        for side, scaled in ((40, False), (9, True)):
            found, expected = (
                decode_windows(
                    tf.constant([data] * 12), windows, side, side, exact=exact, scaled=scaled
                ).numpy()
                for data in (marked, plain)
            )
            np.testing.assert_array_equal(found, expected)


def test_damaged_restart_markers_are_as_for_any_other_reader():
    """Where a marker is missing or wrong, the image is decoded from its beginning."""
    marked = jpeg(photograph(213, 160), restart_marker_blocks=1)
    window = tf.constant([[100, 100, 40, 40, 0]])
    at = marked.index(b"\xff\xd3")
    gone, wrong = marked[:at] + marked[at + 2 :], marked[:at] + b"\xff\xd6" + marked[at + 2 :]
    for damaged in (gone, wrong):
        (found,) = decode_windows(tf.constant([damaged]), window, 40, 40).numpy()
        expected = tf.image.decode_and_crop_jpeg(damaged, (100, 100, 40, 40), channels=3, **FAST)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match="end too early"):
        decode_windows(tf.constant([marked[: len(marked) // 3]]), window, 40, 40)


def test_a_window_is_pillows(ops):
    """Exactly decoded and of the size asked for, so that nothing is resized."""
    (found,) = decode_windows(
        tf.constant([KINDS["4:4:4"]]), tf.constant([[20, 40, 64, 96, 0]]), 64, 96, exact=True
    ).numpy()
    expected = np.asarray(Image.open(io.BytesIO(KINDS["4:4:4"])))[20:84, 40:136]
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_sizes_and_mirror_images(ops):
    jpegs = tf.constant([jpeg(photograph(50, 40)), jpeg(photograph(31, 77))])
    assert sizes_of(jpegs).numpy().tolist() == [[40, 50], [77, 31]]
    straight, mirrored = (
        decode_windows(jpegs, tf.constant([[2, 3, 30, 20, m]] * 2), 16, 24).numpy() for m in (0, 1)
    )
    np.testing.assert_array_equal(straight[:, :, ::-1], mirrored)


def test_cmyk_is_as_tensorflow_decodes_it():
    encoded = jpeg(photograph(80, 60, "CMYK"))
    window = (5, 7, 50, 60)
    (found,) = decode_windows(tf.constant([encoded]), tf.constant([[*window, 0]]), 50, 60).numpy()
    expected = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, **FAST)
    assert np.abs(found.astype(int) - expected.numpy()).max() <= 1


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_a_scaled_decode_is_nearer_to_an_antialiased_resize_than_a_full_one():
    image = photograph(800, 600)
    encoded, window = tf.constant([jpeg(image)]), tf.constant([[50, 100, 500, 600, 0]])
    box = Image.open(io.BytesIO(encoded.numpy()[0])).crop((100, 50, 700, 550))
    reference = np.asarray(box.resize((120, 100), Image.Resampling.BOX))
    scaled, full = (
        psnr(decode_windows(encoded, window, 100, 120, scaled=s).numpy()[0], reference)
        for s in (True, False)
    )
    assert scaled > 30
    assert scaled > full + 3


def test_where_no_window_is_twice_the_result_scaled_changes_nothing():
    jpegs, window = tf.constant([KINDS["4:2:0"]]), tf.constant([[0, 0, 127, 200, 0]])
    one, other = (decode_windows(jpegs, window, 64, 64, scaled=s) for s in (True, False))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("data", "window"),
    [
        (b"", (0, 0, 1, 1)),
        (b"not a JPEG", (0, 0, 1, 1)),
        (KINDS["4:2:0"][:2000], (0, 0, 160, 213)),
        (KINDS["4:2:0"], (0, 0, 161, 213)),
        (KINDS["4:2:0"], (-1, 0, 10, 10)),
        (KINDS["4:2:0"], (0, 0, 0, 10)),
        (KINDS["4:2:0"], (0, 0, 160, 214, 0, 300, 213)),
        (KINDS["4:2:0"], (0, 0, 1, 1, 0, 300, 0)),
    ],
    ids=["empty", "garbage", "cut short", "too high", "outside", "no rows", "resized", "no sides"],
)
def test_what_cannot_be_decoded_is_an_error(ops, data, window):
    row = window if len(window) > 4 else (*window, 0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_windows(tf.constant([data]), tf.constant([row]), 8, 8)


def test_the_sides_of_the_result_may_be_tensors(ops):
    """Known ones are known when a pipeline is traced, and others when it runs."""
    jpegs, windows = tf.constant([KINDS["4:2:0"]]), tf.constant([[0, 0, 160, 213, 0]])

    @tf.function
    def decode(width):
        images = decode_windows(jpegs, windows, 24, width)
        assert images.shape.as_list() == [1, 24, None, 3]
        return images

    expected = decode_windows(jpegs, windows, 24, 31)
    np.testing.assert_array_equal(decode(tf.constant(31)), expected)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(0))


def test_an_image_after_a_broken_one_is_whole():
    """The decoder is used again for the next batch; an error must not stay in it."""
    good, window = tf.constant([KINDS["4:2:0"]]), tf.constant([[0, 0, 160, 213, 0]])
    before = decode_windows(good, window, 32, 32).numpy()
    for _ in range(50):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_windows(tf.constant([KINDS["4:2:0"][:2000]]), window, 32, 32)
    np.testing.assert_array_equal(decode_windows(good, window, 32, 32), before)


def test_without_a_compiler_it_warns_and_goes_on(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    fused_jpeg.native.cache_clear()
    try:
        assert fused_jpeg.native() is None
        assert "install g++" in caplog.text
        assert sizes_of(tf.constant([KINDS["4:2:0"]])).numpy().tolist() == [[160, 213]]
    finally:
        fused_jpeg.native.cache_clear()


# Stands before Pillow's libjpeg, as if the ops had been compiled for the next version of it.
OTHER_VERSION = """
#include <dlfcn.h>
#include <stddef.h>
extern "C" void jpeg_CreateDecompress(void* info, int version, size_t size) {
  void* pillows = dlsym(dlopen(LIBJPEG, RTLD_NOW), "jpeg_CreateDecompress");
  ((void (*)(void*, int, size_t))pillows)(info, version + 1, size);
}
"""
READS_A_SIZE = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import tensorflow as tf
from datasets.input.fused_jpeg import sizes_of
jpegs = tf.data.Dataset.from_tensors([open(sys.argv[2], "rb").read()])
(sizes,) = jpegs.map(sizes_of)
print(sizes.numpy().tolist())
"""


def test_a_libjpeg_of_another_version_is_named_and_done_without(run_process, tmp_path):
    (libjpeg,) = (Path(PIL.__file__).parent.parent / "pillow.libs").glob("libjpeg-*.so*")
    source, library, image = (tmp_path / name for name in ("other.cc", "other.so", "a.jpg"))
    source.write_text(OTHER_VERSION)
    image.write_bytes(KINDS["4:2:0"])
    subprocess.run(
        ["g++", "-shared", "-fPIC", f'-DLIBJPEG="{libjpeg}"', source, "-o", library], check=True
    )
    ran = run_process("-c", READS_A_SIZE, library, image)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[[160, 213]]\n"
    assert (
        "half their speed: the libjpeg in Pillow is not the one of TensorFlow's header (Wrong JPEG "
        "library version: library is 62, caller expects 63); "
    ) in ran.stderr
