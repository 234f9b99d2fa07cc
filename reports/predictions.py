"""What a run gets wrong, and how sure it is: figures, pictures and the images. No TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datasets.build.images import convert
from datasets.records.examples import parse_example
from datasets.records.frames import read_record
from datasets.records.schema import keys_of
from evaluation.predictions import (
    Predictions,
    calibrate,
    confusion_matrix,
    expected_calibration_error,
    hits_by_class,
    surest_mistakes,
    worst_pairs,
)
from reports.pictures import COLOURS, LEGEND, WIDTH, Style, line_style
from reports.run_record import RunRecord

MOST_CLASSES = 25  # that are drawn one by one; of more, the worst
MOST_PAIRS = 20
MOST_MISTAKES = 24
SHORT_SIDE = 160  # pixels of an image on the sheet


def summarize_predictions(record: RunRecord) -> dict[str, Any]:
    """All figures of a run's predictions, as plain data ready for JSON.

    Classes have their names. `by_class` and `confusions` hold the worst first; `confusions` are
    pairs of a label and another class that is predicted, with the share of the label's images.
    """
    found, names = _predictions(record), record.facts["class names"]
    hits, images = hits_by_class(found.labels, found.correct, len(names))
    by_class = [
        {"class": name, "images": int(n), "hits": int(hit), "top1": hit / n}
        for name, hit, n in zip(names, hits.tolist(), images.tolist(), strict=True)
        if n
    ]
    pairs = worst_pairs(found.labels, found.classes[:, 0], MOST_PAIRS)
    bins = calibrate(found.confidences, found.correct)
    mistakes = [
        {
            "file": found.files[i],
            "record": int(found.records[i]),
            "name": found.names[i],
            "label": names[found.labels[i]],
            "predicted": names[found.classes[i, 0]],
            "probability": float(found.confidences[i]),
        }
        for i in surest_mistakes(found, MOST_MISTAKES)
    ]
    return {
        "images": len(found.labels),
        "top1": float(found.correct.mean()),
        "confidence": float(found.confidences.mean()),
        "expected_calibration_error": expected_calibration_error(bins),
        "by_class": sorted(by_class, key=lambda row: row["top1"]),
        "confusions": [
            {"label": names[a], "predicted": names[b], "images": n, "share": n / int(images[a])}
            for a, b, n in pairs
        ],
        "calibration": [asdict(own) for own in bins],
        "mistakes": mistakes,
    }


def images_of(record: RunRecord, mistakes: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
    """The images of mistakes as JPEGs, read back from the records.

    None for one that is not there: records may have been moved, or built again.
    """
    return [_image(record.facts["images"], mistake) for mistake in mistakes]


def _image(folder: Any, mistake: Mapping[str, Any]) -> bytes | None:
    try:
        example = parse_example(read_record(folder / mistake["file"], mistake["record"]))
        keys = keys_of(example)
        (name,) = example.get(keys.filename) or [b""]
        if name.decode(errors="replace") != mistake["name"]:
            return None
        ((jpeg, _, _),) = convert(example[keys.image][0], [SHORT_SIDE], None)
        return jpeg
    except Exception:  # no file, other records, or an image that Pillow refuses in its many ways
        return None


def draw_predictions(records: Sequence[RunRecord]) -> dict[str, Figure]:
    """The pictures for which the records have data, by file name.

    One run has its confusions, too. Runs with other classes than the first are left out.
    """
    there = [record for record in records if record.predictions]
    if not there:
        return {}
    names = there[0].facts["class names"]
    same = [record for record in there if record.facts["class names"] == names]
    figures = {}
    if len(records) == 1:
        figures["confusions"] = draw_confusions(there[0])
    figures["accuracy_by_class"] = draw_by_class(same)
    figures["calibration"] = draw_calibration(there)
    return figures


def draw_confusions(record: RunRecord) -> Figure:
    """The whole confusion matrix of few classes; of many, the worst pairs as bars."""
    found, names = _predictions(record), record.facts["class names"]
    predicted = found.classes[:, 0]
    if len(names) > MOST_CLASSES:
        pairs = worst_pairs(found.labels, predicted, MOST_PAIRS)
        labels = [
            f"{_short(names[a])} \N{RIGHTWARDS ARROW} {_short(names[b])}" for a, b, _ in pairs
        ]
        figure = Figure(figsize=(WIDTH, 1.2 + 0.25 * len(pairs)), layout="constrained")
        axes = figure.subplots()
        axes.barh(labels, [n for _, _, n in pairs], color=COLOURS[0])
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="images")
        axes.set_title("what is most often taken for what", loc="left")
        return figure
    matrix = confusion_matrix(found.labels, predicted, len(names))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (label, other), images in np.ndenumerate(matrix):
        if images:
            colour = "white" if shares[label, other] > 0.6 else "black"
            style: Style = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            axes.text(other, label, f"{images}", **style)
    short = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90 if max(map(len, short)) > 2 else 0)
    axes.set_yticks(range(len(names)), short)
    axes.set(xlabel="predicted class", ylabel="label")
    axes.set_title("images by label and predicted class", loc="left")
    return figure


def draw_by_class(records: Sequence[RunRecord]) -> Figure:
    """Top-1 of each class, the worst first by the first run; of many classes, the curve."""
    names = records[0].facts["class names"]
    tops = []
    for record in records:
        found = _predictions(record)
        hits, images = hits_by_class(found.labels, found.correct, len(names))
        tops.append(np.divide(100 * hits, images, np.full(len(names), np.nan), where=images > 0))
    order = np.argsort(tops[0], kind="stable")
    few = len(names) <= MOST_CLASSES
    figure = Figure(figsize=(WIDTH, 1.6 + 0.25 * len(names) if few else 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (record, top1) in enumerate(zip(records, tops, strict=True)):
        style = line_style(number)
        if few:
            style |= {"linestyle": "", "markersize": 7}
            axes.plot(top1[order], range(len(names)), **style, label=record.name)
        else:
            style |= {"marker": ""}
            axes.plot(np.arange(1, len(names) + 1), np.sort(top1), **style, label=record.name)
    if few:
        axes.set_yticks(range(len(names)), [_short(names[i]) for i in order])
        axes.invert_yaxis()
        axes.set(xlabel="top-1 of the class, %")
        axes.margins(x=0.03)
    else:
        axes.set(xlabel="classes, the worst first", ylabel="top-1 of the class, %", ylim=(0, 105))
    axes.grid(axis="both", color="#d0d0d0", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title("accuracy by class", loc="left")
    if len(records) > 1:
        figure.legend(**LEGEND)
    return figure


def draw_calibration(records: Sequence[RunRecord]) -> Figure:
    """The reliability diagram: accuracy against confidence, over the images in each bin."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    whole = {"color": "#666666", "linewidth": 1, "linestyle": ":"}
    axes.plot([0, 100], [0, 100], **whole, label="confidence is accuracy")
    for number, record in enumerate(records):
        found = _predictions(record)
        bins = calibrate(found.confidences, found.correct)
        error = expected_calibration_error(bins)
        there = [own for own in bins if own.images]
        points = [(100 * own.confidence, 100 * own.accuracy) for own in there]
        label = f"{record.name}: expected calibration error {error:.1%}"
        axes.plot(*zip(*points, strict=True), **line_style(number), label=label)
        shares = [100 * own.images / len(found.labels) for own in bins]
        edges = [100 * own.low for own in bins] + [100]
        below.stairs(shares, edges, color=line_style(number)["color"], fill=len(records) == 1)
    axes.set(ylabel="accuracy, %", ylim=(0, 103))
    axes.grid(color="#d0d0d0", linewidth=0.5)
    axes.set_title("how sure it is, and how often it is right", loc="left")
    below.set(xlabel="probability of the predicted class, %", ylabel="% of images", xlim=(0, 101))
    figure.legend(**LEGEND | {"ncols": 1})
    return figure


def _predictions(record: RunRecord) -> Predictions:
    """Those of a run that is known to have them."""
    assert record.predictions is not None
    return record.predictions


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
