"""Where the records of a run are, and how many images they hold. No TensorFlow."""

from collections.abc import Sequence
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
        classes: names of the classes, in the order of the labels; none where there is no
            manifest to tell.
    """

    files: tuple[Path, ...]
    images: int
    label_offset: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunData:
    """All records of a run.

    Attributes:
        training: by `(data_dir, prefix)`.
        validation: those of the recipe's evaluation.
        root: the folder that holds all of them.
    """

    training: dict[tuple[str, str], Records]
    validation: Records
    root: Path = Path()

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
    return RunData(
        {key: _records(root, *key, recipe.classes) for key in sorted(wanted)},
        find_validation(root, recipe),
        root.resolve(),
    )


def find_validation(root: Path, recipe: Recipe) -> Records:
    """Finds the records of a recipe's evaluation below `root`.

    Raises:
        DataError: as `find_data`.
    """
    return _records(root, recipe.evaluation.data_dir, recipe.evaluation.prefix, recipe.classes)


def check_classes(records: Records, trained_on: Sequence[str]) -> None:
    """Refuses records whose classes are not those that the model was trained on.

    Args:
        records: to evaluate on.
        trained_on: names of the model's classes, in the order of its logits; where one of
            the two is not known, nothing is compared.

    Raises:
        DataError: naming the first class that differs.
    """
    for number, (own, model) in enumerate(zip(records.classes, trained_on, strict=False), 1):
        if own != model:
            raise DataError(
                f"{records.files[0].parent}: its class {number} is '{own}', the model's is "
                f"'{model}'; name the data that the model was trained on with --data_dir"
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
    if manifest is None:
        return Records(tuple(files), images, label_offset=1)
    return Records(tuple(files), images, manifest.label_offset, manifest.classes)
