"""A picture of some images of each class, for the eye to compare with the labels."""

import io
import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.check.folders import Folder
from datasets.check.records import ShardReport
from datasets.records.examples import parse_example
from datasets.records.frames import read_record
from datasets.records.schema import keys_of

CLASSES = 24  # rows of the picture, spread evenly over the labels
IMAGES = 5  # of each class and split


def draw_samples(folders: Iterable[Folder], path: Path) -> bool:
    """Draws images of up to `CLASSES` classes, a row for each, the splits side by side.

    A mapping of labels that differs between training and validation is easy to see there. Of
    several folders, the one with the most bytes is drawn. False if there is no image.
    """
    from matplotlib.figure import Figure  # slow to import

    there = [folder for folder in folders if any(len(r.rows) for r in folder.reports)]
    if not there:
        return False
    folder = max(there, key=lambda folder: sum(report.bytes for report in folder.reports))
    splits, names = folder.splits, folder.class_names
    labels = np.unique(np.concatenate([report.rows["label"] for report in folder.reports]))
    chosen = labels[np.unique(np.linspace(0, len(labels) - 1, CLASSES).round().astype(int))]

    columns = (IMAGES + 1) * len(splits) - 1  # an empty one between two splits
    figure = Figure(figsize=(0.8 * columns, 0.8 * len(chosen)))
    axes = figure.subplots(
        len(chosen),
        columns,
        squeeze=False,
        gridspec_kw={"wspace": 0.06, "hspace": 0.06},
        subplot_kw={"xticks": [], "yticks": [], "frame_on": False},
    )
    draw = random.Random(0)
    for row, label in zip(axes, chosen.tolist(), strict=True):
        text = f"{label}  {names.get(label, '')[:18]}"
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
        for number, reports in enumerate(splits.values()):
            for column, image in enumerate(_sample(reports, label, draw)):
                row[number * (IMAGES + 1) + column].imshow(image)
    for number, prefix in enumerate(splits):
        title = f"{folder.path.name}/{prefix}"
        axes[0][number * (IMAGES + 1)].set_title(title, fontsize=9, loc="left")
    if len(chosen) < len(labels):
        figure.text(0.5, 0.08, f"{len(chosen)} of {len(labels)} classes", ha="center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return True


def _sample(reports: Sequence[ShardReport], label: int, draw: random.Random) -> list[Image.Image]:
    """Some images of a class, from as many shards as possible."""
    places = []
    for report in reports:
        found = report.rows["index"][report.rows["label"] == label].tolist()
        places.append([(report.path, record) for record in found])
    ones = [draw.choice(own) for own in places if own]
    if len(ones) < IMAGES:  # few shards
        ones = list(itertools.chain(*places))
    images = []
    for path, record in draw.sample(ones, min(IMAGES, len(ones))):
        example = parse_example(read_record(path, record))
        with Image.open(io.BytesIO(example[keys_of(example).image][0])) as image:
            images.append(image.convert("RGB"))
            images[-1].thumbnail((160, 160))
    return images
