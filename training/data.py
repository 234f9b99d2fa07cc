"""Where the records of a run are, and how many images they hold. No TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

from datasets.errors import DataError
from datasets.manifest import count_images, read_manifest, shard_files
from training.recipes import Recipe


@dataclass(frozen=True)
class Records:
    """The files of one split at one size.

    Attributes:
        files: the shards, in order.
        images: how many they hold.
        label_offset: the label of the first class in them.
    """

    files: tuple[Path, ...]
    images: int
    label_offset: int


@dataclass(frozen=True)
class RunData:
    """All records of a run.

    Attributes:
        training: by `(data_dir, prefix)`.
        validation: those of the recipe's evaluation.
    """

    training: dict[tuple[str, str], Records]
    validation: Records

    @property
    def images(self) -> dict[str, int]:
        """Training images by `data_dir`."""
        return {folder: records.images for (folder, _), records in self.training.items()}


def find_data(root: Path, recipe: Recipe) -> RunData:
    """Finds the records that a recipe names below `root`.

    Raises:
        DataError: a folder or a shard that is missing or broken, or a set with another
            number of classes than the recipe's.
    """
    wanted = {(p.data_dir, p.prefix) for p in recipe.training_strategy.root}
    evaluation = recipe.evaluation
    return RunData(
        {key: _records(root, *key, recipe.classes) for key in sorted(wanted)},
        _records(root, evaluation.data_dir, evaluation.prefix, recipe.classes),
    )


def _records(root: Path, data_dir: str, prefix: str, classes: int) -> Records:
    files = shard_files(root, data_dir, prefix)
    manifest = read_manifest(root / data_dir)
    images = count_images(files, manifest)
    if manifest is not None and len(manifest.classes) != classes:
        raise DataError(
            f"{root / data_dir}: its manifest has {len(manifest.classes)} classes, "
            f"but the recipe has classes: {classes}"
        )
    return Records(tuple(files), images, manifest.label_offset if manifest else 1)
