"""The table of the builder's defaults, against builds of the same photographs."""

import math

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.build_defaults import CODINGS, main, psnr
from datasets.build.images import convert
from tests.datasets.samples import build, file_bytes, photograph, write_tree


def test_psnr_is_that_of_the_definition():
    """A difference of 5 in all values: 20 log10(255 / 5) = 34.15 dB."""
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(grey, grey + 5) == pytest.approx(34.151, abs=1e-3)
    assert psnr(grey, grey) == math.inf
    dark = np.zeros((8, 8, 3), np.uint8)
    assert psnr(dark, dark + 255) == 0


def test_the_tables_are_of_what_is_built(tmp_path):
    sources = {f"train/a/{i}.png": photograph(i, 150, 120) for i in range(2)}
    pngs = {name: file_bytes(image, "PNG") for name, image in sources.items()}
    write_tree(tmp_path / "set", pngs)
    command = ["--source", str(tmp_path / "set"), "--sizes", "80", "--repeats", "1"]
    ran = CliRunner().invoke(main, command, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    rows = [line.strip("| ").split(" | ") for line in ran.output.splitlines() if "|" in line]
    builds, codings = rows[2:5], {row[0]: row[1:] for row in rows[7:]}
    for (name, _, found, _), markers in zip(builds[:2], (True, False), strict=True):
        build(tmp_path / "set", tmp_path / name, (80,), restart_markers=markers)
        files = (tmp_path / name / "80").glob("train-*")
        assert int(found.replace(",", "")) == sum(file.stat().st_size for file in files)
    # The smallest has no markers and tables of its own; markers and tables change no pixel.
    sizes = [int(row[2].replace(",", "")) for row in builds]
    assert sizes[1] == min(sizes)
    assert sizes[1] < sizes[2]
    assert len({row[3] for row in builds}) == 1

    assert codings.keys() == CODINGS.keys()
    image = Image.open(tmp_path / "set" / "train" / "a" / "0.png")
    assert image.size == (150, 120)
    bytes_of = {  # by the builder itself
        quality: sum(len(convert(data, [80], quality)[0][0]) for data in pngs.values())
        for quality in (85, 90)
    }
    assert codings["quality 85"][1] == f"{bytes_of[85] / bytes_of[90]:.3f}"
    quality = {name: float(row[2].removesuffix(" dB")) for name, row in codings.items()}
    assert quality["quality 85"] < quality["no markers"] < quality["quality 95"]
    assert quality["no markers"] == quality["neither"] == float(builds[0][3].removesuffix(" dB"))
