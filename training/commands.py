"""The commands beside `train`: their options, and nothing that is slow to import."""

import json
from pathlib import Path

import click

from training.errors import UserError
from training.liveness import PATIENCE
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
    from training.evaluation_run import evaluate_run

    evaluate_run(run_dir, data_dir, follow, patience, choices)
