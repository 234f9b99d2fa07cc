"""What a recipe will take on some hardware: a projection, not a run. No TensorFlow."""

from collections.abc import Sequence
from typing import Any

from core.errors import UserError
from core.schedule import Schedule
from reports.throughput import EXTRAPOLATED, Throughput
from reports.time_to_accuracy import cost
from training.recipes import Recipe


def project(
    recipe: Recipe,
    schedule: Schedule,
    throughput: Throughput,
    price: float | None = None,
    at: Sequence[int] = (),
) -> dict[str, Any]:
    """Time and cost of a schedule, phase by phase.

    The whole is the start-up, then for each stage (phases that share a pipeline) its
    tracing, the steps at the rates of the table, and the checkpoints. Evaluation is
    left out.

    Args:
        recipe: for its model and the steps between checkpoints.
        schedule: the recipe's, for the number of workers.
        throughput: the rates.
        price: of an hour of all workers.
        at: global steps for which the time is asked: when they are done and, where a
            checkpoint is due, it is written.

    Returns:
        Plain data ready for JSON: `phases` with `steps`, `images_per_second`, `how` (measured,
        interpolated, extrapolated, or scaled to other workers), `seconds` by bucket, `until`
        (seconds since the start) and `cost`; `totals` by clock; `cost` of everything; `at`.

    Raises:
        UserError: the rates are of another model, or too far from what the recipe needs.
    """
    if throughput.model not in (None, recipe.model):
        raise UserError(
            f"the rates of {throughput.hardware} are of {throughput.model}; they say nothing of "
            f"{recipe.model}, which recipe '{recipe.name}' trains"
        )
    stages = {stage.first for stage in schedule.stages()}
    last = schedule.total_steps
    written = sorted({*range(0, last, recipe.checkpoint_every), last})
    now = throughput.start_up_seconds
    points: list[tuple[float, ...]] = []  # first step, seconds at it, to trace, of a step
    phases: list[dict[str, Any]] = []
    for phase in schedule.phases:
        height, width = phase.phase.image_size
        batch_size = phase.phase.batch_size
        step, how = throughput.step_seconds(height * width, batch_size, schedule.workers)
        count = sum(phase.first <= s < phase.end or s == phase.end == last for s in written)
        seconds = {
            "tracing": throughput.tracing_seconds if phase.first in stages else 0.0,
            "steps": step * (phase.end - phase.first),
            "checkpoints": throughput.checkpoint_seconds * count,
        }
        points.append((phase.first, now, seconds["tracing"], step))
        now += sum(seconds.values())
        phases.append(
            {
                "steps": [phase.first, phase.end],
                "image_size": [height, width],
                "batch_size": batch_size,
                "images": schedule.images_between(phase.first, phase.end),
                "images_per_second": batch_size * schedule.workers / step,
                "how": how,
                "seconds": seconds,
                "until": now,
                "cost": cost(sum(seconds.values()), price),
            }
        )

    def seconds_at(step: int) -> float:
        first, begun, tracing, each = max(p for p in points if p[0] <= step)
        inside = sum(first <= s <= step for s in written)
        # A stage is traced with its first step, after the checkpoint at its boundary.
        steps = (step - first) * each + tracing * (step > first)
        return begun + steps + inside * throughput.checkpoint_seconds

    training, tracing = (sum(p["seconds"][name] for p in phases) for name in ("steps", "tracing"))
    dawnbench = throughput.start_up_seconds + tracing + training
    times = [(step, seconds_at(step)) for step in at]
    return {
        "hardware": throughput.hardware,
        "source": throughput.source,
        "workers": schedule.workers,
        "measured_workers": throughput.workers,
        "price_per_hour": price,
        "start_up_seconds": throughput.start_up_seconds,
        "phases": phases,
        "totals": {"training": training, "dawnbench": dawnbench, "everything": now},
        "cost": cost(now, price),
        "extrapolated": any(phase["how"] == EXTRAPOLATED for phase in phases),
        "at": [{"step": s, "seconds": t, "cost": cost(t, price)} for s, t in times],
    }
