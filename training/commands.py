"""The commands beside `train`: their options, and nothing that is slow to import."""

import json
import sys
import time
from pathlib import Path

import click

from training.errors import UserError
from training.plan import plan as plan_of
from training.plan import print_plan
from training.recipes import load_recipe, presets

RECIPE = click.option(
    "--recipe", "recipe_name", required=True, metavar="NAME|FILE",
    help=f"A preset ({', '.join(presets())}) or a .yaml, .json or .py file.",
)  # fmt: skip


@click.command()
@RECIPE
@click.option("--workers", "count", type=click.IntRange(1), help="By default the recipe's.")
@click.option("--at", default="", help="Global steps, as in 0,1,625.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(recipe_name, count, at, as_json):
    """Prints a recipe's schedule; needs no data and no TensorFlow."""
    recipe = load_recipe(recipe_name)
    try:
        steps = [int(step) for step in at.split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--at: received {at!r}; give whole numbers, as in 0,1,625") from None
    found = plan_of(recipe.schedule(count or recipe.workers), steps)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_plan(found)


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
    from training.launcher import launch as launch_workers

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
