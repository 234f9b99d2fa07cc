"""What runs reached after how long: figures, tables and pictures. No TensorFlow."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from core import files
from core.clock import CLOCKS
from core.errors import UserError
from reports.console import (
    PHASES,
    TIMES,
    comparison,
    fill,
    prediction_words,
    repeats_words,
    run_words,
    table,
    time_rows,
)
from reports.reader import read_record
from reports.run_record import RunRecord
from reports.time_to_accuracy import Target, choose_clock, repeats, summarize

# The competition's, and the original's.
IMAGENET_TARGET = Target("top5", 0.93)


def report(
    paths: Sequence[Path],
    target: Target | None = None,
    price: float | None = None,
    clock: str | None = None,
    output: Path | None = None,
) -> tuple[list[RunRecord], dict[str, Any], list[Path]]:
    """Reads run folders, logs and DAWNBench entries; saves their figures and the pictures.

    By default the target of ImageNet runs is the competition's, the price of an hour is an
    entry's own, the clock is DAWNBench's, and a run folder that is the only run gets the files.
    Returns the records, the figures, ready for JSON, and the files that were saved.
    """
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise UserError(f"{path}: named twice; name each run once")
    records = [read_record(path) for path in paths]
    names = Counter(record.name for record in records)
    records = [replace(r, name=str(r.source)) if names[r.name] > 1 else r for r in records]
    if target is None and all(record.facts.get("classes") == 1000 for record in records):
        target = IMAGENET_TARGET
    clock = choose_clock(records, clock)
    summaries = [
        summarize(record, clock, target, record.facts.get("price") if price is None else price)
        for record in records
    ]
    for record, summary in zip(records, summaries, strict=True):
        if record.predictions:
            from reports.predictions import summarize_predictions

            summary["predictions"] = summarize_predictions(record)
    figures = {
        "clock": clock,
        "counts": list(CLOCKS[clock]),
        "target": target and str(target),
        "runs": summaries,
        "repeats": repeats(records, summaries),
    }
    if output is None and len(records) == 1 and records[0].kind == "run folder":
        output = records[0].source
    return records, figures, _save(records, figures, target, output) if output else []


def _save(
    records: list[RunRecord], figures: dict[str, Any], target: Target | None, folder: Path
) -> list[Path]:
    from reports import html, pictures
    from reports.predictions import draw_predictions

    saved = [folder / "report.json"]
    drawn = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(saved[0], json.dumps(figures, indent=2) + "\n")
        drawings = pictures.draw_all(records, figures["clock"], target)
        for name, figure in {**drawings, **draw_predictions(records)}.items():
            saved += [folder / f"{name}.png", folder / f"{name}.svg"]
            narrow = pictures.save(figure, *saved[-2:])
            drawn[name] = html.Picture(saved[-1].read_bytes(), narrow)
        saved.append(folder / "report.html")
        files.write(saved[-1], html.page(records, figures, drawn))
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be saved: {error.strerror or error}; "
            "--output names another folder"
        ) from None
    return saved


def print_report(figures: dict[str, Any], saved: list[Path], console: Console) -> None:
    """Prints the figures of `report`: each run's, then the comparison of several."""
    runs = figures["runs"]
    console.print(f"clock: {figures['clock']}, which counts {', '.join(figures['counts'])}")
    for run in runs:
        _print_run(run, console)
    if len(runs) > 1:
        console.print()
        console.print(table(*comparison(runs, figures["target"])))
        for group in figures["repeats"]:
            console.print(repeats_words(group))
    if saved:
        console.print(f"saved in {saved[0].parent}: {', '.join(path.name for path in saved)}")
    elif len(runs) > 1 or runs[0]["kind"] != "run folder":
        console.print("--output DIR saves the figures, the pictures and a page of both")


def _print_run(run: dict[str, Any], console: Console) -> None:
    workers = fill(", {workers:d} worker(s)", run)
    console.print(f"\n[bold]{run['name']}[/bold] ({run['kind']}{workers}): {run['source']}")
    for words in run_words(run):
        console.print(f"  {words}")
    if "predictions" in run:
        console.print(f"  {prediction_words(run['predictions'])}")
    if times := list(time_rows(run)):
        console.print(table(times, TIMES))
    if run["phases"]:
        console.print(table(run["phases"], PHASES))
    for remark in run["remarks"]:
        console.print(f"  note: {remark}")
