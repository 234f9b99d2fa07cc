"""What the builder's defaults cost and bring: bytes, seconds, quality and the speed of decoding.

    python benchmarks/build_defaults.py --source SET

`SET` is a set of photographs with a folder `train`, or a tar of one. It prints two tables. The
first one builds the records with the defaults, without restart markers, and as earlier builders
did: without markers and with the Huffman tables that every JPEG may use. The second one changes
one thing of the JPEGs at a time. All are measured in turns, by the CPU time of one process.

Quality is the PSNR of the decoded JPEG against the resized image that it was made of: the mean
over the images. An image that is kept byte for byte is left out.
"""

import contextlib
import functools
import itertools
import math
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import numpy as np
import tensorflow as tf
from PIL import Image

from datasets.build import images
from datasets.build.sources.layouts import BuildOptions
from datasets.build_imagenet_data import build
from datasets.input.augmentation import random_windows
from datasets.input.fused_jpeg import decode_windows, sizes_of
from datasets.records.examples import parse_example
from datasets.records.frames import read_frames

TRAINED_AT = {160: 128, 320: 224}  # short side of the stored images: side of a training image
BUILDS = {
    "the defaults": (True, False),  # restart markers; the same Huffman tables for all
    "`--no_restart_markers`": (False, False),
    "neither markers nor own Huffman tables": (False, True),
}
DEFAULTS = {"quality": 90, "subsampling": "4:2:0", "optimize": True, "restart_marker_blocks": 1}
CODINGS: dict[str, dict[str, Any]] = {
    "quality 90, 4:2:0, own Huffman tables, markers (the default)": {},
    "the same Huffman tables for all": {"optimize": False},
    "no markers": {"restart_marker_blocks": 0},
    "neither": {"optimize": False, "restart_marker_blocks": 0},
    "quality 85": {"quality": 85},
    "quality 95": {"quality": 95},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of two uint8 images, in dB: 10 log10(255^2 / mean squared error); inf if they are equal."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def decoded(jpeg: bytes) -> np.ndarray:
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def mean_psnr(pairs: Sequence[tuple[bytes, Image.Image]]) -> float:
    """The mean over the JPEGs that differ from the images that they were made of."""
    values = (psnr(decoded(jpeg), np.asarray(source)) for jpeg, source in pairs)
    return statistics.mean(value for value in values if value < math.inf)


@contextlib.contextmanager
def same_tables_for_all(wanted: bool) -> Iterator[None]:
    """Inside this block, the builder writes no Huffman tables of an image's own, if so `wanted`."""
    ours = images._saved
    if wanted:
        images._saved = lambda image, optimize=False, **options: ours(image, **options)
    try:
        yield
    finally:
        images._saved = ours


def encoded(picture: Image.Image, coding: dict[str, Any]) -> bytes:
    """A JPEG; where Pillow has no room to optimise a noisy image, without, as in the builder."""
    try:
        return images._saved(picture, **coding)
    except OSError:
        return images._saved(picture, **(coding | {"optimize": False}))


def cpu_seconds(action: Callable[[], Any]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def resized(path: Path, size: int) -> Image.Image:
    """A photograph as the builder resizes it."""
    image, _ = images.read_image(path.read_bytes())
    target = images.resized(image.width, image.height, size, enlarge=False)
    return image.resize(target, Image.Resampling.LANCZOS)


def compare_builds(source: Path, sources: dict[int, dict[str, Image.Image]], repeats: int) -> None:
    """Prints the first table: whole builds of all sizes, by one process."""
    seconds: dict[str, list[float]] = {name: [] for name in BUILDS}
    cells: dict[str, list[str]] = {}
    for turn, (name, (markers, plain)) in itertools.product(range(repeats), BUILDS.items()):
        with tempfile.TemporaryDirectory() as folder, same_tables_for_all(plain):
            options = BuildOptions(
                source, folder, list(sources), processes=1, progress=False, restart_markers=markers
            )
            seconds[name].append(cpu_seconds(functools.partial(build, options)))
            if turn:
                continue
            cells[name] = []
            for size, by_name in sources.items():
                files = sorted(Path(folder, str(size)).glob("train-*"))
                examples = [parse_example(data) for file in files for data, _ in read_frames(file)]
                pairs = [(x["image/encoded"][0], by_name[name_of(x)]) for x in examples]
                stored = sum(file.stat().st_size for file in files)
                cells[name] += [f"{stored:,}", f"{mean_psnr(pairs):.2f} dB"]
    print(f"| build | CPU seconds | {' | '.join(f'{n} px: bytes | PSNR' for n in sources)} |")
    print("|---" * (2 + 2 * len(sources)) + "|")
    for name, found in cells.items():
        print(f"| {name} | {statistics.median(seconds[name]):.1f} | {' | '.join(found)} |")


def name_of(example: dict[str, list[Any]]) -> str:
    """`<class>/<file>` of a record."""
    synset, file = (example[f"image/{key}"][0] for key in ("class/synset", "filename"))
    return f"{synset.decode()}/{os.fsdecode(file)}"


def compare_codings(sources: dict[int, list[Image.Image]], repeats: int) -> None:
    """Prints the second table: JPEGs that differ from the defaults in one thing."""
    cells: dict[str, list[str]] = {name: [] for name in CODINGS}
    for size, pictures in sources.items():
        jpegs, encoding = {}, {}
        for name, changes in CODINGS.items():
            coding = DEFAULTS | changes
            began = time.process_time()
            jpegs[name] = [encoded(picture, coding) for picture in pictures]
            encoding[name] = 1000 * (time.process_time() - began) / len(pictures)
        shapes = sizes_of(tf.constant(next(iter(jpegs.values()))))
        windows = random_windows(shapes, (0, size), (0.25, 1.0), (3 / 4, 4 / 3))
        side = TRAINED_AT.get(size, size)
        batches = {name: tf.constant(found) for name, found in jpegs.items()}
        times: dict[str, list[float]] = {name: [] for name in CODINGS}
        for _ in range(repeats + 1):
            for name, batch in batches.items():
                decode = functools.partial(decode_windows, batch, windows, side, side)
                times[name].append(cpu_seconds(decode))
        first = next(iter(CODINGS))
        total = {name: sum(map(len, found)) for name, found in jpegs.items()}
        for name, found in times.items():
            ratios = [a / b for a, b in zip(found[1:], times[first][1:], strict=True)]  # warm
            cells[name] += [
                f"{statistics.median(ratios):.2f}",
                f"{total[name] / total[first]:.3f}",
                f"{mean_psnr(list(zip(jpegs[name], pictures, strict=True))):.2f} dB",
                f"{encoding[name]:.2f} ms",
            ]
    columns = "time of a crop to {} | bytes | PSNR | to write"
    heads = (f"{n} px: {columns.format(TRAINED_AT.get(n, n))}" for n in sources)
    print(f"| | {' | '.join(heads)} |")
    print("|---" * (1 + 4 * len(sources)) + "|")
    for name, found in cells.items():
        print(f"| {name} | {' | '.join(found)} |")


@click.command()
@click.option("--source", type=Path, required=True, help="A set of photographs, or a tar of one.")
@click.option("--sizes", default="160,320", help="Short sides in pixels.")
@click.option("--repeats", default=3, help="Turns of the builds; of the decoding, three times it.")
def main(source: Path, sizes: str, repeats: int) -> None:
    """Prints both tables, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        if source.is_file():
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
            source = next(path.parent for path in Path(folder).rglob("train") if path.is_dir())
        files = sorted(path for path in (source / "train").glob("*/*") if path.is_file())
        names = [f"{path.parent.name}/{path.name}" for path in files]
        pictures = {
            size: dict(zip(names, (resized(path, size) for path in files), strict=True))
            for size in map(int, sizes.split(","))
        }
        print(f"{len(files)} photographs, one process; builds {repeats} times in turns\n")
        compare_builds(source, pictures, repeats)
        print(f"\nDecoding {3 * repeats} times in turns, the default is 1:\n")
        compare_codings({n: list(found.values()) for n, found in pictures.items()}, 3 * repeats)


if __name__ == "__main__":
    main()
