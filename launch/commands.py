"""The commands beside `train`: their options, and nothing that is slow to import."""

import json
import sys
import time
from pathlib import Path

import click

from core.clock import CLOCKS
from core.errors import RunError, UserError
from reports.plan import plan as plan_of
from reports.plan import print_plan
from training.inputs import find_data
from training.liveness import PATIENCE
from training.recipes import load_recipe, presets

RECIPE = click.option(
    "--recipe", "recipe_name", required=True, metavar="NAME|FILE",
    help=f"A preset ({', '.join(presets())}) or a .yaml, .json or .py file.",
)  # fmt: skip


@click.command()
@RECIPE
@click.option("--workers", "count", type=click.IntRange(1), help="By default the recipe's.")
@click.option("--data_dir", type=Path, help="Count the images there, not the recipe's.")
@click.option("--at", default="", help="Global steps, as in 0,1,625.")
@click.option("--throughput", type=Path, metavar="FILE", help="Rates to project the time from.")
@click.option("--from_run", type=Path, metavar="RUN", help="Take the rates from a run.")
@click.option("--price", type=click.FloatRange(0), help="Of an hour of all workers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(recipe_name, count, data_dir, at, throughput, from_run, price, as_json):
    """Prints a recipe's schedule and, from rates, its time; needs no data and no TensorFlow."""
    recipe = load_recipe(recipe_name)
    try:
        steps = [int(step) for step in at.split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--at: received {at!r}; give whole numbers, as in 0,1,625") from None
    images = find_data(data_dir, recipe).images if data_dir else None
    schedule = recipe.schedule(count or recipe.workers, images)
    found = plan_of(schedule, steps)
    if throughput or from_run:
        rates = _rates(throughput, from_run)
        from reports.projection import project

        found["projection"] = project(recipe, schedule, rates, price, steps)
    elif price is not None:
        raise UserError("--price needs rates: --throughput FILE or --from_run RUN")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_plan(found)


def _rates(throughput, from_run):
    from reports.run_record import read_record
    from reports.throughput import load_throughput, throughput_of_run

    if throughput and from_run:
        raise UserError("--throughput and --from_run: give one of them, not both")
    return load_throughput(throughput) if throughput else throughput_of_run(read_record(from_run))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=Path, metavar="RUN...")
@click.option("--target", metavar="top5=93", help="Accuracy in percent; 93 % top-5 for ImageNet.")
@click.option("--price", type=click.FloatRange(0), help="Of an hour of all workers.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), help="By default DAWNBench's.")
@click.option("--output", type=Path, help="Folder to save to; by default that of the one run.")
@click.option("--dawnbench", type=Path, metavar="DIR", help="Write the entry's JSON and TSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(runs, target, price, clock, output, dawnbench, as_json):
    """Tells how long runs took to what accuracy; a RUN is a folder, a log or a .tsv entry."""
    from rich.console import Console

    from reports import report as reports
    from reports.dawnbench import write_entry
    from reports.time_to_accuracy import parse_target

    wanted = parse_target(target) if target else None
    records, figures, saved = reports.report(runs, wanted, price, clock, output)
    entries = [write_entry(record, dawnbench, price) for record in records] if dawnbench else []
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    console = Console(width=120, highlight=False)
    reports.print_report(figures, saved, console)
    for about, curve in entries:
        console.print(f"{curve} and {about.name}; author and codeURL are yours to fill in")


@click.command()
@click.option("--run_dir", required=True, type=Path, help="The run's folder.")
@click.option("--data_dir", type=Path, help="Folder of the records; by default the run's own.")
@click.option("--follow", is_flag=True, help="Go on as checkpoints appear, until the run ends.")
@click.option(
    "--patience", default=PATIENCE, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="Seconds without a sign of life after which a followed run is given up.",
)  # fmt: skip
@click.option("--image_size", type=click.IntRange(1), help="Short side of the crop in pixels.")
@click.option("--batch_size", type=click.IntRange(1), help="Images at once, on each worker.")
@click.option("--rectangular/--square", default=None, help="Crop near the image's own aspect.")
@click.option("--flip/--no_flip", default=None, help="Average with the mirror image.")
@click.option("--ema/--no_ema", default=None, help="Use the average of the weights.")
def evaluate(run_dir, data_dir, follow, patience, **choices):
    """Evaluates a run's checkpoints; the choices are the recipe's, where none is given."""
    from core import workers
    from evaluation.run import evaluate_run
    from launch import supervisor
    from reports.report import report as write_report
    from training.run_folder import RunFolder

    with supervisor.done_by_the_same_command():
        problems = evaluate_run(run_dir, data_dir, follow, patience, choices)
    if workers.current().is_first and RunFolder(run_dir).evaluation_rows():
        write_report([run_dir])
    if problems:
        raise RunError(problems)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-np", "--workers", "count", type=click.IntRange(1), default=1, show_default=True)
@click.option("-H", "--hosts", metavar="HOST:N,...", help="As horovodrun's; default: this host.")
@click.option("--restarts", type=click.IntRange(0), default=0, show_default=True,
              help="Launch again and resume, so often, when a fault ends the job.")  # fmt: skip
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(count, hosts, restarts, arguments):
    """Runs `train` under horovodrun: signals reach the workers, faults are outlived.

    ARGUMENTS are those of `train`.
    """
    from launch.launcher import launch as launch_workers

    given = [*arguments]
    names = [argument.partition("=")[0] for argument in given]
    if "--recipe" not in names:
        raise UserError("launch: --recipe is missing; `launch -np 2 --recipe demo`, for example")
    given = [part for argument in given for part in _split(argument)]
    if "--run_dir" not in given:
        name = Path(given[given.index("--recipe") + 1]).stem
        given += ["--run_dir", str(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")]
    options = ["--gloo", *(["-H", hosts] if hosts else [])]
    sys.exit(launch_workers(given, count, options if count > 1 or hosts else [], restarts))


def _split(argument: str) -> list[str]:
    """`--name=value` as two arguments."""
    name, separator, value = argument.partition("=")
    return [name, value] if separator and name.startswith("--") else [argument]
