"""What a run is made of, found and checked on every worker before anything happens."""

from pathlib import Path

from core.errors import UserError
from training.inputs import find_data
from training.recipes import load_recipe
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent


def prepare(team, now, recipe_name, data_dir, run_dir, data, resume, overwrite):
    """Reads and checks all that a run needs, before anything is created.

    Returns:
        The recipe, its `RunData`, the `Schedule` and the `RunFolder`.

    Raises:
        UserError, DataError: a recipe, data or a folder that a run cannot be made of.
    """
    recipe = load_recipe(recipe_name)
    if data == "synthetic":
        from training import synthetic

        recipe = synthetic.marked(recipe)
    elif data_dir is None:
        if recipe.embedded_data is None:
            raise UserError(f"--data_dir is missing; recipe '{recipe.name}' needs records on disk")
        from datasets.build.digits import prepare_digits

        data_dir = prepare_digits(ROOT / "data" / recipe.embedded_data)
    data = synthetic.data_for(recipe) if data == "synthetic" else find_data(data_dir, recipe)
    schedule = recipe.schedule(team.size, data.images)
    run = RunFolder(run_dir or Path("runs") / f"{recipe.name}-{now}")
    run.check_free(resume, overwrite)
    return recipe, data, schedule, run
