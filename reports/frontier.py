"""The frontier: accuracy against minutes of published runs and yours, each with its hardware."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Polyline
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from pydantic import TypeAdapter, ValidationError

from core.errors import UserError
from core.settings import Positive, Settings
from reports.pictures import COLOURS, MARKERS, STYLES, Style
from reports.run_record import RunRecord
from reports.time_to_accuracy import LABELS

# Percent below the lowest published end that a panel still shows, and above the highest.
BELOW, ABOVE = 9, 5
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
HUES = [colour for colour in COLOURS if colour != "#000000"]  # black is for the user's own
MINE: Style = {"color": "black", "linewidth": 2.6, "marker": "*", "markersize": 9, "zorder": 5}
POINT: Style = {"color": "#444444", "markerfacecolor": "white", "linestyle": "", "markersize": 8}
TEXT: Style = {
    **{"fontsize": 9, "ha": "center", "va": "center", "textcoords": "offset points", "zorder": 6},
    "path_effects": [withStroke(linewidth=3, foreground="white")],
}
LEADER: Style = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.7, "shrinkA": 0}
# Where a label may stand, in points from its end: above it, or to the right below it, where a
# curve that still rises leaves room. The nearest first; heights count double.
PLACES = sorted(
    (
        (dx, dy)
        for dx in range(-120, 121, 8)
        for dy in range(-48, 131, 6)
        if dy >= 14 or (dx >= 32 and abs(dy) <= dx)
    ),
    key=lambda place: (place[0] ** 2 + 4 * place[1] ** 2 + 4000 * (place[1] < 14), -place[0]),
)

End = tuple[float, float, str]  # minutes, accuracy in percent, and what to write there


class Result(Settings):
    """A published result: what a run reached in the end, and after how long."""

    preset: str | None = None  # which recipe repeats it
    rates: str | None = (
        None  # file of benchmarks/rates with the rates of that hardware and software
    )
    label: str  # who, and on which hardware
    curve: str | None = None  # its file, where the whole curve is published
    minutes: Positive  # as published, by the clock of whoever published them
    top1: Positive | None = None  # percent
    top5: Positive | None = None
    source: str
    note: str = ""


def read_results(path: Path) -> list[Result]:
    """Reads `benchmarks/published/results.yaml`, or a file of its form."""
    try:
        return TypeAdapter(list[Result]).validate_python(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise UserError(f"{path}: result {where}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as results: {error}") from None


def label_of(record: RunRecord) -> str:
    """Who and on what: the label of a published entry, else the run's name and its machine."""
    machine = record.facts.get("environment", {}).get("machine")
    return record.facts.get("label") or ", ".join(filter(None, [record.name, machine]))


def draw_frontier(
    records: Sequence[RunRecord],
    results: Sequence[Result] = (),
    mine: Sequence[RunRecord] = (),
    clock: str = "dawnbench",
    metrics: Sequence[str] = tuple(LABELS),
) -> Figure:
    """A panel for top-1 and one for top-5, against minutes on `clock`: a line for each run.

    Runs with the same label share a colour, and have their epochs at their ends. Of `results`,
    those without a curve become a point. `mine` are drawn on top, thick and black. Raises UserError
    where a run has no evaluated checkpoint, or no time by the clock.
    """
    for record in (*records, *mine):
        if clock not in record.clocks or not record.checkpoints:
            raise UserError(f"{record.source}: no accuracies with times by the clock {clock}")
    figure = Figure(figsize=(9.5, 5.25 * len(metrics)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    ends = [
        _draw_panel(axes, metric, records, results, mine, clock)
        for axes, metric in zip(panels, metrics, strict=True)
    ]
    times = [minutes for minutes, _, _ in itertools.chain(*ends)]
    panels[0].set_xscale("log")
    panels[0].set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
    panels[0].set_xlim(0.6 * min(times), 1.5 * max(times))
    panels[0].set_title(
        "Accuracy against time; the published curves: ResNet-50 on ImageNet", loc="left"
    )
    panels[-1].set_xlabel(
        f"minutes, logarithmic; curves by the clock {clock}, hollow points as published"
    )
    figure.draw_without_rendering()  # so that the axes have their final places
    for axes, found in zip(panels, ends, strict=True):
        _label_ends(axes, found)
    return figure


def _draw_panel(
    axes: Axes,
    metric: str,
    records: Sequence[RunRecord],
    results: Sequence[Result],
    mine: Sequence[RunRecord],
    clock: str,
) -> list[End]:
    """Draws the lines and points of one panel; returns their ends."""
    ends: list[End] = []
    labels = list(dict.fromkeys(map(label_of, records)))
    for record in records:
        number = labels.index(label_of(record))
        siblings = [r for r in records if label_of(r) == label_of(record)]
        style: Style = {"color": HUES[number % len(HUES)], "marker": MARKERS[number % len(MARKERS)]}
        style["linestyle"] = STYLES[number % len(STYLES)]
        minutes, values = _curve(record, metric, clock)
        size = 0 if len(siblings) > 1 else 3
        axes.plot(minutes, values, **style, linewidth=1.3, markersize=size)
        axes.plot(minutes[-1:], values[-1:], **style, markersize=7)
        text = label_of(record)
        if len(siblings) > 1:
            epochs = f"{record.checkpoints[-1].epoch:g}"
            text = f"{text}: {epochs} epochs" if record is siblings[-1] else epochs
        ends.append((minutes[-1], values[-1], text))
    for number, result in enumerate(result for result in results if not result.curve):
        value = getattr(result, metric)
        if value is not None:
            axes.plot(result.minutes, value, marker=MARKERS[number % len(MARKERS)], **POINT)
            ends.append((result.minutes, value, result.label))
    low, high = (f(value for _, value, _ in ends) for f in (min, max))
    for record in mine:
        minutes, values = _curve(record, metric, clock)
        axes.plot(minutes, values, **MINE)
        ends.append((minutes[-1], values[-1], label_of(record)))
        low, high = min(low, values[-1]), max(high, values[-1])
    axes.set(ylim=(low - BELOW, high + ABOVE), ylabel=f"{LABELS[metric]}, %")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks([tick for tick in axes.get_yticks() if low - BELOW <= tick <= 100])
    axes.grid(color="#e0e0e0", linewidth=0.5)
    axes.set_axisbelow(True)
    return ends


def _curve(record: RunRecord, metric: str, clock: str) -> tuple[list[float], list[float]]:
    """Minutes and percent of the checkpoints; a logarithm has no place for minute 0."""
    points = [c for c in record.checkpoints if c.seconds[clock] > 0]
    return [c.seconds[clock] / 60 for c in points], [100 * getattr(c, metric) for c in points]


def _label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Writes each end's text where nothing else stands: the shortest of four ways."""
    marks = axes.transData.transform([(x, y) for x, y, _ in ends])
    notes = [
        axes.annotate(text, (x, y), xytext=(0, 0), arrowprops=LEADER, **TEXT) for x, y, text in ends
    ]
    sizes = [np.add(Text.get_window_extent(note).size, 4) for note in notes]
    pixels = axes.figure.dpi / 72  # of a point
    ways = [
        _places(marks, sizes, order, axes.get_window_extent(), pixels)
        for order in (np.argsort(sign * marks[:, i]) for i in (0, 1) for sign in (1, -1))
    ]
    best = min(ways, key=lambda way: sum(np.hypot(dx, dy) for dx, dy in way.values()))
    for number, place in best.items():
        notes[number].set_position(place)


def _places(
    marks: np.ndarray, sizes: list[np.ndarray], order: np.ndarray, inside: Bbox, pixels: float
) -> dict[int, tuple[int, int]]:
    """The first free place for each label in `order`, in points; all else is in pixels."""
    boxes = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in marks]
    leaders: list[Polyline] = []
    found = {}
    for number in order:
        mark, size = marks[number], sizes[number]
        for place in PLACES:
            x, y = mark + np.array(place) * pixels - size / 2
            box = Bbox.from_bounds(x, y, *size)
            away = np.array(place) / np.hypot(*place)
            leader = Polyline([mark + 8 * away, (x + size[0] / 2, y + size[1] / 2)])
            if (
                inside.contains(x, y)
                and inside.contains(*box.max)
                and not any(
                    box.overlaps(other) or leader.intersects_bbox(other, filled=False)
                    for other in boxes
                )
                and not any(other.intersects_bbox(box, filled=False) for other in leaders)
            ):
                break
        found[int(number)] = place
        boxes.append(box)
        leaders.append(leader)
    return found
