"""The commands beside `train`; nothing here is slow to import."""

import json
from pathlib import Path

import click

from core.clock import CLOCKS
from core.errors import RunError, UserError
from deploy.formats import FORMATS, missing_packages, parse_formats, what_to_install
from reports.plan import plan as plan_of
from reports.plan import print_plan, project
from reports.reader import read_record
from reports.throughput import load_throughput, throughput_of_run
from tracking.trackers import TRACKERS
from training.inputs import find_data, taken_from
from training.liveness import PATIENCE
from training.recipes import load_recipe, presets

RECIPE = click.option(
    "--recipe",
    "recipe_name",
    required=True,
    metavar="NAME|FILE",
    help=f"A preset ({', '.join(presets())}) or a .yaml, .json or .py file.",
)


@click.command()
@RECIPE
@click.option("--workers", "count", type=click.IntRange(1), help="By default the recipe's.")
@click.option("--data_dir", type=Path, help="Count the images there, not the recipe's.")
@click.option("--at", default="", help="Print these global steps, as in 0,1,625.")
@click.option("--throughput", type=Path, metavar="FILE", help="Rates to project the time from.")
@click.option("--from_run", type=Path, metavar="RUN", help="Take the rates from a run.")
@click.option("--price", type=click.FloatRange(0), help="Price of an hour of all workers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    recipe_name: str,
    count: int | None,
    data_dir: Path | None,
    at: str,
    throughput: Path | None,
    from_run: Path | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Prints a recipe's schedule and, from rates, its time. Needs no data and no TensorFlow."""
    recipe = load_recipe(recipe_name)
    try:
        steps = [int(step) for step in at.split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--at: received {at!r}; give whole numbers, as in 0,1,625") from None
    if throughput and from_run:
        raise UserError("--throughput and --from_run: give one of them, not both")
    if price is not None and not (throughput or from_run):
        raise UserError("--price needs rates: --throughput FILE or --from_run RUN")
    images = None
    if data_dir:
        recipe = recipe.taking(taken_from(data_dir, recipe, count or recipe.workers, False))
        images = find_data(data_dir, recipe).images
    schedule = recipe.schedule(count or recipe.workers, images)
    found = plan_of(schedule, steps)
    rates = load_throughput(throughput) if throughput else None
    if from_run:
        rates = throughput_of_run(read_record(from_run))
    if rates:
        found["projection"] = project(recipe, schedule, rates, price, steps)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_plan(found)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=Path, metavar="RUN...")
@click.option("--target", metavar="top5=93", help="Accuracy in percent; 93 % top-5 for ImageNet.")
@click.option("--price", type=click.FloatRange(0), help="Price of an hour of all workers.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), help="By default DAWNBench's.")
@click.option("--output", type=Path, help="Folder for the report; by default the only run's.")
@click.option("--dawnbench", type=Path, metavar="DIR", help="Write the entry's JSON and TSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(
    runs: tuple[Path, ...],
    target: str | None,
    price: float | None,
    clock: str | None,
    output: Path | None,
    dawnbench: Path | None,
    as_json: bool,
) -> None:
    """Shows how long runs took to reach an accuracy.

    A RUN is a run folder, a log or a DAWNBench entry (.tsv).
    """
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
        console.print(f"{curve} and {about.name}; fill in author and codeURL")


@click.command()
@click.option("--run_dir", required=True, type=Path, help="The run's folder.")
@click.option("--data_dir", type=Path, help="Folder of the records; by default the run's own.")
@click.option("--follow", is_flag=True, help="Wait for more checkpoints until the run ends.")
@click.option(
    "--patience",
    default=PATIENCE,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="With --follow: seconds without a sign of life after which the run counts as dead.",
)
@click.option("--image_size", type=click.IntRange(1), help="Short side of the crop in pixels.")
@click.option("--batch_size", type=click.IntRange(1), help="Images in a batch, on each worker.")
@click.option("--rectangular/--square", default=None, help="Crop near the image's own aspect.")
@click.option("--flip/--no_flip", default=None, help="Average with the mirror image.")
@click.option(
    "--shift", type=click.IntRange(0), help="Average with views shifted by so many pixels."
)
@click.option("--statistics_images", type=click.IntRange(1), help="Estimate BatchNorm's anew.")
@click.option("--ema/--no_ema", default=None, help="Use the average of the weights.")
def evaluate(
    run_dir: Path, data_dir: Path | None, follow: bool, patience: float, **choices: int | bool
) -> None:
    """Evaluates a run's checkpoints. Options that are not given are the recipe's."""
    from core import workers
    from core.board import board
    from evaluation.run import evaluate_run
    from launch import command_line, rendezvous
    from reports.report import report as write_report
    from training.run_folder import RunFolder

    board.note(command=command_line.to_repeat())  # an error's message says to rerun it
    rendezvous.meet()
    problems = evaluate_run(run_dir, data_dir, follow, patience, choices)
    board.note(command="")
    if workers.current().is_first and RunFolder(run_dir).evaluation_rows():
        write_report([run_dir])
    if problems:
        raise RunError(problems)


@click.command()
@click.argument("run", type=Path)
@click.argument("images", nargs=-1, required=True, type=Path, metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes shown.")
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "csv", "json"]),
    help="How they are printed.",
)
def predict(run: Path, images: tuple[Path, ...], top: int, form: str) -> None:
    """Shows the likeliest classes of images, or of all in folders, by a run's model.

    RUN is a run folder. Images are prepared as the run's evaluation prepares its own.
    """
    from deploy import predict as predictions

    trained = predictions.find_trained(run)
    paths = predictions.find_images(images)
    found, refused = [], 0
    for one in predictions.predict(trained, paths, top):
        if one.refused:
            refused += 1
            click.echo(f"{one.image}: {one.refused}", err=True)
        else:
            found.append(one)
    if form == "table" and found:
        from rich.console import Console

        Console(highlight=False).print(predictions.as_table(found))
    elif form == "csv":
        click.echo(predictions.as_csv(found, min(top, len(trained.classes))), nl=False)
    elif form == "json":
        click.echo(predictions.as_json(found))
    if refused:
        raise RunError(f"{refused} of {len(paths)} files could not be predicted, as said above")


@click.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option(
    "--format",
    "names",
    metavar="NAME,...",
    help=f"Of {', '.join(FORMATS)}; by default those whose packages are installed.",
)
@click.option("--output", type=Path, help="Folder for the export; by default RUN/export.")
@click.option("--data_dir", type=Path, help="Folder of the records; by default the run's own.")
def export(run: Path, names: str | None, output: Path | None, data_dir: Path | None) -> None:
    """Writes a run's model for other runtimes, checks each file there, and adds a model card."""
    from rich.console import Console

    from core.workers import launched_rank
    from deploy import export as exports
    from deploy.source import find_source

    if launched_rank() > 0:
        return  # the first worker does it alone
    wanted = parse_formats(names) if names is not None else [*FORMATS.values()]
    formats = [format for format in wanted if not missing_packages(format)]
    lacking = what_to_install(wanted)
    if not formats:
        raise UserError(lacking)
    source = find_source(run, data_dir)
    output = output or source.run.export
    exports.check_output(output)
    written, problems = exports.export(source, formats, output)
    console = Console(width=120, highlight=False)
    exports.print_export(written, output, console)
    if lacking and names is None:
        console.print(lacking, soft_wrap=True)
    elif lacking:
        problems.append(lacking)
    if problems:
        raise RunError("\n".join(problems))


@click.command()
@click.argument("run_dir", type=Path, metavar="RUN")
@click.option("--to", "names", type=click.Choice(TRACKERS), multiple=True, required=True)
def track(run_dir: Path, names: tuple[str, ...]) -> None:
    """Sends a run to trackers: what they do not have of it yet."""
    from tracking.follow import send_once
    from training.run_folder import RunFolder

    for name in dict.fromkeys(names):
        click.echo(send_once(RunFolder(run_dir), name))
