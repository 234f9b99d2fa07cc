"""How long until it is good enough: the pure part of the report. No TensorFlow."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.clock import CLOCKS
from core.errors import UserError
from reports.run_record import EvaluatedCheckpoint, RunRecord

LABELS = {"top1": "top-1", "top5": "top-5"}


@dataclass(frozen=True)
class Target:
    """An accuracy to reach: `metric` is `"top1"` or `"top5"`, `value` a fraction."""

    metric: str
    value: float

    def __str__(self) -> str:
        return f"{LABELS[self.metric]} {100 * self.value:g} %"

    def is_met(self, checkpoint: EvaluatedCheckpoint) -> bool:
        # Room for the rounding of a fraction that was written with six digits.
        return getattr(checkpoint, self.metric) >= self.value - 1e-9


def parse_target(text: str) -> Target:
    """Reads `top5=93`, in percent; refuses anything else, also a fraction such as `top5=0.93`."""
    metric, _, value = text.partition("=")
    try:
        percent = float(value.strip().removesuffix("%"))
    except ValueError:
        percent = float("nan")
    if metric.strip() not in LABELS or not 1 < percent <= 100:
        raise UserError(f"--target: received {text!r}; give top1 or top5 in percent, as in top5=93")
    return Target(metric.strip(), percent / 100)


def choose_clock(records: Sequence[RunRecord], asked: str | None) -> str:
    """The clock by which all runs are read: the one asked for, else DAWNBench's, else any.

    A clock that a run has no times by is refused.
    """
    if asked is None:
        common = [clock for clock in CLOCKS if all(clock in record.clocks for record in records)]
        if not common:
            known = "; ".join(f"{r.source}: {', '.join(r.clocks)}" for r in records)
            raise UserError(f"no clock is known for all runs, so they cannot be compared ({known})")
        return "dawnbench" if "dawnbench" in common else common[0]
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


def _time(seconds: float, price: float | None) -> dict[str, float | None]:
    return {"seconds": seconds, "hours": seconds / 3600, "cost": cost(seconds, price)}


def _point(checkpoint: EvaluatedCheckpoint, clock: str, price: float | None) -> dict[str, Any]:
    return asdict(checkpoint) | _time(checkpoint.seconds[clock], price)


def time_to(
    target: Target,
    checkpoints: Sequence[EvaluatedCheckpoint],
    clock: str,
    price: float | None = None,
) -> dict[str, Any]:
    """The first checkpoint that meets the target; where none does, the `best` accuracy.

    It has its fields, `seconds`, `hours` and `cost`, whether all later ones `stayed_above`, and
    the `lowest_after` of them (None if there are none).
    """
    found = {"target": str(target), **asdict(target)}
    values = [getattr(checkpoint, target.metric) for checkpoint in checkpoints]
    first = next((i for i, c in enumerate(checkpoints) if target.is_met(c)), None)
    if first is None:
        return {**found, "reached": False, "best": max(values, default=None)}
    return {
        **found,
        "reached": True,
        **_point(checkpoints[first], clock, price),
        "stayed_above": all(target.is_met(c) for c in checkpoints[first:]),
        "lowest_after": min(values[first + 1 :], default=None),
    }


def summarize(
    record: RunRecord, clock: str, target: Target | None = None, price: float | None = None
) -> dict[str, Any]:
    """All figures of one run by one clock, as plain data ready for JSON."""
    checkpoints = record.checkpoints
    same = ("name", "kind", "workers", "evaluation", "totals", "buckets")
    found: dict[str, Any] = {
        **{name: getattr(record, name) for name in same},
        "source": str(record.source),
        "clock": clock,
        "at_most": clock in record.at_most,
        "price_per_hour": price,
        "checkpoints": len(checkpoints),
        "total": _time(record.totals[clock], price),
        "phases": [asdict(p) | {"steps": [p.first, p.end]} for p in record.phases],
        "remarks": list(record.remarks),
    }
    if checkpoints:
        found["final"] = _point(checkpoints[-1], clock, price)
        found["best"] = {
            metric: _point(max(checkpoints, key=lambda c: getattr(c, metric)), clock, price)
            for metric in LABELS
        }
        if target:
            found["target"] = time_to(target, checkpoints, clock, price)
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def repeats(records: Sequence[RunRecord], summaries: Sequence[dict[str, Any]]) -> list[Any]:
    """Median, smallest and largest of each group of runs that differ at most in their seeds.

    They are of the whole run's seconds (`total`) and of the final accuracies. With a target, also
    how many runs `reached` it, and the `seconds` of those.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record, summary in zip(records, summaries, strict=True):
        groups.setdefault(record.settings, []).append(summary)
    found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        totals = [summary["total"]["seconds"] for summary in group]
        row: dict[str, Any] = {"runs": [s["name"] for s in group], "total": _spread(totals)}
        if ended := [summary["final"] for summary in group if "final" in summary]:
            row |= {metric: _spread([point[metric] for point in ended]) for metric in LABELS}
        if targets := [summary["target"] for summary in group if "target" in summary]:
            times = [target["seconds"] for target in targets if target["reached"]]
            row |= {"reached": len(times), "seconds": _spread(times) if times else None}
        found.append(row)
    return found
