import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin

from datasets.build.images import MAX_PIXELS, Refused, convert, keep, resized
from tests.datasets.samples import BLUE, GREEN, RED, WHITE, file_bytes, halves, photograph

CMYK = (0, 255, 255, 0), (255, 255, 0, 0)  # red and blue


def _turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_bytes(image, quality=95, exif=exif)


def _palette_with_hole():
    image = Image.new("P", (64, 32), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (32, 0, 64, 32))
    return file_bytes(image, "PNG", transparency=1)


def _deep_grey():
    pixels = np.full((32, 64), 200 << 8, np.uint16)
    pixels[:, 32:] = 100 << 8
    return file_bytes(Image.fromarray(pixels), "PNG")


FILES = {
    "png": (file_bytes(halves(RED, BLUE), "PNG"), RED, BLUE),
    "bmp": (file_bytes(halves(RED, BLUE), "BMP"), RED, BLUE),
    "gif": (file_bytes(halves(RED, BLUE), "GIF"), RED, BLUE),
    "webp": (file_bytes(halves(RED, BLUE), "WEBP", lossless=True), RED, BLUE),
    "progressive": (file_bytes(halves(RED, BLUE), progressive=True, quality=95), RED, BLUE),
    "grey": (file_bytes(halves(200, 100, mode="L")), (200, 200, 200), (100, 100, 100)),
    "binary": (file_bytes(halves(0, 1, mode="1"), "PNG"), (0, 0, 0), WHITE),
    "cmyk": (file_bytes(halves(*CMYK, mode="CMYK"), quality=95), RED, BLUE),
    "rgba": (file_bytes(halves((*RED, 255), (*BLUE, 0), mode="RGBA"), "PNG"), RED, WHITE),
    "la": (file_bytes(halves((90, 255), (90, 0), mode="LA"), "PNG"), (90, 90, 90), WHITE),
    "palette": (_palette_with_hole(), RED, WHITE),
    "16bit": (_deep_grey(), (200, 200, 200), (100, 100, 100)),
    "turned3": (_turned(halves(RED, BLUE), 3), BLUE, RED),
    "turned6": (_turned(halves(RED, BLUE), 6), RED, BLUE),  # first at the top now
    "turned8": (_turned(halves(RED, BLUE), 8), BLUE, RED),
}


@pytest.mark.parametrize(("data", "first", "last"), FILES.values(), ids=FILES.keys())
def test_everything_becomes_an_upright_rgb_jpeg(data, first, last):
    for size in (32, 16):
        [(encoded, width, height)] = convert(data, [size], quality=95)
        image = Image.open(io.BytesIO(encoded))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
        assert not image.info.get("progressive")
        assert 0x0112 not in image.getexif()
        assert min(width, height) == size
        received = [image.getpixel((2, 2)), image.getpixel((width - 3, height - 3))]
        np.testing.assert_allclose(received, [first, last], atol=12)


def test_exif_turns_the_sides_round():
    # Orientation 6 is a camera held upright: what it stored as left is the top.
    [(encoded, width, height)] = convert(_turned(halves(RED, BLUE), 6), [32], quality=95)
    assert (width, height) == (32, 64)
    np.testing.assert_allclose(Image.open(io.BytesIO(encoded)).getpixel((29, 2)), RED, atol=12)


@pytest.mark.parametrize("size", [32, 48])
def test_a_baseline_jpeg_of_the_size_is_kept_byte_for_byte(size):
    data = file_bytes(halves(RED, BLUE), quality=30, comment=b"as it was")
    assert convert(data, [size], quality=95) == [(data, 64, 32)]


def test_sizes_come_from_one_decode_and_look_like_the_original():
    original = photograph(1, 300, 200)
    outs = convert(file_bytes(original, quality=100), [100, 50], quality=95)
    assert [(width, height) for _, width, height in outs] == [(150, 100), (75, 50)]
    for encoded, width, height in outs:
        received = np.asarray(Image.open(io.BytesIO(encoded)), float)
        expected = np.asarray(original.reduce(200 // height), float)  # exact box averages
        assert expected.shape == (height, width, 3)
        assert np.abs(received - expected).mean() < 3


def test_fine_stripes_turn_grey_instead_of_aliasing():
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    [(encoded, _, _)] = convert(file_bytes(Image.fromarray(stripes), "PNG"), [100], quality=95)
    pixels = np.asarray(Image.open(io.BytesIO(encoded)), float)
    assert abs(pixels.mean() - 127.5) < 3
    assert pixels[5:-5, 5:-5].std() < 50  # every third column alone would give 127


@pytest.mark.parametrize(("size", "sampling"), [(64, 0), (65, 2)])  # 4:4:4 and 4:2:0
def test_small_images_keep_their_colour(size, sampling):
    [(encoded, _, _)] = convert(file_bytes(photograph(2, 150, 100)), [size], quality=90)
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(encoded))) == sampling


@pytest.mark.parametrize(("size", "quality"), [(16, 98), (64, 98), (65, 90)])
def test_small_images_are_written_at_a_higher_quality(size, quality):
    source = photograph(2, 150, 100)
    [(encoded, width, height)] = convert(file_bytes(source, "PNG"), [size], None)
    small = source.resize((width, height), Image.Resampling.LANCZOS)
    if size <= 64:
        expected = file_bytes(small, quality=quality, subsampling="4:4:4")
    else:
        coding = {"optimize": True, "restart_marker_blocks": 1}
        expected = file_bytes(small, quality=quality, subsampling="4:2:0", **coding)
    assert encoded == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda data, markers: convert(data, [80], 90, restart_markers=markers)[0],
        lambda data, markers: keep(data, 90, markers),
    ],
    ids=["convert", "keep"],
)
def test_restart_markers_change_no_pixel(function):
    data = file_bytes(photograph(2, 150, 100), "PNG")
    (one, *size), (other, *same) = (function(data, markers) for markers in (True, False))
    assert size == same
    assert (b"\xff\xdd" in one, b"\xff\xdd" in other) == (True, False)
    pixels, others = (np.asarray(Image.open(io.BytesIO(encoded))) for encoded in (one, other))
    np.testing.assert_array_equal(pixels, others)
    plain = Image.fromarray(pixels)
    assert len(one) < 1.03 * len(file_bytes(plain, quality=90, subsampling="4:2:0"))


def test_noise_is_written_although_it_takes_more_than_a_byte_a_pixel():
    """Pillow cannot optimise the Huffman tables of such an image."""
    values = np.random.default_rng(0).integers(0, 2, (320, 320, 3), np.uint8) * 255
    noise = file_bytes(Image.fromarray(values), "PNG")
    [(encoded, _, _)] = convert(noise, [320], quality=93)
    assert len(encoded) > 320 * 320
    assert Image.open(io.BytesIO(encoded)).size == (320, 320)


@pytest.mark.parametrize(
    ("width", "height", "size", "enlarge", "expected"),
    [
        (500, 375, 160, False, (213, 160)),
        (375, 500, 160, False, (160, 213)),
        (500, 333, 320, False, (480, 320)),
        (160, 160, 160, False, (160, 160)),
        (100, 50, 160, False, (100, 50)),
        (100, 50, 160, True, (320, 160)),
        (3, 2000, 2, False, (2, 1333)),
    ],
)
def test_the_short_side_becomes_the_size(width, height, size, enlarge, expected):
    assert resized(width, height, size, enlarge) == expected


def adobe(data: bytes, transform: int) -> bytes:
    """A JPEG of four components said to be CMYK (0) or YCCK (2) in its Adobe marker."""
    place = data.index(b"Adobe") + 11
    return data[:place] + bytes([transform]) + data[place + 1 :]


def ycck(left, right) -> bytes:
    """Two RGB colours as Adobe's YCCK: the YCbCr of the three inks, and no black."""

    def components(rgb):
        inks = tuple(255 - value for value in rgb)
        y, cb, cr = Image.new("RGB", (1, 1), inks).convert("YCbCr").getpixel((0, 0))
        # Pillow writes 255 - x of each component of CMYK.
        return 255 - y, 255 - cb, 255 - cr, 0

    image = halves(components(left), components(right), mode="CMYK")
    return adobe(file_bytes(image, quality=95), 2)


def test_ycck():
    tf = pytest.importorskip("tensorflow")
    data = ycck(RED, BLUE)
    [(encoded, _, _)] = convert(data, [16], quality=95)
    image = Image.open(io.BytesIO(encoded))
    received = [image.getpixel((2, 2)), image.getpixel((29, 13))]
    np.testing.assert_allclose(received, [RED, BLUE], atol=12)
    theirs = tf.io.decode_jpeg(data, channels=3).numpy()
    np.testing.assert_allclose([theirs[2, 2], theirs[29, 61]], [RED, BLUE], atol=12)


def swapped_profile() -> bytes:
    """The ICC profile of a device whose first channel shines blue and whose third red."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert data.count(b"rXYZ") == data.count(b"bXYZ") == 1
    data = data.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    return data.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (swapped_profile(), BLUE),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), RED),
        (b"no profile at all", RED),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), RED),
    ],
    ids=["another", "srgb", "broken", "lab"],
)
def test_colours_become_those_of_srgb(profile, expected):
    data = file_bytes(halves(RED, RED), quality=95, icc_profile=profile)
    for size in (32, 16):  # not kept byte for byte where the colours change
        [(encoded, _, _)] = convert(data, [size], quality=95)
        image = Image.open(io.BytesIO(encoded))
        np.testing.assert_allclose(image.getpixel((5, 5)), expected, atol=12)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (40, 40), colour) for colour in (GREEN, RED, BLUE)]
    data = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    [(encoded, _, _)] = convert(data, [40], quality=95)
    np.testing.assert_allclose(Image.open(io.BytesIO(encoded)).getpixel((9, 9)), GREEN, atol=12)


@pytest.mark.parametrize("function", [lambda d: convert(d, [8], 90), lambda d: keep(d, 90)])
@pytest.mark.parametrize("side", [9460, 13400, 65000])
def test_decompression_bombs_are_refused_undecoded(function, side):
    data = bytearray(file_bytes(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = side.to_bytes(4) * 2  # width and height in the header
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    assert side * side > MAX_PIXELS
    with pytest.raises((Refused, Image.DecompressionBombError), match="pixels"):
        function(bytes(data))


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (file_bytes(halves(RED, BLUE), quality=30, comment=b"as it was"), True),
        (file_bytes(halves(RED, BLUE), progressive=True), True),
        (file_bytes(halves(200, 100, mode="L")), True),
        (file_bytes(halves(RED, BLUE), "PNG"), False),
        (file_bytes(halves(*CMYK, mode="CMYK")), False),
        (_turned(halves(RED, BLUE), 3), False),
    ],
    ids=["rgb", "progressive", "grey", "png", "cmyk", "turned"],
)
def test_keep(data, kept):
    encoded, width, height = keep(data, quality=95)
    assert (width, height) == (64, 32)
    assert (encoded == data) == kept
    assert Image.open(io.BytesIO(encoded)).format == "JPEG"
