"""Images, trees of them and records, for the tests of this folder."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_imagenet_data
from datasets.build.sources.layouts import BuildOptions, read_source
from datasets.build.sources.source import Source
from datasets.records.manifest import Manifest

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def halves(left, right, width=64, height=32, mode="RGB") -> Image.Image:
    """An image of two colours, side by side."""
    image = Image.new(mode, (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def file_bytes(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """Smooth noise, which a JPEG keeps about as well as a photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def write_tree(root: Path, images: dict[str, Image.Image | bytes]) -> Path:
    for name, image in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image if isinstance(image, bytes) else file_bytes(image, quality=95))
    return root


def build(source: Path, output: Path, sizes: tuple[int, ...], **options) -> dict[int, Manifest]:
    """Builds records without a progress bar, in this process unless the options say otherwise."""
    options = {"processes": 1, "progress": False} | options
    return build_imagenet_data.build(BuildOptions(source, output, sizes, **options))


def find_source(root: Path, layout: str | None = None) -> Source:
    return read_source(BuildOptions(root, root, (), layout=layout, progress=False))


def snapshot(output: Path) -> dict[str, bytes]:
    """The published files of a build, without its own notes."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name[0] != "."
    }


def read(output: Path, size: int, prefix: str) -> list[dict]:
    """Records by TensorFlow's own reader, which checks their checksums."""
    tf = pytest.importorskip("tensorflow")
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/synset": tf.io.FixedLenFeature([], tf.string),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/object/bbox/xmin": tf.io.VarLenFeature(tf.float32),
    }
    files = [str(path) for path in sorted((output / str(size)).glob(f"{prefix}-*"))]
    records = tf.data.TFRecordDataset(files)
    return [tf.io.parse_single_example(record, spec) for record in records]
