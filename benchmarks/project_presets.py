"""Prints the table of docs/projections.md: the presets on published hardware.

    python benchmarks/project_presets.py

The figures are projections from the tables in benchmarks/rates; nothing was run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from core.errors import UserError
from reports.console import time_words
from reports.plan import project
from reports.throughput import load_throughput
from training.recipes import load_recipe, presets

RATES = Path(__file__).resolve().parent / "rates"

# File of rates, and the on-demand price in dollars of an hour of one host (AWS, us-east-1:
# p3.16xlarge as in the original's entry, p4d.24xlarge).
MACHINES = (("v100x8", 24.48), ("a100x8", 32.77))
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)


@click.command()
def main() -> None:
    """Prints a Markdown row for each preset, machine and number of workers."""
    click.echo("| preset | workers | global batch | steps | time | of linear | cost |")
    click.echo("|---|---|---|---|---|---|---|")
    for preset in presets():
        recipe = load_recipe(preset)
        for machine, price in MACHINES:
            rates = load_throughput(RATES / f"{machine}.yaml")
            if recipe.model != rates.model:
                continue
            single = None
            for count in WORKERS:
                hosts = -(-count // 8)
                schedule = recipe.schedule(count)
                try:
                    found = project(recipe, schedule, rates, price * hosts)
                except UserError as error:
                    click.echo(f"| {preset} | {count} | | | {error} | | |")
                    break
                steps = found["totals"]["training"] * count
                single = single or steps
                batches = [p.phase.batch_size * count for p in schedule.phases]
                click.echo(
                    f"| {preset} | {count} {rates.hardware.split()[1].rstrip(',')} "
                    f"| {min(batches):,} to {max(batches):,} "
                    f"| {schedule.total_steps:,} | {time_words(found['totals']['dawnbench'])} "
                    f"| {single / steps:.1%} | ${found['cost']:.2f} |"
                )


if __name__ == "__main__":
    main()
