"""The commands beside `train`: their options, and nothing that is slow to import."""

import json
from pathlib import Path

import click

from training.data import find_data
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
@click.option("--data_dir", type=Path, help="Count the images there, not the recipe's.")
@click.option("--at", default="", help="Global steps, as in 0,1,625.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(recipe_name, count, data_dir, at, as_json):
    """Prints a recipe's schedule; needs no data and no TensorFlow."""
    recipe = load_recipe(recipe_name)
    try:
        steps = [int(step) for step in at.split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--at: received {at!r}; give whole numbers, as in 0,1,625") from None
    images = find_data(data_dir, recipe).images if data_dir else None
    found = plan_of(recipe.schedule(count or recipe.workers, images), steps)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_plan(found)
