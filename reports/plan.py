"""What a recipe will do, step by step, before any of it is paid for. No TensorFlow."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from core.errors import UserError
from core.schedule import Schedule


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
                "epoch": list(p.phase.epoch),
                "steps": [p.first, p.end],
                "steps_per_epoch": p.steps_per_epoch,
                "batch_size": p.phase.batch_size,
                "global_batch_size": p.phase.batch_size * schedule.workers,
                "image_size": list(p.phase.image_size),
                "lr": list(p.phase.lr),
                "lr_method": p.phase.lr_method,
                "data_dir": p.phase.data_dir,
                "prefix": p.phase.prefix,
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


def print_plan(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints the result of `plan` as tables."""
    console = console or Console(width=120, highlight=False)
    images = found["images"]
    console.print(
        f"{found['total_steps']:,} steps with {found['workers']} worker(s) on "
        f"{f'{images:,}' if isinstance(images, int) else images} images"
    )
    phases = Table("phase", "epochs", "steps", "steps/epoch", "batch", "pixels", "rate", "data")
    for number, phase in enumerate(found["phases"], 1):
        phases.add_row(
            str(number),
            "{:g} to {:g}".format(*phase["epoch"]),
            "{:,} to {:,}".format(*phase["steps"]),
            f"{phase['steps_per_epoch']:,}",
            f"{phase['batch_size']} x {found['workers']}",
            "{} x {}".format(*phase["image_size"]),
            "{:g} to {:g} ".format(*phase["lr"]) + phase["lr_method"],
            f"{phase['data_dir']}/{phase['prefix']}",
        )
    console.print(phases)
    if found["at"]:
        steps = Table("step", "epoch", "rate", "batch", "pixels")
        for row in found["at"]:
            steps.add_row(
                f"{row['step']:,}",
                f"{row['epoch']:.3f}",
                f"{row['learning_rate']:.6g}",
                str(row["batch_size"]),
                "{} x {}".format(*row["image_size"]),
            )
        console.print(steps)
    if "projection" in found:
        _print_projection(found["projection"], console)


def _print_projection(found: dict[str, Any], console: Console) -> None:
    console.print(
        f"\nA projection, not a run: {found['workers']} worker(s), rates of {found['hardware']}"
        + (f" ({found['source']})" if found["source"] else "")
    )
    table = Table("phase", "pixels", "batch", "images/s", "rate", "tracing, s", "steps, s",
                  "checkpoints, s", "until, s", "cost")  # fmt: skip
    for number, phase in enumerate(found["phases"], 1):
        table.add_row(
            str(number),
            "{} x {}".format(*phase["image_size"]),
            f"{phase['batch_size']} x {found['workers']}",
            f"{phase['images_per_second']:,.0f}",
            phase["how"],
            *(f"{phase['seconds'][name]:,.1f}" for name in ("tracing", "steps", "checkpoints")),
            f"{phase['until']:,.1f}",
            "-" if phase["cost"] is None else f"{phase['cost']:.2f}",
        )
    console.print(table)
    words = ", ".join(f"{clock} {seconds:,.1f} s" for clock, seconds in found["totals"].items())
    console.print(
        f"by clock: {words}"
        + (f"; cost {found['cost']:.2f}" if found["cost"] is not None else "")
        + "; evaluation is not in it"
    )
    for row in found["at"]:
        price = "" if row["cost"] is None else f", cost {row['cost']:.2f}"
        console.print(f"step {row['step']:,}: {row['seconds']:,.1f} s{price}")
    if found["extrapolated"]:
        console.print(
            "note: some rates lie outside of those measured; docs/projections.md: the rule"
        )
