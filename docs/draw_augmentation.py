"""Draws docs/augmentation.jpg: 16 training images, each beside its photograph.

The two photographs come with scikit-learn (china.jpg by Daniel Büchele,
flower.jpg by the Flickr user vultilion, both CC BY 2.0).
"""

import io
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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

ROWS, COLUMNS, SIZE, SEED = 4, 4, 128, 4

folder = Path(sklearn.__file__).parent / "datasets" / "images"
# As the builder stores them: 160 pixels on the short side.
photographs = [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]
stored = [convert(photograph, [160], 90)[0][0] for photograph in photographs]
encoded = tf.constant(stored * (ROWS * COLUMNS // 2))
settings = Augmentation()
windows = random_windows(sizes_of(encoded), (SEED, 0), settings.area, settings.aspect)
images = decode_windows(encoded, windows, SIZE, SIZE).numpy()

figure = Figure(figsize=(11, 5.3), layout="constrained")
ratios = {"width_ratios": [1.5, 1] * COLUMNS, "hspace": 0.02}
axes = figure.subplots(ROWS, 2 * COLUMNS, gridspec_kw=ratios)
for number, (top, left, height, width, mirrored) in enumerate(windows.numpy()):
    source, result = axes.flat[2 * number], axes.flat[2 * number + 1]
    photograph = np.asarray(Image.open(io.BytesIO(stored[number % 2])))
    source.imshow(photograph)
    crop = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, color="#D55E00", lw=1.5)
    source.add_patch(crop)
    share = height * width / photograph[..., 0].size
    source.set_title(f"{share:.0%}, {width / height:.2f}", fontsize=8, pad=2)
    result.imshow(images[number])
    result.set_title("mirrored" if mirrored else "", fontsize=8, pad=2)
    source.set_axis_off()
    result.set_axis_off()
title = "Stored photograph with its random crop (share of the area, width / height)"
figure.suptitle(f"{title}, and the {SIZE} x {SIZE} training image", fontsize=10)
figure.savefig(Path(__file__).with_name("augmentation.jpg"), dpi=110, pil_kwargs={"quality": 88})
