"""The report as one page of HTML that needs no other file, no server and no script."""

import base64
import html
import io
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from reports.console import (
    PHASES,
    TIMES,
    comparison,
    fill,
    prediction_words,
    repeats_words,
    run_words,
    time_rows,
    time_words,
)
from reports.predictions import images_of
from reports.run_record import RunRecord

PAGE = Path(__file__).with_name("page.html")
SVG = "image/svg+xml"
LONG = 40  # characters; a longer cell of a table is broken into lines
MANY = 12  # rows; a longer table is folded up
TINY = 64  # pixels; smaller images are enlarged without smoothing

# The sections with pictures: by the picture's name, a title and what the picture shows.
PICTURES = {
    "accuracy_vs_time": (
        "Accuracy against time",
        "Line chart: accuracy of the checkpoints against wall-clock time",
    ),
    "time_buckets": (
        "Where the time went",
        "Stacked bars: the seconds in start-up, data, tracing, steps, checkpoints and evaluation",
    ),
    "schedule_vs_steps": (
        "Schedule",
        "Line charts over the steps: learning rate, batch size, image size and images per second",
    ),
    "confusions": (
        "What is taken for what",
        "Chart: the number of images by their label and the class that is predicted",
    ),
    "accuracy_by_class": (
        "Accuracy by class",
        "Chart: the top-1 accuracy of each class, the worst first",
    ),
    "calibration": (
        "Calibration",
        "Reliability diagram: accuracy against the probability of the predicted class, and below "
        "it the share of the images with that probability",
    ),
}
CHECKPOINTS = {
    "step": "{step:,}",
    "epoch": "{epoch:.2f}",
    "after": "{after}",
    "top-1": "{top1:.2%}",
    "top-5": "{top5:.2%}",
    "loss": "{loss:.4f}",
}
CONFUSIONS = {
    "label": "{label}",
    "predicted": "{predicted}",
    "images": "{images:,}",
    "of the label's": "{share:.1%}",
}
BY_CLASS = {"class": "{class}", "images": "{images:,}", "right": "{hits:,}", "top-1": "{top1:.1%}"}
CALIBRATION = {
    "probability": "{low:.0%} to {high:.0%}",
    "images": "{images:,}",
    "mean probability": "{confidence:.1%}",
    "top-1": "{accuracy:.1%}",
}
FACTS = {"what": "{name}", "value": "{value}"}


class Picture(NamedTuple):
    """A picture as SVG files."""

    wide: bytes
    narrow: bytes | None  # for a phone; None: the same


def page(
    records: Sequence[RunRecord], figures: Mapping[str, Any], drawn: Mapping[str, Picture]
) -> str:
    """The whole page of one run, or of the comparison of several.

    Args:
        figures: what `reports.report.report` returns of these records.
        drawn: the pictures, by the names in `PICTURES`.
    """
    runs = figures["runs"]
    if len(runs) == 1:
        title = records[0].name
        body = [_head(title, runs[0], figures), *_run(records[0], runs[0], drawn, 2)]
    else:
        title = f"{len(runs)} runs compared"
        body = [_head(title, None, figures)]
        body.append(_table("The runs", *comparison(runs, figures["target"])))
        body.append(_list(map(repeats_words, figures["repeats"])))
        body += [_section(2, PICTURES[name][0], _picture(name, own)) for name, own in drawn.items()]
        for record, run in zip(records, runs, strict=True):
            words = _list([*run_words(run), *run["remarks"]])
            body.append(_section(2, record.name, _source(run), words))
            body += _run(record, run, {}, 3)
    text = string.Template(PAGE.read_text(encoding="utf-8"))
    return text.substitute(title=_text(title), body="\n".join(filter(None, body)))


def _head(title: str, run: Mapping[str, Any] | None, figures: Mapping[str, Any]) -> str:
    clock = f"Clock: {figures['clock']}, which counts {', '.join(figures['counts'])}."
    parts = [f"<h1>{_text(title)}</h1>"]
    if run:
        parts += [_source(run), _cards(run), _list([*run_words(run), *run["remarks"]])]
    return f'<header>\n{"".join(parts)}\n<p class="soft">{_text(clock)}</p>\n</header>'


def _source(run: Mapping[str, Any]) -> str:
    workers = fill(", {workers:d} worker(s)", run)
    return f'<p class="soft">{_text(run["kind"] + workers)}: {_text(run["source"])}</p>'


def _cards(run: Mapping[str, Any]) -> str:
    """The figures that are looked for first."""
    cards = {
        "final top-1": fill("{final[top1]:.2%}", run),
        "final top-5": fill("{final[top5]:.2%}", run),
        "whole run": ("at most " if run["at_most"] else "") + time_words(run["total"]["seconds"]),
        "calibration error": fill("{predictions[expected_calibration_error]:.2%}", run),
    }
    if target := run.get("target"):
        reached = time_words(target["seconds"]) if target["reached"] else "not reached"
        cards = {f"to {target['target']}": reached, **cards}
    shown = [
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in cards.items()
        if value
    ]
    return f'<dl class="cards">{"".join(shown)}</dl>'


def _run(
    record: RunRecord, run: Mapping[str, Any], drawn: Mapping[str, Picture], level: int
) -> Iterator[str]:
    """The sections of one run, with those pictures that are its own."""

    def topic(name: str, *parts: str) -> str:
        shown = _picture(name, drawn[name]) if name in drawn else ""
        return _section(level, PICTURES[name][0], shown, *parts)

    evaluated = [
        asdict(checkpoint) | {"after": time_words(checkpoint.seconds[run["clock"]])}
        for checkpoint in record.checkpoints
    ]
    yield topic("accuracy_vs_time", _table("The evaluated checkpoints", evaluated, CHECKPOINTS))
    yield topic("time_buckets", _table("Seconds of the run", list(time_rows(run)), TIMES))
    yield topic("schedule_vs_steps", _table("The phases", run["phases"], PHASES))
    if found := run.get("predictions"):
        mistakes = _sheet(record, found["mistakes"])
        words = f"<p>{_text(prediction_words(found))}</p>"
        yield _section(level, "The surest mistakes", words, mistakes)
        pairs = _table("The pairs that are confused most", found["confusions"], CONFUSIONS)
        yield topic("confusions", pairs)
        classes = _table("The classes, the worst first", found["by_class"], BY_CLASS)
        yield topic("accuracy_by_class", classes)
        yield topic("calibration", _table("The bins", found["calibration"], CALIBRATION))
    if recipe := record.facts.get("recipe"):
        shown = f"<pre><code>{_text(recipe)}</code></pre>"
        yield _section(level, "Recipe", _folded("The whole recipe, with its defaults", shown))
    if environment := record.facts.get("environment"):
        known = ((name, value) for name, value in environment.items() if value)
        # The facts by which a resume knows its run are the recipe's.
        facts = [{"name": n, "value": _flat(value)} for n, value in known if n != "facts"]
        yield _section(level, "Environment", _table("How it was started", facts, FACTS))


def _sheet(record: RunRecord, mistakes: Sequence[Mapping[str, Any]]) -> str:
    """The images of mistakes side by side, each with what it is and what it is taken for."""
    cells = []
    images = images_of(record, mistakes)
    for mistake, jpeg in zip(mistakes, images, strict=True):
        name = mistake["name"] or f"record {mistake['record']} of {mistake['file']}"
        alt = f"{name}: {mistake['label']}, taken for {mistake['predicted']}"
        shown = '<div class="gone">no image</div>'
        if jpeg:
            with Image.open(io.BytesIO(jpeg)) as image:
                tiny = ' class="tiny"' if min(image.size) <= TINY else ""
            shown = f'<img{tiny} src="{_data("image/jpeg", jpeg)}" alt="{_text(alt)}">'
        caption = f"taken for <b>{_text(mistake['predicted'])}</b>, {mistake['probability']:.1%}"
        caption += f"<br>is <b>{_text(mistake['label'])}</b>"
        caption += f'<br><span class="soft">{_text(name)}</span>'
        cells.append(f"<li><figure>{shown}<figcaption>{caption}</figcaption></figure></li>")
    gone = f"Images that are not shown were not found in {record.facts['images']}."
    note = f'<p class="soft">{_text(gone)}</p>' if None in images else ""
    return f'{note}<ul class="sheet">{"".join(cells)}</ul>' if cells else ""


def _section(level: int, title: str, *parts: str) -> str:
    """A section with its heading; nothing where it has no parts."""
    shown = "\n".join(filter(None, parts))
    heading = f"<h{level}>{_text(title)}</h{level}>"
    return f"<section>\n{heading}\n{shown}\n</section>" if shown else ""


def _picture(name: str, drawn: Picture) -> str:
    shown = f'<img src="{_data(SVG, drawn.wide)}" alt="{_text(PICTURES[name][1])}">'
    if drawn.narrow:
        source = f'<source media="(max-width: 36rem)" srcset="{_data(SVG, drawn.narrow)}">'
        shown = f"<picture>{source}{shown}</picture>"
    return f'<figure class="picture">{shown}</figure>'


def _table(caption: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table with a form for each column; nothing without rows. A long one is folded up."""
    if not rows:
        return ""
    cells = [
        [fill(form, {"number": number, **row}, "-") for form in columns.values()]
        for number, row in enumerate(rows, 1)
    ]
    kinds = [_kind(column) for column in zip(*cells, strict=True)]
    head = "".join(
        f'<th scope="col"{kind}>{_text(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = []
    for row in cells:
        first, *others = map(_text, row)
        shown = f'<th scope="row"{kinds[0]}>{first}</th>'
        shown += "".join(f"<td{k}>{x}</td>" for x, k in zip(others, kinds[1:], strict=True))
        body.append(f"<tr>{shown}</tr>")
    # It scrolls by itself where the page is narrow, and by the keyboard.
    table = (
        f'<div class="scroll" role="region" aria-label="{_text(caption)}" tabindex="0"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    return _folded(f"{caption}: {len(rows)}", table) if len(rows) > MANY else table


def _kind(cells: Iterable[str]) -> str:
    """The class of a column: numbers stand on the right, long texts are broken."""
    cells = [cell for cell in cells if cell not in ("", "-")]
    if any(len(cell) > LONG for cell in cells):
        return ' class="long"'
    numbers = [cell.strip("%").replace(",", "").replace(".", "").isdigit() for cell in cells]
    return ' class="number"' if numbers and all(numbers) else ""


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<ul class="words">{items}</ul>' if items else ""


def _flat(value: Any) -> str:
    """A value of the environment on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(own)}" for name, own in value.items())
    return str(value)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(value: Any) -> str:
    return html.escape(str(value))
