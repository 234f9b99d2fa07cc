"""How long until it is good enough: the pure part of the report. No TensorFlow."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.clock import CLOCKS
from core.errors import UserError
from reports.run_record import EvaluatedCheckpoint, RunRecord

LABELS = {"top1": "top-1", "top5": "top-5"}
METRICS = tuple(LABELS)


@dataclass(frozen=True)
class Target:
    """An accuracy to reach: `metric` is `"top1"` or `"top5"`, `value` a fraction."""

    metric: str
    value: float

    def __str__(self) -> str:
        return f"{LABELS[self.metric]} {100 * self.value:g} %"

    def is_met(self, checkpoint: EvaluatedCheckpoint) -> bool:
        # A fraction that was written with six digits is the target's own value or not.
        return getattr(checkpoint, self.metric) >= self.value - 1e-9


def parse_target(text: str) -> Target:
    """Reads `top5=93`, in percent.

    Raises:
        UserError: anything else, also a fraction such as `top5=0.93`.
    """
    metric, _, value = text.partition("=")
    try:
        percent = float(value.strip().removesuffix("%"))
    except ValueError:
        percent = float("nan")
    if metric.strip() not in METRICS or not 1 < percent <= 100:
        raise UserError(f"--target: received {text!r}; give top1 or top5 in percent, as in top5=93")
    return Target(metric.strip(), percent / 100)


def choose_clock(records: Sequence[RunRecord], asked: str | None) -> str:
    """The one clock that all runs are read by: the one asked for, else DAWNBench's.

    Where DAWNBench's is not known of all runs, the first that is.

    Raises:
        UserError: a run does not know the clock, naming those that it knows.
    """
    if asked is None:
        common = [clock for clock in CLOCKS if all(clock in record.clocks for record in records)]
        if not common:
            known = "; ".join(f"{r.source}: {', '.join(r.clocks)}" for r in records)
            raise UserError(f"no clock is known of all runs, so they cannot be compared ({known})")
        return next(clock for clock in ("dawnbench", *CLOCKS) if clock in common)
    for record in records:
        if asked not in record.clocks:
            raise UserError(
                f"{record.source}: its times are known by the clock {' or '.join(record.clocks)} "
                f"only, not by {asked}"
            )
    return asked


def cost(seconds: float, price: float | None) -> float | None:
    """Price of `seconds` at `price` an hour."""
    return None if price is None else seconds / 3600 * price


def _point(checkpoint: EvaluatedCheckpoint, clock: str, price: float | None) -> dict[str, Any]:
    seconds = checkpoint.seconds[clock]
    return {
        "seconds": seconds,
        "hours": seconds / 3600,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "images": checkpoint.images,
        "cost": cost(seconds, price),
        "top1": checkpoint.top1,
        "top5": checkpoint.top5,
    }


def time_to(
    target: Target,
    checkpoints: Sequence[EvaluatedCheckpoint],
    clock: str,
    price: float | None = None,
) -> dict[str, Any]:
    """The first checkpoint that meets the target.

    Returns:
        `target`, `reached`, and where it is reached that checkpoint's `seconds`,
        `hours`, `step`, `epoch`, `images`, `cost`, `top1`, `top5`, whether it
        `stayed_above` in all later ones, and the `lowest_after` of them (None if there
        are none); where it is not, the `best` there was.
    """
    found: dict[str, Any] = {"target": str(target), "metric": target.metric, "value": target.value}
    first = next((i for i, c in enumerate(checkpoints) if target.is_met(c)), None)
    if first is None:
        best = max((getattr(c, target.metric) for c in checkpoints), default=None)
        return {**found, "reached": False, "best": best}
    later = checkpoints[first + 1 :]
    return {
        **found,
        "reached": True,
        **_point(checkpoints[first], clock, price),
        "stayed_above": all(target.is_met(c) for c in later),
        "lowest_after": min((getattr(c, target.metric) for c in later), default=None),
    }


def summarize(
    record: RunRecord, clock: str, target: Target | None = None, price: float | None = None
) -> dict[str, Any]:
    """All figures of one run by one clock, as plain data ready for JSON."""
    checkpoints = record.checkpoints
    total = record.totals[clock]
    found: dict[str, Any] = {
        "name": record.name,
        "source": str(record.source),
        "kind": record.kind,
        "workers": record.workers,
        "clock": clock,
        "at_most": clock in record.at_most,
        "price_per_hour": price,
        "evaluation": record.evaluation,
        "checkpoints": len(checkpoints),
        "total": {"seconds": total, "hours": total / 3600, "cost": cost(total, price)},
        "totals": dict(record.totals),
        "buckets": record.buckets and dict(record.buckets),
        "phases": [
            {
                "steps": [phase.first, phase.end],
                "epoch": phase.epoch and list(phase.epoch),
                "batch_size": phase.batch_size,
                "image_size": phase.image_size,
                "images_per_second": phase.images_per_second,
            }
            for phase in record.phases
        ],
        "remarks": list(record.remarks),
    }
    if checkpoints:
        found["final"] = _point(checkpoints[-1], clock, price)
        found["best"] = {
            metric: _point(max(checkpoints, key=lambda c: getattr(c, metric)), clock, price)
            for metric in METRICS
        }
    if target is not None and checkpoints:
        found["target"] = time_to(target, checkpoints, clock, price)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def repeats(records: Sequence[RunRecord], summaries: Sequence[dict[str, Any]]) -> list[Any]:
    """Median and range of runs with the same recipe, workers and validation records.

    Their seed may differ.

    Returns:
        One dict for each group of two runs or more: `runs` (their names), `total`
        seconds, final `top1` and `top5`, and with a target `seconds` to it and in how
        many runs it was `reached`; medians are over those that did.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record, summary in zip(records, summaries, strict=True):
        groups.setdefault(record.settings, []).append(summary)
    found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        row: dict[str, Any] = {
            "runs": [summary["name"] for summary in group],
            "total": spread([summary["total"]["seconds"] for summary in group]),
        }
        ended = [summary["final"] for summary in group if "final" in summary]
        if ended:
            row |= {metric: spread([point[metric] for point in ended]) for metric in METRICS}
        if any("target" in summary for summary in group):
            times = [s["target"]["seconds"] for s in group if s.get("target", {}).get("reached")]
            row |= {"reached": len(times), "seconds": spread(times) if times else None}
        found.append(row)
    return found
