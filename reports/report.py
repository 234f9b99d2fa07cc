"""What runs reached after how long: figures, tables and pictures. No TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core import files
from core.clock import BUCKETS, CLOCKS
from core.errors import UserError
from reports.reader import read_record
from reports.run_record import RunRecord
from reports.time_to_accuracy import (
    LABELS,
    Target,
    choose_clock,
    repeats,
    summarize,
)

# The competition's, and the original's.
IMAGENET_TARGET = Target("top5", 0.93)


def report(
    paths: Sequence[Path],
    target: Target | None = None,
    price: float | None = None,
    clock: str | None = None,
    output: Path | None = None,
) -> tuple[list[RunRecord], dict[str, Any], list[Path]]:
    """Reads runs, computes their figures, and saves these and the pictures.

    Args:
        paths: run folders, logs or DAWNBench entries.
        target: an accuracy; for ImageNet runs the competition's 93 % top-5 by default.
        price: of an hour of all workers; by default an entry's own.
        clock: one of `CLOCKS`; by default DAWNBench's.
        output: where to save; by default the run folder, if there is one and only one.

    Returns:
        The records; the figures, ready for JSON; the files that were saved.

    Raises:
        UserError: a run that cannot be read or compared, a folder that cannot be written.
    """
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise UserError(f"{path}: named twice; a run is no repeat of itself")
    records = _told_apart([read_record(path) for path in paths])
    if target is None and all(record.facts.get("classes") == 1000 for record in records):
        target = IMAGENET_TARGET
    clock = choose_clock(records, clock)
    summaries = [
        summarize(record, clock, target, record.facts.get("price") if price is None else price)
        for record in records
    ]
    figures = {
        "clock": clock,
        "counts": list(CLOCKS[clock]),
        "target": target and str(target),
        "runs": summaries,
        "repeats": repeats(records, summaries),
    }
    if output is None and len(records) == 1 and records[0].kind == "run folder":
        output = records[0].source
    return records, figures, _save(records, figures, clock, target, output) if output else []


def _told_apart(records: list[RunRecord]) -> list[RunRecord]:
    """The records, those of the same name renamed to their paths."""
    names = [record.name for record in records]
    return [
        replace(record, name=str(record.source)) if names.count(record.name) > 1 else record
        for record in records
    ]


def _save(
    records: list[RunRecord],
    figures: dict[str, Any],
    clock: str,
    target: Target | None,
    folder: Path,
) -> list[Path]:
    from reports import pictures

    drawn = pictures.draw_all(records, clock, target)
    text = json.dumps(figures, indent=2) + "\n"
    saved = [folder / "report.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(saved[0], text)
        for name, figure in drawn.items():
            for kind in ("png", "svg"):
                saved.append(folder / f"{name}.{kind}")
                with files.whole(saved[-1]) as unfinished:
                    figure.savefig(unfinished, dpi=120, format=kind)
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be saved: {error.strerror or error}; "
            "--output names another folder"
        ) from None
    return saved


def time_words(seconds: float) -> str:
    """Seconds as people say them: 41.2 s, 104 min 33 s, 2 h 15 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3 * 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def bucket_words(buckets: Mapping[str, float]) -> str:
    """The buckets in a line: start-up 3.1 s, data 0.5 s, ..."""
    return ", ".join(f"{n.replace('_', '-')} {time_words(buckets[n])}" for n in BUCKETS)


def _or_dash(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def target_words(found: dict[str, Any], at_most: bool = False) -> str:
    """The crossing of a target in a sentence."""
    if not found["reached"]:
        best = _or_dash(found["best"], "{:.2%}")
        return f"{found['target']}: not reached; the best checkpoint has {best}"
    parts = [
        f"after {'at most ' if at_most else ''}{time_words(found['seconds'])} "
        f"({found['hours']:.4f} h)",
        _or_dash(found["step"], "step {:,}"),
        _or_dash(found["epoch"], "epoch {:.2f}"),
        _or_dash(found["images"], "{:,} images"),
        _or_dash(found["cost"], "cost {:.2f}"),
    ]
    text = f"{found['target']}: {found[found['metric']]:.2%} " + ", ".join(
        part for part in parts if part != "-"
    )
    if found["lowest_after"] is None:
        return text + "; at the last checkpoint"
    if found["stayed_above"]:
        return text + f"; stayed above (lowest after it {found['lowest_after']:.2%})"
    return text + f"; did not stay above (lowest after it {found['lowest_after']:.2%})"


def print_report(figures: dict[str, Any], saved: list[Path], console: Console) -> None:
    """Prints the figures of `report`: each run's, then the comparison of several."""
    runs = figures["runs"]
    console.print(f"clock: {figures['clock']}, which counts {', '.join(figures['counts'])}")
    for run in runs:
        _print_run(run, console)
    if len(runs) > 1:
        _print_comparison(figures, console)
    if saved:
        console.print(f"saved in {saved[0].parent}: {', '.join(path.name for path in saved)}")
    elif len(runs) > 1 or runs[0]["kind"] != "run folder":
        console.print("--output DIR saves the figures and the pictures")


def _print_run(run: dict[str, Any], console: Console) -> None:
    workers = _or_dash(run["workers"], ", {} worker(s)").replace("-", "")
    console.print(f"\n[bold]{run['name']}[/bold] ({run['kind']}{workers}): {run['source']}")
    if "target" in run:
        console.print("  " + target_words(run["target"], run["at_most"]))
    for name, point in (
        *([("final", run["final"])] if "final" in run else []),
        *((f"best {LABELS[metric]}", point) for metric, point in run.get("best", {}).items()),
    ):
        console.print(
            f"  {name}: {point['top1']:.2%} top-1, {point['top5']:.2%} top-5 after "
            f"{time_words(point['seconds'])}" + _or_dash(point["step"], ", step {:,}").strip("-")
        )
    at_most = "at most " if run["at_most"] else ""
    console.print(
        f"  whole run: {at_most}{time_words(run['total']['seconds'])}"
        + _or_dash(run["total"]["cost"], ", cost {:.2f}").strip("-")
        + f"; {run['checkpoints']} evaluated checkpoint(s); evaluation: {run['evaluation']}"
    )
    if run["buckets"]:
        total = sum(run["buckets"].values())
        table = Table("bucket", "seconds", "share", "what it holds")
        for name, words in BUCKETS.items():
            seconds = run["buckets"][name]
            table.add_row(name, f"{seconds:,.1f}", f"{seconds / total:.1%}", words)
        table.add_row("everything", f"{total:,.1f}", "", "")
        console.print(table)
    if run["phases"]:
        table = Table("phase", "epochs", "steps", "batch", "pixels", "images/s")
        for number, phase in enumerate(run["phases"], 1):
            table.add_row(
                str(number),
                "-" if phase["epoch"] is None else "{:g} to {:g}".format(*phase["epoch"]),
                "{:,} to {:,}".format(*phase["steps"]),
                str(phase["batch_size"]),
                str(phase["image_size"]),
                _or_dash(phase["images_per_second"], "{:,.0f}"),
            )
        console.print(table)
    for remark in run["remarks"]:
        console.print(f"  note: {remark}")


def _print_comparison(figures: dict[str, Any], console: Console) -> None:
    console.print()
    table = Table(
        "run", f"to {figures['target'] or 'a target'}", "step", "cost", "final top-1",
        "final top-5", "whole run", "workers",
    )  # fmt: skip
    for run in figures["runs"]:
        found, final = run.get("target"), run.get("final")
        at_most = "<= " if run["at_most"] else ""
        reached = found is not None and found["reached"]
        table.add_row(
            run["name"],
            at_most + time_words(found["seconds"]) if reached else "not reached" if found else "-",
            _or_dash(found["step"] if reached else None, "{:,}"),
            _or_dash(found["cost"] if reached else None, "{:.2f}"),
            _or_dash(final and final["top1"], "{:.2%}"),
            _or_dash(final and final["top5"], "{:.2%}"),
            at_most + time_words(run["total"]["seconds"]),
            _or_dash(run["workers"], "{}"),
        )
    console.print(table)
    for group in figures["repeats"]:
        words = [f"{len(group['runs'])} repeats, median (range)"]
        if group.get("seconds"):
            words.append(
                f"to the target {_range(group['seconds'], time_words)}, "
                f"reached in {group['reached']} of them"
            )
        elif "reached" in group:
            words.append("the target in none of them")
        for metric, name in LABELS.items():
            if metric in group:
                words.append(f"final {name} {_range(group[metric], '{:.2%}'.format)}")
        words.append(f"whole run {_range(group['total'], time_words)}")
        console.print("; ".join(words))


def _range(values: dict[str, float], form: Any) -> str:
    return f"{form(values['median'])} ({form(values['min'])} to {form(values['max'])})"
