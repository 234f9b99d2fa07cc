"""The pictures of a report, readable in grey and for the colour-blind.

Colours are Okabe and Ito's, in an order of different lightness; every line also has a style
and a marker of its own, every bar a hatch.
"""

import io
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core import files
from core.clock import BUCKETS
from reports.run_record import RunRecord
from reports.time_to_accuracy import LABELS, Target, time_to

Style = dict[str, Any]  # arguments of Matplotlib

WIDTH, NARROW = 9, 4.6  # inches; usual, and for a phone
COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#000000", "#E69F00", "#009E73", "#CC79A7")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Of bars: light and dark in turn, so that neighbours differ in grey, too.
FILLS = ("#E69F00", "#56B4E9", "#D55E00", "#d9eaf5", "#555555", "#F0E442")
HATCHES = ("//", "..", "xx", "", "\\\\", "++")
SHADES = ("#f4f4f4", "#e4e4e4")  # of phases in turn
TARGET: Style = {"color": "black", "linewidth": 1, "linestyle": (0, (6, 3))}
STAR: Style = {"marker": "*", "markersize": 15, "color": "#F0E442", "markeredgecolor": "black"}
TRAINING: Style = {"color": "#666666", "linewidth": 1, "linestyle": ":"}
LEGEND: Style = {"loc": "outside lower center", "ncols": 3, "frameon": False}
BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "linewidth": 0}
PANELS = {
    "learning_rate": "learning rate",
    "momentum": "momentum",
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


def save(figure: Figure, png: Path, svg: Path) -> bytes | None:
    """Saves a picture as two files; returns it as an SVG for a phone, with text of the same size.

    A picture that is wider than the usual has too much in it for a phone: None.
    """
    figure.set_dpi(120)
    _lay_out(figure)
    for path in (png, svg):
        with files.whole(path) as unfinished:
            figure.savefig(unfinished, dpi=120, format=path.suffix[1:])
    width, height = figure.get_size_inches()
    if width > WIDTH:
        return None
    for legend in figure.legends:
        handles = [handle for handle in legend.legend_handles if handle]
        texts = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        figure.legend(handles, texts, **LEGEND | {"ncols": 3 if max(map(len, texts)) < 13 else 1})
    for axes in figure.axes:
        axes.set_title(textwrap.fill(axes.get_title("left"), 42), loc="left")
    figure.set_size_inches(NARROW, NARROW if width == height else min(height, 6))
    figure.set_layout_engine("constrained")
    _lay_out(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()


def _lay_out(figure: Figure) -> None:
    """Places all parts of a figure, once for all files. To save it would draw it twice for that."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)


def _time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which a time axis up to `seconds` reads well, and its seconds."""
    if seconds >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 600 else ("seconds", 1.0)


def draw_accuracy(records: Sequence[RunRecord], clock: str, target: Target | None = None) -> Figure:
    """Accuracy of the checkpoints against seconds on `clock`.

    One run: top-1 and top-5 over its shaded phases. Several: the target's metric of
    each (top-1 where there is no target).
    """
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    axes = figure.subplots()
    whole = max(record.totals[clock] for record in records)
    unit, length = _time_unit(whole)
    metrics = [target.metric if target else "top1"]
    title = f"{LABELS[metrics[0]]} on the validation set"
    if alone := len(records) == 1:
        metrics, title = ["top1", "top5"], f"{records[0].name}: accuracy"
        _draw_phases(axes, records[0], clock, length)
    for i, (record, metric) in enumerate(itertools.product(records, metrics)):
        if not record.checkpoints:
            continue
        times = [checkpoint.seconds[clock] / length for checkpoint in record.checkpoints]
        values = [100 * getattr(checkpoint, metric) for checkpoint in record.checkpoints]
        label = f"{LABELS[metric]} on the validation set"
        axes.plot(times, values, **line_style(i), label=label if alone else record.name)
        if alone:
            style: Style = {"xytext": (0, -15 if metric == "top1" else 6), "ha": "right"}
            style |= {"textcoords": "offset points", "color": COLOURS[i]}
            axes.annotate(f"{values[-1]:.2f} %", (times[-1], values[-1]), **style)
    if target:
        axes.axhline(100 * target.value, **TARGET, label=f"target: {target}")
        found = [time_to(target, record.checkpoints, clock) for record in records]
        reached = [(f["seconds"] / length, 100 * f[target.metric]) for f in found if f["reached"]]
        if reached:
            label = "first checkpoint there"
            axes.plot(*zip(*reached, strict=True), **STAR, linestyle="", zorder=5, label=label)
    axes.set(ylabel="accuracy, %", ylim=(0, 110), yticks=range(0, 101, 20))
    axes.set(xlabel=f"{unit} (clock: {clock})", xlim=(0, 1.01 * whole / length))
    axes.set_title(f"{title} against wall-clock time", loc="left")
    axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(**LEGEND)
    return figure


def _draw_phases(axes: Axes, record: RunRecord, clock: str, length: float) -> None:
    """Shades and labels the phases, and draws the accuracy of the training batches."""
    if clock not in record.timelines:
        return

    def at(step: int) -> float:
        return record.seconds_at(step, clock) / length if step else 0.0

    for number, phase in enumerate(record.phases):
        shade: Style = {"color": SHADES[number % 2], "linewidth": 0, "zorder": -1}
        axes.axvspan(at(phase.first), at(phase.end), **shade)
    # Phases of one stage share their label.
    for (size, batch), group in itertools.groupby(record.phases, lambda phase: phase.shape):
        stage = list(group)
        begin, end = at(stage[0].first), at(stage[-1].end)
        if end - begin > 0.05 * record.totals[clock] / length:
            text: Style = {"ha": "center", "va": "bottom", "fontsize": 8, "color": "#444444"}
            axes.annotate(f"{size} px\nbatch {batch}", ((begin + end) / 2, 1.5), **text)
    points = [(at(row["step"]), 100 * row["top5"]) for row in record.windows if row["step"]]
    if points:
        axes.plot(*zip(*points, strict=True), **TRAINING, label="top-5 of the training batches")


def draw_schedule(records: Sequence[RunRecord]) -> Figure:
    """Learning rate, momentum where it moves, batch, image size and throughput against steps."""
    moves = any(r.schedule and r.schedule.momentum(0) is not None for r in records)
    panels = {key: label for key, label in PANELS.items() if moves or key != "momentum"}
    figure = Figure(figsize=(WIDTH, 1.875 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), 1, sharex=True)
    for axes, (key, label) in zip(rows, panels.items(), strict=True):
        if len(records) == 1:
            for number, phase in enumerate(records[0].phases):
                axes.axvspan(phase.first, phase.end, color=SHADES[number % 2], linewidth=0)
        for i, record in enumerate(records):
            steps, values = _against_steps(record, key)
            if len(steps):
                axes.plot(steps, values, **line_style(i) | {"marker": ""}, label=record.name)
        axes.margins(x=0.005, y=0.12)
        axes.set(ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    rows[-1].set_xlabel("steps")
    name = f"{records[0].name}: " if len(records) == 1 else ""
    rows[0].set_title(f"{name}schedule and throughput", loc="left")
    if len(records) > 1:
        lines = {line.get_label(): line for axes in rows for line in axes.get_lines()}
        figure.legend(handles=[*lines.values()], **LEGEND)
    return figure


def _against_steps(record: RunRecord, key: str) -> tuple[Any, Any]:
    """Steps and values for a panel: of the schedule, the phases or the windows."""
    if key in ("learning_rate", "momentum") and record.schedule:
        whole = np.linspace(0, record.schedule.total_steps, 500).round().astype(int)
        at = getattr(record.schedule, key)
        found = [at(int(step)) for step in whole]
        return (whole, found) if found[0] is not None else ([], [])
    if key == "momentum":
        return [], []
    # The rates of whole phases are drawn only where there are no windows.
    of_phases = ("batch_size", "image_size") + (() if record.windows else ("images_per_second",))
    if record.phases and key in of_phases:
        steps = [step for phase in record.phases for step in (phase.first, phase.end)]
        values = np.array([getattr(phase, key) for phase in record.phases], float)
        return steps, np.repeat(values, 2)
    return [row["step"] for row in record.windows], [row[key] for row in record.windows]


def draw_buckets(records: Sequence[RunRecord]) -> Figure:
    """The seconds in each bucket, a stacked bar a run, labelled where there is room."""
    names = [record.name for record in records if record.buckets]
    seconds = np.array([[r.buckets[name] for name in BUCKETS] for r in records if r.buckets])
    totals = seconds.sum(axis=1)
    unit, length = _time_unit(totals.max())
    figure = Figure(figsize=(WIDTH, 2 + 0.6 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(names))
    for name, widths, colour, hatch in zip(BUCKETS, seconds.T, FILLS, HATCHES, strict=True):
        style: Style = {"color": colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.5}
        label = name.replace("_", "-")
        bars = axes.barh(range(len(names)), widths / length, 0.6, left, label=label, **style)
        shares = [f"{share:.0%}" if share >= 0.06 else "" for share in widths / totals]
        axes.bar_label(bars, shares, label_type="center", fontsize=8, bbox=BOX)
        left += widths / length
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} since the start of the run")
    axes.set_title("where the time went", loc="left")
    figure.legend(**LEGEND | {"ncols": len(BUCKETS)})
    return figure


def line_style(number: int) -> Style:
    """Colour, style and marker of line `number`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }
