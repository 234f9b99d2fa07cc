"""Draws docs/augmentation.jpg: 16 training images, each beside its photograph.

    python docs/draw_augmentation.py

The two photographs come with scikit-learn (china.jpg by Daniel Büchele,
flower.jpg by the Flickr user vultilion, both CC BY 2.0).
"""

import io
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import sklearn
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from core.settings import Augmentation
from datasets.build.images import convert
from datasets.input.augmentation import random_windows
from datasets.input.fused_jpeg import decode_windows, sizes_of

ROWS, COLUMNS, SIZE = 4, 4, 128
ORANGE = "#D55E00"


@click.command()
@click.option("--seed", default=4, help="The seed of the crops.")
@click.argument("path", type=Path, default=Path(__file__).with_name("augmentation.jpg"))
def main(seed: int, path: Path) -> None:
    """Crops, resizes and mirrors as a training pipeline does at 128 pixels."""
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    # As the builder stores them: 160 pixels on the short side.
    photographs = [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]
    stored = [convert(photograph, [160], 90)[0][0] for photograph in photographs]
    jpegs = [stored[i % 2] for i in range(ROWS * COLUMNS)]
    settings = Augmentation()
    encoded = tf.constant(jpegs)
    windows = random_windows(sizes_of(encoded), (seed, 0), settings.area, settings.aspect)
    images = decode_windows(encoded, windows, SIZE, SIZE).numpy()

    figure = Figure(figsize=(11, 5.3), layout="constrained")
    axes = figure.subplots(
        ROWS, 2 * COLUMNS, gridspec_kw={"width_ratios": [1.5, 1] * COLUMNS, "hspace": 0.02}
    )
    for number, window in enumerate(windows.numpy()):
        top, left, height, width, mirrored = window
        source, result = axes.flat[2 * number], axes.flat[2 * number + 1]
        photograph = np.asarray(Image.open(io.BytesIO(jpegs[number])))
        source.imshow(photograph)
        source.add_patch(
            Rectangle((left - 0.5, top - 0.5), width, height, fill=False, color=ORANGE, lw=1.5)
        )
        share = height * width / photograph[..., 0].size
        source.set_title(f"{share:.0%}, {width / height:.2f}", fontsize=8, pad=2)
        result.imshow(images[number])
        result.set_title("mirrored" if mirrored else "", fontsize=8, pad=2)
        for one in (source, result):
            one.set_axis_off()
    figure.suptitle(
        "Stored photograph with its random crop (share of the area, width / height), "
        f"and the {SIZE} x {SIZE} training image",
        fontsize=10,
    )
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
