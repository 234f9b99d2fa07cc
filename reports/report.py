"""What runs reached after how long: figures, tables and pictures. No TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from core import files
from core.clock import BUCKETS, CLOCKS
from core.errors import UserError
from reports.console import optional, range_words, table, time_words
from reports.reader import read_record
from reports.run_record import RunRecord
from reports.time_to_accuracy import LABELS, Target, choose_clock, repeats, summarize

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
        output: where to save; by default the run folder, where it is the only run.

    Returns:
        The records; the figures, ready for JSON; the files that were saved.

    Raises:
        UserError: a run that cannot be read or compared, a folder that cannot be written.
    """
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise UserError(f"{path}: named twice; name each run once")
    records = [read_record(path) for path in paths]
    names = [record.name for record in records]
    records = [
        replace(record, name=str(record.source)) if names.count(record.name) > 1 else record
        for record in records
    ]
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
    return records, figures, _save(records, figures, target, output) if output else []


def _save(
    records: list[RunRecord], figures: dict[str, Any], target: Target | None, folder: Path
) -> list[Path]:
    from reports import pictures

    saved = [folder / "report.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(saved[0], json.dumps(figures, indent=2) + "\n")
        for name, figure in pictures.draw_all(records, figures["clock"], target).items():
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


def bucket_words(buckets: Mapping[str, float]) -> str:
    """The buckets in a line: start-up 3.1 s, data 0.5 s, ..."""
    return ", ".join(f"{n.replace('_', '-')} {time_words(buckets[n])}" for n in BUCKETS)


def target_words(found: Mapping[str, Any], at_most: bool = False) -> str:
    """The result of `time_to` in a sentence."""
    if not found["reached"]:
        best = optional(found["best"], "{:.2%}")
        return f"{found['target']}: not reached; the best checkpoint has {best}"
    lowest = f"(lowest after it {optional(found['lowest_after'], '{:.2%}')})"
    if found["lowest_after"] is None:
        after = "at the last checkpoint"
    elif found["stayed_above"]:
        after = f"stayed above {lowest}"
    else:
        after = f"did not stay above {lowest}"
    return (
        f"{found['target']}: {found[found['metric']]:.2%} after {'at most ' if at_most else ''}"
        f"{time_words(found['seconds'])} ({found['hours']:.4f} h)"
        + optional(found["step"], ", step {:,}", "")
        + optional(found["epoch"], ", epoch {:.2f}", "")
        + optional(found["images"], ", {:,} images", "")
        + optional(found["cost"], ", cost {:.2f}", "")
        + f"; {after}"
    )


def print_report(figures: dict[str, Any], saved: list[Path], console: Console) -> None:
    """Prints the figures of `report`: each run's, then the comparison of several."""
    runs = figures["runs"]
    console.print(f"clock: {figures['clock']}, which counts {', '.join(figures['counts'])}")
    for run in runs:
        _print_run(run, console)
    if len(runs) > 1:
        console.print()
        console.print(table(_compared(run, figures["target"]) for run in runs))
        for group in figures["repeats"]:
            console.print(_repeats_words(group))
    if saved:
        console.print(f"saved in {saved[0].parent}: {', '.join(path.name for path in saved)}")
    elif len(runs) > 1 or runs[0]["kind"] != "run folder":
        console.print("--output DIR saves the figures and the pictures")


def _print_run(run: dict[str, Any], console: Console) -> None:
    workers = optional(run["workers"], ", {} worker(s)", "")
    console.print(f"\n[bold]{run['name']}[/bold] ({run['kind']}{workers}): {run['source']}")
    if "target" in run:
        console.print("  " + target_words(run["target"], run["at_most"]))
    points = {"final": run["final"]} if "final" in run else {}
    points |= {f"best {LABELS[metric]}": point for metric, point in run.get("best", {}).items()}
    for name, point in points.items():
        console.print(
            f"  {name}: {point['top1']:.2%} top-1, {point['top5']:.2%} top-5 after "
            + time_words(point["seconds"])
            + optional(point["step"], ", step {:,}", "")
        )
    console.print(
        f"  whole run: {'at most ' if run['at_most'] else ''}{time_words(run['total']['seconds'])}"
        + optional(run["total"]["cost"], ", cost {:.2f}", "")
        + f"; {run['checkpoints']} evaluated checkpoint(s); evaluation: {run['evaluation']}"
    )
    if run["buckets"]:
        total = sum(run["buckets"].values())
        buckets = (
            {
                "bucket": name,
                "seconds": f"{seconds:,.1f}",
                "share": f"{seconds / total:.1%}" if name in BUCKETS else "",
                "what it holds": BUCKETS.get(name, ""),
            }
            for name, seconds in (run["buckets"] | {"everything": total}).items()
        )
        console.print(table(buckets))
    if run["phases"]:
        phases = (
            {
                "phase": str(number),
                "epochs": "{:g} to {:g}".format(*phase["epoch"]) if phase["epoch"] else "-",
                "steps": "{:,} to {:,}".format(*phase["steps"]),
                "batch": str(phase["batch_size"]),
                "pixels": str(phase["image_size"]),
                "images/s": optional(phase["images_per_second"], "{:,.0f}"),
            }
            for number, phase in enumerate(run["phases"], 1)
        )
        console.print(table(phases))
    for remark in run["remarks"]:
        console.print(f"  note: {remark}")


def _compared(run: dict[str, Any], target: str | None) -> dict[str, str]:
    """The row of a run in the comparison of several."""
    found, final = run.get("target"), run.get("final", {})
    at_most = "<= " if run["at_most"] else ""
    reached = found if found and found["reached"] else {}
    time = at_most + time_words(reached["seconds"]) if reached else "not reached" if found else "-"
    return {
        "run": run["name"],
        f"to {target or 'a target'}": time,
        "step": optional(reached.get("step"), "{:,}"),
        "cost": optional(reached.get("cost"), "{:.2f}"),
        "final top-1": optional(final.get("top1"), "{:.2%}"),
        "final top-5": optional(final.get("top5"), "{:.2%}"),
        "whole run": at_most + time_words(run["total"]["seconds"]),
        "workers": optional(run["workers"], "{}"),
    }


def _repeats_words(group: dict[str, Any]) -> str:
    words = [f"{len(group['runs'])} repeats, median (range)"]
    if group.get("seconds"):
        seconds = range_words(group["seconds"], time_words)
        words.append(f"to the target {seconds}, reached in {group['reached']} of them")
    elif "reached" in group:
        words.append("the target in none of them")
    for metric, name in LABELS.items():
        if metric in group:
            words.append(f"final {name} {range_words(group[metric], '{:.2%}'.format)}")
    words.append(f"whole run {range_words(group['total'], time_words)}")
    return "; ".join(words)
