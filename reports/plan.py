"""What a recipe will do, step by step, before any of it is paid for. No TensorFlow."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from core.errors import UserError
from core.schedule import Schedule
from reports.console import optional, table


def plan(schedule: Schedule, at: Sequence[int] = ()) -> dict[str, Any]:
    """The schedule as plain data.

    Args:
        schedule: of the recipe for a number of workers and images.
        at: global steps whose state is asked for, each from 0 to the total.

    Returns:
        `workers`, `images`, `total_steps`, `phases` and `at`, ready for JSON.

    Raises:
        UserError: a step outside the run.
    """
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
    """Prints the result of `plan` as tables."""
    console = Console(width=120, highlight=False)
    images = found["images"]
    console.print(
        f"{found['total_steps']:,} steps with {found['workers']} worker(s) on "
        f"{f'{images:,}' if isinstance(images, int) else images} images"
    )
    phases = (
        {
            "phase": str(number),
            "epochs": "{:g} to {:g}".format(*phase["epoch"]),
            "steps": "{:,} to {:,}".format(*phase["steps"]),
            "steps/epoch": f"{phase['steps_per_epoch']:,}",
            "batch": f"{phase['batch_size']} x {found['workers']}",
            "pixels": "{} x {}".format(*phase["image_size"]),
            "rate": "{:g} to {:g} ".format(*phase["lr"]) + phase["lr_method"],
            "data": f"{phase['data_dir']}/{phase['prefix']}",
        }
        for number, phase in enumerate(found["phases"], 1)
    )
    console.print(table(phases))
    if found["at"]:
        steps = (
            {
                "step": f"{row['step']:,}",
                "epoch": f"{row['epoch']:.3f}",
                "rate": f"{row['learning_rate']:.6g}",
                "batch": str(row["batch_size"]),
                "pixels": "{} x {}".format(*row["image_size"]),
            }
            for row in found["at"]
        )
        console.print(table(steps))
    if "projection" in found:
        _print_projection(found["projection"], console)


def _print_projection(found: dict[str, Any], console: Console) -> None:
    source = f" ({found['source']})" if found["source"] else ""
    console.print(
        f"\nA projection, not a run: {found['workers']} worker(s), "
        f"rates of {found['hardware']}{source}"
    )
    phases = (
        {
            "phase": str(number),
            "pixels": "{} x {}".format(*phase["image_size"]),
            "batch": f"{phase['batch_size']} x {found['workers']}",
            "images/s": f"{phase['images_per_second']:,.0f}",
            "rate": phase["how"],
            **{
                f"{name}, s": f"{phase['seconds'][name]:,.1f}"
                for name in ("tracing", "steps", "checkpoints")
            },
            "until, s": f"{phase['until']:,.1f}",
            "cost": optional(phase["cost"], "{:.2f}"),
        }
        for number, phase in enumerate(found["phases"], 1)
    )
    console.print(table(phases))
    clocks = ", ".join(f"{clock} {seconds:,.1f} s" for clock, seconds in found["totals"].items())
    cost = optional(found["cost"], "; cost {:.2f}", "")
    console.print(f"by clock: {clocks}{cost}; without evaluation")
    for row in found["at"]:
        cost = optional(row["cost"], ", cost {:.2f}", "")
        console.print(f"step {row['step']:,}: {row['seconds']:,.1f} s{cost}")
    if found["extrapolated"]:
        console.print("note: some rates are outside those measured; docs/projections.md: the rule")
