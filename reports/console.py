"""Figures in words, and tables of them for the console. No TensorFlow."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table

from core.clock import BUCKETS
from reports.time_to_accuracy import LABELS

# The columns of tables: for each a form, which is filled with a row's values.
PHASES = {
    "phase": "{number}",
    "epochs": "{epoch[0]:g} to {epoch[1]:g}",
    "steps": "{steps[0]:,} to {steps[1]:,}",
    "batch": "{batch_size}",
    "pixels": "{image_size}",
    "images/s": "{images_per_second:,.0f}",
}
TIMES = {
    "bucket": "{name}",
    "seconds": "{seconds:,.1f}",
    "share": "{share}",
    "what it holds": "{what}",
}


def fill(form: str, row: Mapping[str, Any], missing: str = "") -> str:
    """`form` with the values of a row; `missing` where one of them is None or not there."""
    try:
        return form.format_map(row)
    except (TypeError, KeyError):
        return missing


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], **same: Any) -> Table:
    """A table with a form for each column, filled with a row's values, `number` and `same`."""
    found = Table(*columns)
    for number, row in enumerate(rows, 1):
        values = {"number": number, **same, **row}
        found.add_row(*(fill(form, values, "-") for form in columns.values()))
    return found


def time_words(seconds: float) -> str:
    """Seconds as people say them: 41.2 s, 104 min 33 s, 2 h 15 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3 * 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def time_rows(run: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of `TIMES`: each bucket of a run, and all of them; none where they are not known."""
    if run["buckets"]:
        total = sum(run["buckets"].values())
        for name, what in BUCKETS.items():
            seconds = run["buckets"][name]
            share = f"{seconds / total:.1%}"
            yield {"name": name, "seconds": seconds, "share": share, "what": what}
        yield {"name": "everything", "seconds": total, "share": "", "what": ""}


def comparison(runs: Iterable[Mapping[str, Any]], target: str | None) -> tuple[list[Any], Any]:
    """The rows and the columns of the table that compares several runs."""
    columns = {
        "run": "{name}",
        f"to {target or 'a target'}": "{reached}",
        "step": "{target[step]:,}",
        "cost": "{target[cost]:.2f}",
        "final top-1": "{final[top1]:.2%}",
        "final top-5": "{final[top5]:.2%}",
        "whole run": "{whole}",
        "workers": "{workers:d}",
    }
    return [_compared(run) for run in runs], columns


def _compared(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its times in words, for the comparison of several."""
    at_most, target = "<= " if run["at_most"] else "", run.get("target")
    words = None
    if target:
        words = at_most + time_words(target["seconds"]) if target["reached"] else "not reached"
    whole = at_most + time_words(run["total"]["seconds"])
    return {**run, "reached": words or "-", "whole": whole}


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


def run_words(run: Mapping[str, Any]) -> Iterator[str]:
    """What a run reached, and after how long, in sentences."""
    if "target" in run:
        yield target_words(run["target"], run["at_most"])
    points = {"final": run["final"]} if "final" in run else {}
    points |= {f"best {LABELS[metric]}": point for metric, point in run.get("best", {}).items()}
    for name, point in points.items():
        yield (
            f"{name}: {point['top1']:.2%} top-1, {point['top5']:.2%} top-5 after "
            f"{time_words(point['seconds'])}{fill(', step {step:,}', point)}"
        )
    yield (
        f"whole run: {'at most ' if run['at_most'] else ''}{time_words(run['total']['seconds'])}"
        f"{fill(', cost {cost:.2f}', run['total'])}; "
        f"{run['checkpoints']} evaluated checkpoint(s); evaluation: {run['evaluation']}"
    )


def prediction_words(found: Mapping[str, Any]) -> str:
    """What a run gets wrong most often, and how far its confidence can be believed."""
    wrong = "no image is predicted wrong"
    if found["confusions"]:
        worst = "{label} as {predicted}, {images} image(s)".format_map(found["confusions"][0])
        wrong = f"most often wrong: {worst}"
    return (
        f"{wrong}; mean confidence {found['confidence']:.2%} at {found['top1']:.2%} top-1, "
        f"expected calibration error {found['expected_calibration_error']:.2%}"
    )


def repeats_words(group: Mapping[str, Any]) -> str:
    """Median and range of a group of repeats in a sentence."""

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
