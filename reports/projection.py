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
    """Time and cost of a schedule, phase by phase, as plain data ready for JSON.

    The whole is the start-up, then for each stage (phases that share a pipeline) its
    tracing, the steps at the rates of the table, and the checkpoints. Evaluation is
    left out. `how` is how a phase's rate was found, `until` the seconds from the start of the
    run to the phase's end.

    Args:
        price: of an hour of all workers.
        at: global steps for which the time is asked: when they are done and, where a
            checkpoint is due, it is written.
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

    def at_step(step: int) -> dict[str, Any]:
        first, begun, tracing, each = max(p for p in points if p[0] <= step)
        inside = sum(first <= s <= step for s in written)
        # A stage is traced with its first step, after the checkpoint at its boundary.
        steps = (step - first) * each + tracing * (step > first)
        seconds = begun + steps + inside * throughput.checkpoint_seconds
        return {"step": step, "seconds": seconds, "cost": cost(seconds, price)}

    training, tracing = (sum(p["seconds"][name] for p in phases) for name in ("steps", "tracing"))
    dawnbench = throughput.start_up_seconds + tracing + training
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
        "at": [at_step(step) for step in at],
    }
