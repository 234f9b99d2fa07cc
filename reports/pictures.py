"""The pictures of a report, readable in grey and for the colour-blind.

Colours are Okabe and Ito's, in an order of different lightness; every line also has a style
and a marker of its own, every bar a hatch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.clock import BUCKETS
from reports.run_record import EvaluatedCheckpoint, RunRecord
from reports.time_to_accuracy import LABELS, Target, time_to

Style = dict[str, Any]  # arguments of Matplotlib

BLUE, VERMILION, SKY, BLACK = "#0072B2", "#D55E00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, SKY, BLACK, "#E69F00", "#009E73", "#CC79A7")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Of bars: light and dark in turn, so that neighbours differ in grey, too.
FILLS = ("#E69F00", SKY, VERMILION, "#d9eaf5", "#555555", "#F0E442")
HATCHES = ("//", "..", "xx", "", "\\\\", "++")
SHADES = ("#f4f4f4", "#e4e4e4")  # of phases in turn
TARGET: Style = {"color": BLACK, "linewidth": 1, "linestyle": (0, (6, 3))}
STAR: Style = {"marker": "*", "markersize": 15, "color": "#F0E442", "markeredgecolor": BLACK}
TRAINING: Style = {"color": "#666666", "linewidth": 1, "linestyle": ":"}
BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "linewidth": 0}
PANELS = {
    "learning_rate": "learning rate",
    "batch_size": "batch a worker",
    "image_size": "image size, px",
    "images_per_second": "images/s",
}


def draw_all(records: Sequence[RunRecord], clock: str, target: Target | None) -> dict[str, Figure]:
    """The pictures for which the records have data, by file name."""
    figures = {}
    if any(record.checkpoints for record in records):
        figures["accuracy_vs_time"] = draw_accuracy(records, clock, target)
    if any(record.windows or record.phases for record in records):
        figures["schedule_vs_steps"] = draw_schedule(records)
    if any(record.buckets for record in records):
        figures["time_buckets"] = draw_buckets(records)
    return figures


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which a time axis up to `seconds` reads well, and its seconds."""
    if seconds >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 600 else ("seconds", 1.0)


def draw_accuracy(records: Sequence[RunRecord], clock: str, target: Target | None = None) -> Figure:
    """Accuracy of the checkpoints against seconds on `clock`.

    One run: top-1 and top-5 over its shaded phases. Several: the target's metric of
    each (top-1 where there is no target).
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    whole = max(record.totals[clock] for record in records)
    unit, length = time_unit(whole)
    if len(records) == 1:
        _draw_one_run(axes, records[0], clock, length)
        title = f"{records[0].name}: accuracy against wall-clock time"
    else:
        metric = target.metric if target else "top1"
        for i, record in enumerate(records):
            if record.checkpoints:
                curve = _curve(record.checkpoints, metric, clock, length)
                axes.plot(*curve, **_line(i), label=record.name)
        title = f"{LABELS[metric]} on the validation set against wall-clock time"
    if target:
        axes.axhline(100 * target.value, **TARGET, label=f"target: {target}")
        found = [time_to(target, record.checkpoints, clock) for record in records]
        reached = [(f["seconds"] / length, 100 * f[target.metric]) for f in found if f["reached"]]
        if reached:
            label = "first checkpoint there"
            axes.plot(*zip(*reached, strict=True), **STAR, linestyle="", zorder=5, label=label)
    axes.set(ylabel="accuracy, %", ylim=(0, 110), yticks=range(0, 101, 20))
    axes.set(xlabel=f"{unit} (clock: {clock})", xlim=(0, 1.01 * whole / length))
    axes.set_title(title, loc="left")
    axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _curve(
    checkpoints: Sequence[EvaluatedCheckpoint], metric: str, clock: str, length: float
) -> tuple[list[float], list[float]]:
    """Times in units of `length` seconds, and percents."""
    times = [checkpoint.seconds[clock] / length for checkpoint in checkpoints]
    return times, [100 * getattr(checkpoint, metric) for checkpoint in checkpoints]


def _draw_one_run(axes: Axes, record: RunRecord, clock: str, length: float) -> None:
    if clock in record.timelines:
        labels: list[list[Any]] = []
        for number, phase in enumerate(record.phases):
            begin = record.seconds_at(phase.first, clock) / length if number else 0.0
            end = record.seconds_at(phase.end, clock) / length
            axes.axvspan(begin, end, color=SHADES[number % 2], linewidth=0, zorder=-1)
            label = f"{phase.image_size} px\nbatch {phase.batch_size}"
            if labels and labels[-1][0] == label:
                labels[-1][2] = end  # phases of one stage share their label
            else:
                labels.append([label, begin, end])
        for label, begin, end in labels:
            if end - begin > 0.05 * record.totals[clock] / length:
                place = (begin + end) / 2, 1.5
                axes.annotate(label, place, ha="center", va="bottom", fontsize=8, color="#444444")
        windows = [row for row in record.windows if row["step"]]
        if windows:
            times = [record.seconds_at(row["step"], clock) / length for row in windows]
            values = [100 * row["top5"] for row in windows]
            axes.plot(times, values, **TRAINING, label="top-5 of the training batches")
    for i, metric, offset in ((1, "top5", 6), (0, "top1", -15)):
        times, values = _curve(record.checkpoints, metric, clock, length)
        axes.plot(times, values, **_line(i), label=f"{LABELS[metric]} on the validation set")
        style: Style = {"xytext": (0, offset), "textcoords": "offset points", "ha": "right"}
        last = times[-1], values[-1]
        axes.annotate(f"{values[-1]:.2f} %", last, color=COLOURS[i], **style)


def draw_schedule(records: Sequence[RunRecord]) -> Figure:
    """Learning rate, batch size, image size and throughput against steps."""
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    rows = figure.subplots(len(PANELS), 1, sharex=True)
    for axes, (key, label) in zip(rows, PANELS.items(), strict=True):
        if len(records) == 1:
            for number, phase in enumerate(records[0].phases):
                axes.axvspan(phase.first, phase.end, color=SHADES[number % 2], linewidth=0)
        for i, record in enumerate(records):
            steps, values = _against_steps(record, key)
            if len(steps):
                axes.plot(steps, values, **_line(i) | {"marker": ""}, label=record.name)
        axes.margins(x=0.005, y=0.12)
        axes.set(ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    rows[-1].set_xlabel("steps")
    name = f"{records[0].name}: " if len(records) == 1 else ""
    rows[0].set_title(f"{name}schedule and throughput", loc="left")
    if len(records) > 1:
        lines = {line.get_label(): line for axes in rows for line in axes.get_lines()}
        handles = list(lines.values())
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _against_steps(record: RunRecord, key: str) -> tuple[Any, Any]:
    """Steps and values for a panel: of the schedule, the phases or the windows."""
    if key == "learning_rate" and record.schedule:
        whole = np.linspace(0, record.schedule.total_steps, 500).round().astype(int)
        return whole, [record.schedule.learning_rate(int(step)) for step in whole]
    # The rates of whole phases are drawn only where there are no windows.
    if record.phases and (
        key.endswith("_size") or (key == "images_per_second" and not record.windows)
    ):
        steps = [step for phase in record.phases for step in (phase.first, phase.end)]
        values = np.array([getattr(phase, key) for phase in record.phases], float)
        return steps, np.repeat(values, 2)
    return [row["step"] for row in record.windows], [row[key] for row in record.windows]


def draw_buckets(records: Sequence[RunRecord]) -> Figure:
    """The seconds in each bucket, a stacked bar a run, labelled where there is room."""
    names = [record.name for record in records if record.buckets]
    seconds = np.array([[r.buckets[name] for name in BUCKETS] for r in records if r.buckets])
    totals = seconds.sum(axis=1)
    unit, length = time_unit(totals.max())
    figure = Figure(figsize=(9, 2 + 0.6 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(names))
    for name, widths, colour, hatch in zip(BUCKETS, seconds.T, FILLS, HATCHES, strict=True):
        style: Style = {"color": colour, "hatch": hatch, "edgecolor": BLACK, "linewidth": 0.5}
        label = name.replace("_", "-")
        bars = axes.barh(range(len(names)), widths / length, 0.6, left, label=label, **style)
        shares = [f"{share:.0%}" if share >= 0.06 else "" for share in widths / totals]
        axes.bar_label(bars, shares, label_type="center", fontsize=8, bbox=BOX)
        left += widths / length
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} since the start of the run")
    axes.set_title("where the time went", loc="left")
    figure.legend(loc="outside lower center", ncols=len(BUCKETS), frameon=False)
    return figure


def _line(number: int) -> Style:
    """Colour, style and marker of line `number`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }
