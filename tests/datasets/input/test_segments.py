"""Parts of JPEGs, cut out by their restart markers, as Pillow decodes them."""

import ctypes
import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from datasets.input.fused_jpeg import SOURCE

LIBRARY = """
#include "segments.h"

// The number of bytes of the part; 0 where nothing is cut.
extern "C" long cut(const uint8_t* data, long size, const int* w, int margin, uint8_t* out,
                    int* place) {
  std::vector<uint8_t> part;
  const segments::Window window = {w[0], w[1], w[2], w[3]};
  if (!segments::Cut(data, size, window, margin, &part, place, place + 1)) return 0;
  std::memcpy(out, part.data(), part.size());
  return part.size();
}
"""
WIDTH, HEIGHT = 100, 75  # 7 x 5 units of 16 pixels, the last ones in part


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    source = tmp_path_factory.mktemp("segments") / "cut.cc"
    source.write_text(LIBRARY)
    library = source.with_suffix(".so")
    command = ["g++", "-std=c++17", "-O1", f"-I{SOURCE.parent}", "-shared", "-fPIC"]
    subprocess.run([*command, source, "-o", library], check=True)
    function = ctypes.CDLL(str(library)).cut
    function.restype = ctypes.c_long

    def run(data, window, margin=0):
        out, place = ctypes.create_string_buffer(len(data) + 100), (ctypes.c_int * 2)()
        size = ctypes.c_long(len(data))
        found = function(data, size, (ctypes.c_int * 4)(*window), margin, out, place)
        return out.raw[:found], tuple(place)

    return run


def picture(**options):
    """Noise as a JPEG, by default with a restart marker behind every unit."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    buffer = io.BytesIO()
    settings = {"quality": 90, "subsampling": "4:2:0", "restart_marker_blocks": 1, **options}
    Image.fromarray(noise).save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def pixels(data):
    image = Image.open(io.BytesIO(data))
    image.draft("YCbCr", image.size)  # without colours, which are smoothed across the border
    return np.asarray(image)[..., 0]


@pytest.mark.parametrize(
    ("interval", "window", "margin", "box"),
    [
        # top, left, bottom, right of the part, by hand
        (1, (40, 20, 10, 10), 0, (32, 16, 64, 32)),
        (1, (16, 16, 16, 16), 0, (16, 16, 32, 32)),
        (1, (16, 16, 17, 17), 0, (16, 16, 48, 48)),
        (1, (16, 16, 16, 16), 8, (0, 16, 48, 32)),
        (1, (0, 0, 1, 1), 0, (0, 0, 16, 16)),
        (1, (74, 99, 1, 1), 0, (64, 96, 75, 100)),
        (7, (40, 20, 10, 10), 0, (32, 0, 64, 100)),
        (14, (40, 20, 10, 10), 0, (32, 0, 64, 100)),
        (14, (70, 20, 5, 10), 0, (64, 0, 75, 100)),
    ],
)
def test_the_part_is_that_area_of_the_image(cut, interval, window, margin, box):
    whole = picture(restart_marker_blocks=interval)
    part, place = cut(whole, window, margin)
    assert place == box[:2]
    top, left, bottom, right = box
    np.testing.assert_array_equal(pixels(part), pixels(whole)[top:bottom, left:right])
    assert len(part) < len(whole)


@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({}, (0, 0, 10, WIDTH)),  # nothing to leave out: what is below is not read anyway
        ({}, (0, 0, HEIGHT, WIDTH)),
        ({}, (70, 0, 6, 10)),  # outside
        ({}, (-1, 0, 5, 5)),
        ({"restart_marker_blocks": 0}, (40, 20, 10, 10)),
        ({"restart_marker_blocks": 5}, (40, 20, 10, 10)),  # 5 of 7 units: no rows of segments
        ({"progressive": True}, (40, 20, 10, 10)),
    ],
)
def test_others_are_left_whole(cut, options, window):
    assert cut(picture(**options), window)[0] == b""


def test_damage_leaves_it_whole(cut):
    good, window = picture(), (40, 20, 10, 10)
    assert cut(good, window)[0]
    for length in range(0, len(good) // 2, 7):
        assert cut(good[:length], window)[0] == b""
    scan = good.index(b"\xff\xda")
    at = good.index(b"\xff\xd2", scan)
    for wrong in (b"", b"\xff\xd3", b"\xff\xd9", b"\0\0"):
        assert cut(good[:at] + wrong + good[at + 2 :], window) == (b"", (0, 0))
