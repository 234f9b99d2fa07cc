"""What a recipe will do, step by step, before any of it is paid for. No TensorFlow."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from core.errors import UserError
from core.schedule import Schedule
from reports.console import fill, table

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
                "batch_size": schedule.phase_at(step).phase.batch_size,
                "image_size": list(schedule.phase_at(step).phase.image_size),
            }
            for step in at
        ],
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
    console.print(table(found["phases"], phases, workers=workers))
    if found["at"]:
        steps = {
            "step": "{step:,}",
            "epoch": "{epoch:.3f}",
            "rate": "{learning_rate:.6g}",
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
