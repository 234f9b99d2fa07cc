"""The pictures of a report, readable in grey and for the colour-blind.

Colours are Okabe and Ito's, in an order of different lightness; every line also has a
style and a marker of its own, every bar a hatch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.clock import BUCKETS
from reports.run_record import PhaseRecord, RunRecord
from reports.time_to_accuracy import LABELS, Target, time_to

BLUE, VERMILION, SKY, BLACK = "#0072B2", "#D55E00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, SKY, BLACK, "#E69F00", "#009E73", "#CC79A7")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("//", "..", "xx", "", "\\\\", "++")
GREY, SHADES = "#666666", ("#f4f4f4", "#e4e4e4")


def draw_all(records: Sequence[RunRecord], clock: str, target: Target | None) -> dict[str, Figure]:
    """The pictures for which the records hold what is to be drawn, by file name."""
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
    for name, length, least in (("hours", 3600.0, 3 * 3600), ("minutes", 60.0, 600)):
        if seconds >= least:
            return name, length
    return "seconds", 1.0


def draw_accuracy(records: Sequence[RunRecord], clock: str, target: Target | None = None) -> Figure:
    """Accuracy of the checkpoints against seconds on `clock`.

    One run: top-1 and top-5 over its shaded phases. Several: the target's metric of
    each (top-1 where there is no target).
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    unit, length = time_unit(max(record.totals[clock] for record in records))
    if len(records) == 1:
        _draw_one_run(axes, records[0], clock, length)
        title = f"{records[0].name}: accuracy against wall-clock time"
    else:
        metric = target.metric if target else "top1"
        for i, record in enumerate(records):
            if record.checkpoints:
                axes.plot(
                    [c.seconds[clock] / length for c in record.checkpoints],
                    [100 * getattr(c, metric) for c in record.checkpoints],
                    **_line(i), label=record.name,
                )  # fmt: skip
        title = f"{LABELS[metric]} on the validation set against wall-clock time"
    if target:
        axes.axhline(
            100 * target.value, color=BLACK, linewidth=1, linestyle=(0, (6, 3)),
            label=f"target: {target}",
        )  # fmt: skip
        reached = [time_to(target, record.checkpoints, clock) for record in records]
        reached = [found for found in reached if found["reached"]]
        if reached:
            axes.plot(
                [found["seconds"] / length for found in reached],
                [100 * found[target.metric] for found in reached],
                marker="*", markersize=15, color="#F0E442", markeredgecolor=BLACK, zorder=5,
                linestyle="", label="first checkpoint there",
            )  # fmt: skip
    last = max(record.totals[clock] for record in records) / length
    axes.set(ylabel="accuracy, %", xlim=(0, 1.01 * last), ylim=(0, 110), yticks=range(0, 101, 20))
    axes.set_xlabel(f"{unit} (clock: {clock})")
    axes.set_title(title, loc="left")
    axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_one_run(axes: Axes, record: RunRecord, clock: str, length: float) -> None:
    if clock in record.timelines:
        labels: list[list[Any]] = []
        for number, phase in enumerate(record.phases):
            begin, end = (record.seconds_at(s, clock) / length for s in (phase.first, phase.end))
            begin = begin if number else 0.0
            axes.axvspan(begin, end, color=SHADES[number % 2], linewidth=0, zorder=-1)
            label = f"{phase.image_size} px\nbatch {phase.batch_size}"
            if labels and labels[-1][0] == label:
                labels[-1][2] = end  # phases of one stage share their label
            else:
                labels.append([label, begin, end])
        for label, begin, end in labels:
            if end - begin > 0.05 * record.totals[clock] / length:
                axes.annotate(
                    label, ((begin + end) / 2, 1.5), ha="center", va="bottom", fontsize=8,
                    color="#444444",
                )  # fmt: skip
        windows = [row for row in record.windows if row["step"]]
        if windows:
            axes.plot(
                [record.seconds_at(row["step"], clock) / length for row in windows],
                [100 * row["top5"] for row in windows],
                color=GREY, linewidth=1, linestyle=":", label="top-5 of the training batches",
            )  # fmt: skip
    seconds = [c.seconds[clock] / length for c in record.checkpoints]
    for i, metric in enumerate(("top5", "top1")):
        values = [100 * getattr(c, metric) for c in record.checkpoints]
        axes.plot(seconds, values, **_line(1 - i), label=f"{LABELS[metric]} on the validation set")
        axes.annotate(
            f"{values[-1]:.2f} %", (seconds[-1], values[-1]), ha="right", color=COLOURS[1 - i],
            xytext=(0, 6 if metric == "top5" else -15), textcoords="offset points",
        )  # fmt: skip


def draw_schedule(records: Sequence[RunRecord]) -> Figure:
    """Learning rate, batch size, image size and throughput against steps."""
    panels = (
        ("learning_rate", "learning rate"),
        ("batch_size", "batch a worker"),
        ("image_size", "image size, px"),
        ("images_per_second", "images/s"),
    )
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    rows = figure.subplots(len(panels), 1, sharex=True)
    if len(records) == 1:
        for axes in rows:
            for number, phase in enumerate(records[0].phases):
                axes.axvspan(phase.first, phase.end, color=SHADES[number % 2], linewidth=0)
    for i, record in enumerate(records):
        line = _line(i) | {"marker": ""}
        for axes, (key, _) in zip(rows, panels, strict=True):
            if key == "learning_rate" and record.schedule:
                whole = np.linspace(0, record.schedule.total_steps, 500).round().astype(int)
                rates = [record.schedule.learning_rate(int(step)) for step in whole]
                axes.plot(whole, rates, **line, label=record.name)
            elif key in ("batch_size", "image_size") and record.phases:
                axes.plot(*_stairs(record.phases, key), **line, label=record.name)
            elif record.windows:
                values = [row[key] for row in record.windows]
                steps = [row["step"] for row in record.windows]
                axes.plot(steps, values, **line, label=record.name)
            elif key == "images_per_second" and record.phases:
                # The rates of whole phases, where they are all there is.
                axes.plot(*_stairs(record.phases, key), **line, label=record.name)
    for axes, (_, label) in zip(rows, panels, strict=True):
        axes.margins(x=0.005, y=0.12)
        axes.set(ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    rows[-1].set_xlabel("steps")
    rows[0].set_title(
        (f"{records[0].name}: " if len(records) == 1 else "") + "schedule and throughput",
        loc="left",
    )
    if len(records) > 1:
        handles = {label: handle for axes in rows for handle, label in
                   zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
        figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                      ncols=3, frameon=False)  # fmt: skip
    return figure


def _stairs(phases: Sequence[PhaseRecord], key: str) -> tuple[Any, Any]:
    steps = np.array([(phase.first, phase.end) for phase in phases]).ravel()
    return steps, np.repeat(np.array([getattr(phase, key) for phase in phases], float), 2)


def draw_buckets(records: Sequence[RunRecord]) -> Figure:
    """The seconds in each bucket, a stacked bar a run, labelled where there is room."""
    shown = [record for record in records if record.buckets]
    unit, length = time_unit(max(sum((record.buckets or {}).values()) for record in shown))
    figure = Figure(figsize=(9, 2 + 0.6 * len(shown)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(shown))
    # Light and dark in turn, so that neighbours differ in grey, too.
    colours = ("#E69F00", SKY, VERMILION, "#d9eaf5", "#555555", "#F0E442")
    for name, colour, hatch in zip(BUCKETS, colours, HATCHES, strict=True):
        widths = np.array([(record.buckets or {})[name] for record in shown]) / length
        axes.barh(range(len(shown)), widths, left=left, color=colour, hatch=hatch, height=0.6,
                  edgecolor=BLACK, linewidth=0.5, label=name.replace("_", "-"))  # fmt: skip
        for i, width in enumerate(widths):
            share = width * length / sum((shown[i].buckets or {}).values())
            if share >= 0.06:
                axes.annotate(
                    f"{share:.0%}", (left[i] + width / 2, i), ha="center", va="center", fontsize=8,
                    bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "linewidth": 0},
                )  # fmt: skip
        left += widths
    axes.set_yticks(range(len(shown)), [record.name for record in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} since the start of the run")
    axes.set_title("where the time went", loc="left")
    figure.legend(loc="outside lower center", ncols=len(BUCKETS), frameon=False)
    return figure


def _line(number: int) -> dict[str, Any]:
    """Colour, style and marker of line `number`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }
