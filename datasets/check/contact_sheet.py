"""A picture of some images of each class, for the eye to compare with the labels."""

import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.check.records import ShardReport
from datasets.records.reader import parse_example, read_record
from datasets.records.schema import keys_among

CLASSES = 24  # rows of the picture, spread evenly over the labels
IMAGES = 5  # of each class and split


def draw_samples(
    reports: Mapping[Path, Sequence[ShardReport]],
    names: Mapping[Path, Mapping[int, str]],
    path: Path,
    seed: int = 0,
) -> bool:
    """Draws images of up to `CLASSES` classes, a row for each, the splits side by side.

    A mapping of labels that differs between training and validation shows at once. Of
    several folders that of the largest images is drawn: by the manifests' sizes or, without
    them, by the bytes an image.

    Args:
        reports: of the shards of each folder.
        names: of the classes by label, for each folder.
        path: of the picture; the ending tells the format.
        seed: of the choice.

    Returns:
        Whether there was an image to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    there = {folder: own for folder, own in reports.items() if any(len(r.labels) for r in own)}
    if not there:
        return False
    folder = max(there, key=lambda f: (there[f][0].job.size or 0, _bytes_an_image(there[f])))
    splits: dict[str, list[ShardReport]] = {}
    for report in there[folder]:
        splits.setdefault(report.job.prefix, []).append(report)
    labels = np.unique(np.concatenate([report.labels for report in there[folder]]))
    chosen = labels[np.unique(np.linspace(0, len(labels) - 1, CLASSES).round().astype(int))]

    columns = (IMAGES + 1) * len(splits) - 1  # an empty one between two splits
    figure, axes = pyplot.subplots(
        len(chosen), columns, squeeze=False,
        figsize=(0.8 * columns, 0.8 * len(chosen)),
        gridspec_kw={"wspace": 0.06, "hspace": 0.06},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    draw = random.Random(seed)
    for row, label in zip(axes, chosen.tolist(), strict=True):
        name = names.get(folder, {}).get(label, "")
        row[0].text(
            -0.15, 0.5, f"{label}  {name[:18]}", transform=row[0].transAxes,
            ha="right", va="center", fontsize=7,
        )  # fmt: skip
        for number, own in enumerate(splits.values()):
            for column, image in enumerate(_sample(own, label, draw)):
                row[number * (IMAGES + 1) + column].imshow(image)
    for number, prefix in enumerate(splits):
        title = f"{folder.name}/{prefix}"
        axes[0][number * (IMAGES + 1)].set_title(title, fontsize=9, loc="left")
    if len(chosen) < len(labels):
        figure.text(0.5, 0.08, f"{len(chosen)} of {len(labels)} classes", ha="center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return True


def _bytes_an_image(reports: Sequence[ShardReport]) -> float:
    return sum(r.bytes for r in reports) / sum(len(r.labels) for r in reports)


def _sample(reports: Sequence[ShardReport], label: int, draw: random.Random) -> list[Image.Image]:
    """Some images of a class, from as many shards as can be."""
    places = []
    for report in reports:
        found = report.index[report.labels == label]
        if len(found):
            places.append((report.job.path, int(found[draw.randrange(len(found))])))
    if len(places) < IMAGES:  # few shards
        places = [(r.job.path, int(i)) for r in reports for i in r.index[r.labels == label]]
    images = []
    for path, record in draw.sample(places, min(IMAGES, len(places))):
        example = parse_example(read_record(path, record))
        keys = keys_among(example)
        if keys is not None:
            with Image.open(io.BytesIO(example[keys.image][0])) as image:
                images.append(image.convert("RGB"))
                images[-1].thumbnail((160, 160))
    return images
