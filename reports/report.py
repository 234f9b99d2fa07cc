"""What runs reached after how long: figures, tables and pictures. No TensorFlow."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from core import files
from core.clock import BUCKETS, CLOCKS
from core.errors import UserError
from reports.console import fill, table, time_words
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


def target_words(found: Mapping[str, Any], at_most: bool = False) -> str:
    """The result of `time_to` in a sentence."""
    if not found["reached"]:
        best = fill("{best:.2%}", found, "-")
        return f"{found['target']}: not reached; the best checkpoint has {best}"
    after = "at the last checkpoint"
    if found["lowest_after"] is not None:
        stayed = "stayed" if found["stayed_above"] else "did not stay"
        after = f"{stayed} above (lowest after it {found['lowest_after']:.2%})"
    known = (", step {step:,}", ", epoch {epoch:.2f}", ", {images:,} images", ", cost {cost:.2f}")
    return (
        f"{found['target']}: {found[found['metric']]:.2%} after {'at most ' if at_most else ''}"
        f"{time_words(found['seconds'])} ({found['hours']:.4f} h)"
        f"{''.join(fill(form, found) for form in known)}; {after}"
    )


def print_report(figures: dict[str, Any], saved: list[Path], console: Console) -> None:
    """Prints the figures of `report`: each run's, then the comparison of several."""
    runs = figures["runs"]
    console.print(f"clock: {figures['clock']}, which counts {', '.join(figures['counts'])}")
    for run in runs:
        _print_run(run, console)
    if len(runs) > 1:
        columns = {
            "run": "{name}",
            f"to {figures['target'] or 'a target'}": "{reached}",
            "step": "{target[step]:,}",
            "cost": "{target[cost]:.2f}",
            "final top-1": "{final[top1]:.2%}",
            "final top-5": "{final[top5]:.2%}",
            "whole run": "{whole}",
            "workers": "{workers:d}",
        }
        console.print()
        console.print(table(map(_compared, runs), columns))
        for group in figures["repeats"]:
            console.print(_repeats_words(group))
    if saved:
        console.print(f"saved in {saved[0].parent}: {', '.join(path.name for path in saved)}")
    elif len(runs) > 1 or runs[0]["kind"] != "run folder":
        console.print("--output DIR saves the figures and the pictures")


def _print_run(run: dict[str, Any], console: Console) -> None:
    workers = fill(", {workers:d} worker(s)", run)
    console.print(f"\n[bold]{run['name']}[/bold] ({run['kind']}{workers}): {run['source']}")
    if "target" in run:
        console.print("  " + target_words(run["target"], run["at_most"]))
    points = {"final": run["final"]} if "final" in run else {}
    points |= {f"best {LABELS[metric]}": point for metric, point in run.get("best", {}).items()}
    for name, point in points.items():
        console.print(
            f"  {name}: {point['top1']:.2%} top-1, {point['top5']:.2%} top-5 after "
            f"{time_words(point['seconds'])}{fill(', step {step:,}', point)}"
        )
    console.print(
        f"  whole run: {'at most ' if run['at_most'] else ''}{time_words(run['total']['seconds'])}"
        f"{fill(', cost {cost:.2f}', run['total'])}; "
        f"{run['checkpoints']} evaluated checkpoint(s); evaluation: {run['evaluation']}"
    )
    if run["buckets"]:
        total = sum(run["buckets"].values())
        buckets = [
            {"name": name, "seconds": seconds, "share": f"{seconds / total:.1%}", "what": what}
            for (name, what), seconds in zip(BUCKETS.items(), run["buckets"].values(), strict=True)
        ]
        buckets.append({"name": "everything", "seconds": total, "share": "", "what": ""})
        forms = {"bucket": "{name}", "seconds": "{seconds:,.1f}", "share": "{share}"}
        console.print(table(buckets, forms | {"what it holds": "{what}"}))
    if run["phases"]:
        phases = {
            "phase": "{number}",
            "epochs": "{epoch[0]:g} to {epoch[1]:g}",
            "steps": "{steps[0]:,} to {steps[1]:,}",
            "batch": "{batch_size}",
            "pixels": "{image_size}",
            "images/s": "{images_per_second:,.0f}",
        }
        console.print(table(run["phases"], phases))
    for remark in run["remarks"]:
        console.print(f"  note: {remark}")


def _compared(run: dict[str, Any]) -> dict[str, Any]:
    """A run with its times in words, for the comparison of several."""
    at_most, target = "<= " if run["at_most"] else "", run.get("target")
    words = None
    if target:
        words = at_most + time_words(target["seconds"]) if target["reached"] else "not reached"
    whole = at_most + time_words(run["total"]["seconds"])
    return {**run, "reached": words or "-", "whole": whole}


def _repeats_words(group: dict[str, Any]) -> str:
    def spread(values: Mapping[str, float], words: Callable[[float], str]) -> str:
        return f"{words(values['median'])} ({words(values['min'])} to {words(values['max'])})"

    words = [f"{len(group['runs'])} repeats, median (range)"]
    if group.get("seconds"):
        seconds = spread(group["seconds"], time_words)
        words.append(f"to the target {seconds}, reached in {group['reached']} of them")
    elif "reached" in group:
        words.append("the target in none of them")
    for metric, name in LABELS.items():
        if metric in group:
            words.append(f"final {name} {spread(group[metric], '{:.2%}'.format)}")
    words.append(f"whole run {spread(group['total'], time_words)}")
    return "; ".join(words)
