"""Prints the tables of docs/projections.md: the presets on published hardware.

    python benchmarks/project_presets.py

The minutes and costs are projections from the files in benchmarks/rates; nothing was run. What
others published is in benchmarks/published/results.yaml.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from core.errors import UserError
from reports.console import time_words
from reports.frontier import read_results
from reports.plan import project, work
from reports.throughput import load_throughput
from training.recipes import Recipe, load_recipe, presets

HERE = Path(__file__).resolve().parent

# Side by side: the fastest published rates of 8 GPUs of a kind.
FASTEST = {
    "8 V100": "v100x8_xla.yaml",
    "8 A100": "a100x8_ffcv.yaml",
    "8 H100": "h100x8_mlperf.yaml",
}
# From 1 to 128 workers: a file of rates that says what an all-reduce costs, and the on-demand price
# in dollars of an hour of one host (AWS, us-east-1: p3.16xlarge as in the original's entry,
# p4d.24xlarge).
MACHINES = (("v100x8.yaml", 24.48), ("a100x8.yaml", 32.77))
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)


def minutes(recipe: Recipe, file: str) -> str:
    """Projected minutes with 8 workers; a ~ where a rate of them was not measured."""
    rates = load_throughput(HERE / "rates" / file)
    found = project(recipe, recipe.schedule(8), rates)
    return f"{'~' * found['extrapolated']}{found['totals']['dawnbench'] / 60:.1f}"


def side_by_side(recipes: list[Recipe]) -> Iterator[str]:
    """A Markdown row for each preset of ImageNet, the least work first; then the notes."""
    results = {r.preset: r for r in read_results(HERE / "published" / "results.yaml")}
    yield (
        "| preset | work | images, millions | "
        + " | ".join(f"{machine}, projected" for machine in FASTEST)
        + " | its own machine, projected | the same, published | top-1, top-5, published | on |"
    )
    yield "|---|" + "---|" * (6 + len(FASTEST))
    for recipe in sorted(recipes, key=lambda recipe: work(recipe.schedule(8))):
        schedule = recipe.schedule(8)
        images = schedule.images_between(0, schedule.total_steps) / 1e6
        cells = [minutes(recipe, file) for file in FASTEST.values()]
        if (result := results.get(recipe.name)) and result.rates:
            accuracies = (
                f"{value:.2f} %" if value else "-" for value in (result.top1, result.top5)
            )
            published = f"{result.minutes:.1f}{'*' if result.note else ''}"
            cells += [minutes(recipe, result.rates), published, ", ".join(accuracies), result.label]
        yield f"| {recipe.name} | {work(schedule):.1f} | {images:.1f} | {' | '.join(cells)} |"
    yield ""
    for preset, result in results.items():
        if preset and result.note:
            yield f"- \\* {preset}: {result.note}."


def from_1_to_128(recipe: Recipe) -> Iterator[str]:
    """A Markdown row for each machine and number of workers."""
    yield "| preset | workers | global batch | steps | time | of linear | cost |"
    yield "|---|---|---|---|---|---|---|"
    for file, price in MACHINES:
        rates = load_throughput(HERE / "rates" / file)
        single = None
        for count in WORKERS:
            schedule = recipe.schedule(count)
            try:
                found = project(recipe, schedule, rates, price * -(-count // 8))
            except UserError as error:
                yield f"| {recipe.name} | {count} | | | {error} | | |"
                break
            steps = found["totals"]["training"] * count
            single = single or steps
            batches = [p.phase.batch_size * count for p in schedule.phases]
            yield (
                f"| {recipe.name} | {count} {rates.hardware.split()[1].rstrip(',')} "
                f"| {min(batches):,} to {max(batches):,} "
                f"| {schedule.total_steps:,} | {time_words(found['totals']['dawnbench'])} "
                f"| {single / steps:.1%} | ${found['cost']:.2f} |"
            )


@click.command()
def main() -> None:
    """Prints both tables, in Markdown."""
    recipes = [load_recipe(preset) for preset in presets()]
    for row in side_by_side([recipe for recipe in recipes if recipe.model == "resnet50"]):
        click.echo(row)
    click.echo()
    for row in from_1_to_128(load_recipe("imagenet104")):
        click.echo(row)


if __name__ == "__main__":
    main()
