"""A run to export, read and checked before anything slow begins. No TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError, UserError
from datasets.records.manifest import read_manifest
from datasets.records.schema import Records
from training.inputs import check_classes, find_validation
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder


@dataclass(frozen=True)
class Source:
    """A trained run, and the validation records on which its exports are compared."""

    run: RunFolder
    recipe: Recipe
    records: Records
    records_size: int | None  # short side of the records' images in pixels, where it is known

    @property
    def names(self) -> list[str]:
        """The names of the classes in the order of the outputs; numbers from 0 without names."""
        return [*self.run.classes()] or [str(number) for number in range(self.recipe.classes)]

    @property
    def size(self) -> int:
        """Height and width of the images that the exported files take, in pixels."""
        return self.recipe.evaluation.image_size


def find_source(run_dir: Path, data_dir: Path | None) -> Source:
    """Reads and checks the run and its validation records.

    Raises:
        UserError: there is no run, no model or no records, or they do not belong together.
    """
    run = RunFolder(run_dir)
    if not run.holds_a_run:
        raise UserError(f"{run.path}: holds no run (there is no {run.recipe_file.name})")
    if run.is_synthetic:
        raise UserError(
            f"{run.path}: was trained on noise (--data synthetic), so there is no model; name a "
            "run that was trained on records"
        )
    if not run.model.exists():
        raise UserError(
            f"{run.path}: holds no {run.model.name}, which a run writes at its end; add --resume "
            "to the run's command"
        )
    recipe = load_recipe(run.recipe_file)
    root = data_dir or run.environment().get("data_dir")
    if root is None:
        raise UserError(f"--data_dir is missing; {run.environment_file} does not name the run's")
    try:
        records = find_validation(Path(root), recipe)
    except DataError as error:
        raise DataError(
            f"{error}\nAn export is compared on validation images; --data_dir names the folder "
            "where the run's records are now."
        ) from None
    check_classes(records, run.classes())
    manifest = read_manifest(records.files[0].parent)
    return Source(run, recipe, records, manifest.size if manifest else None)
