"""What a recipe will do, and what it will take, before any of it is paid for. No TensorFlow."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from core.errors import UserError
from core.schedule import Schedule
from reports.console import fill, table
from reports.throughput import EXTRAPOLATED, Throughput
from reports.time_to_accuracy import cost
from training.recipes import Recipe

PIXELS, BATCH = "{image_size[0]} x {image_size[1]}", "{batch_size} x {workers}"


def plan(schedule: Schedule, at: Sequence[int] = ()) -> dict[str, Any]:
    """The schedule as plain data, ready for JSON, with its state at the global steps `at`."""
    for step in at:
        if not 0 <= step <= schedule.total_steps:
            raise UserError(f"--at {step}: the run has steps 0 to {schedule.total_steps}")
    return {
        "workers": schedule.workers,
        "images": schedule.images_in_short,
        "total_steps": schedule.total_steps,
        "phases": [
            {
                "steps": [p.first, p.end],
                "steps_per_epoch": p.steps_per_epoch,
                "global_batch_size": p.phase.batch_size * schedule.workers,
                **p.phase.model_dump(mode="json"),
            }
            for p in schedule.phases
        ],
        "at": [
            {
                "step": step,
                "epoch": schedule.epoch(step),
                "learning_rate": schedule.learning_rate(step),
                "momentum": schedule.momentum(step),
                "batch_size": schedule.phase_at(step).phase.batch_size,
                "image_size": list(schedule.phase_at(step).phase.image_size),
            }
            for step in at
        ],
    }


def work(schedule: Schedule) -> float:
    """Epochs of images of 224 x 224 pixels, the unit in which schedules can be compared."""
    return sum(
        (phase.epoch[1] - phase.epoch[0]) * math.prod(phase.image_size) / 224**2
        for phase in (scheduled.phase for scheduled in schedule.phases)
    )


def project(
    recipe: Recipe,
    schedule: Schedule,
    throughput: Throughput,
    price: float | None = None,
    at: Sequence[int] = (),
) -> dict[str, Any]:
    """A projection, not a run: time and cost of a schedule, phase by phase, ready for JSON.

    The whole is the start-up, then for each stage (phases that share a pipeline) its
    tracing, the steps at the rates of the table, and the checkpoints. Evaluation is
    left out. `price` is of an hour of all workers. The time of a step of `at` is when it is
    done and, where a checkpoint is due, that is written.
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
    phases: list[dict[str, Any]] = []
    for phase in schedule.phases:
        (height, width), batch_size = phase.phase.image_size, phase.phase.batch_size
        step, how = throughput.step_seconds(height * width, batch_size, schedule.workers)
        count = sum(phase.first <= s < phase.end or s == phase.end == last for s in written)
        seconds = {
            "tracing": throughput.tracing_seconds if phase.first in stages else 0.0,
            "steps": step * (phase.end - phase.first),
            "checkpoints": throughput.checkpoint_seconds * count,
        }
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
        phase = [phase for phase in phases if phase["steps"][0] <= step][-1]
        (first, end), parts = phase["steps"], phase["seconds"]
        seconds = phase["until"] - sum(parts.values())  # when it begins
        seconds += parts["steps"] * (step - first) / (end - first)
        # A stage is traced with its first step, after the checkpoint at its boundary.
        seconds += parts["tracing"] * (step > first)
        seconds += throughput.checkpoint_seconds * sum(first <= s <= step for s in written)
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


def print_plan(found: dict[str, Any]) -> None:
    """Prints the result of `plan` and, where it has one, the projection, as tables."""
    console = Console(width=120, highlight=False)
    images, workers = found["images"], found["workers"]
    console.print(
        f"{found['total_steps']:,} steps with {workers} worker(s) on "
        f"{f'{images:,}' if isinstance(images, int) else images} images"
    )
    phases = {
        "phase": "{number}",
        "epochs": "{epoch[0]:g} to {epoch[1]:g}",
        "steps": "{steps[0]:,} to {steps[1]:,}",
        "steps/epoch": "{steps_per_epoch:,}",
        "batch": BATCH,
        "pixels": PIXELS,
        "rate": "{lr[0]:g} to {lr[1]:g} {lr_method}",
        "data": "{data_dir}/{prefix}",
    }
    moves = found["phases"][0]["momentum"] is not None  # then it does in all phases
    if moves:
        phases["momentum"] = "{momentum[0]:g} to {momentum[1]:g}"
    console.print(table(found["phases"], phases, workers=workers))
    for number, phase in enumerate(found["phases"], 1):
        if overrides := ", ".join(f"{key} {value}" for key, value in phase["augmentation"].items()):
            console.print(f"phase {number} augments with {overrides}", markup=False)
        if phase["freeze"]:
            console.print(f"phase {number} freezes {', '.join(phase['freeze'])}", markup=False)
    if found["at"]:
        steps = {
            "step": "{step:,}",
            "epoch": "{epoch:.3f}",
            "rate": "{learning_rate:.6g}",
            **({"momentum": "{momentum:.6g}"} if moves else {}),
            "batch": "{batch_size}",
            "pixels": PIXELS,
        }
        console.print(table(found["at"], steps))
    if "projection" in found:
        _print_projection(found["projection"], console)


def _print_projection(found: dict[str, Any], console: Console) -> None:
    source = f" ({found['source']})" if found["source"] else ""
    console.print(
        f"\nA projection, not a run: {found['workers']} worker(s), "
        f"rates of {found['hardware']}{source}"
    )
    phases = {
        "phase": "{number}",
        "pixels": PIXELS,
        "batch": BATCH,
        "images/s": "{images_per_second:,.0f}",
        "rate": "{how}",
        "tracing, s": "{seconds[tracing]:,.1f}",
        "steps, s": "{seconds[steps]:,.1f}",
        "checkpoints, s": "{seconds[checkpoints]:,.1f}",
        "until, s": "{until:,.1f}",
        "cost": "{cost:.2f}",
    }
    console.print(table(found["phases"], phases, workers=found["workers"]))
    clocks = ", ".join(f"{clock} {seconds:,.1f} s" for clock, seconds in found["totals"].items())
    console.print(f"by clock: {clocks}{fill('; cost {cost:.2f}', found)}; without evaluation")
    for row in found["at"]:
        console.print(
            f"step {row['step']:,}: {row['seconds']:,.1f} s{fill(', cost {cost:.2f}', row)}"
        )
    if found["extrapolated"]:
        console.print("note: some rates are outside those measured; docs/projections.md: the rule")
