"""The records of a run: where they are, how many images they hold, how they count labels.

No TensorFlow.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import DataError, UserError
from datasets.records.manifest import images_by_file, read_manifest, shard_files
from datasets.records.schema import TFDS_LABEL_OFFSET, DatasetInfo, Records, read_dataset_info
from datasets.records.survey import Survey, detect_keys, merge, offset_of, survey
from training.recipes import Recipe

# With `--images`, batches are halved, down to the smallest, until an epoch has so many steps.
STEPS_PER_EPOCH = 16
SMALLEST_BATCH = 8
# With `--images`, about so many checkpoints and log lines, where the recipe names no steps.
CHECKPOINTS, LOG_LINES = 8, 40


@dataclass(frozen=True)
class RunData:
    """All records of a run."""

    training: dict[tuple[str, str], Records]  # by data_dir and prefix
    validation: Records  # those of the recipe's evaluation
    root: Path = Path()  # the folder that holds all of them
    synthetic: bool = False  # there are none: the run trains on noise (training/synthetic.py)
    statistics: Records | None = None  # where the evaluation estimates BatchNorm's statistics
    taken: Mapping[str, Any] = field(default_factory=dict)  # the recipe's keys that they decide

    @property
    def images(self) -> dict[str, int]:
        """Training images by `data_dir/prefix`."""
        return {"/".join(key): records.images for key, records in self.training.items()}


def sizes_of(recipe: Recipe) -> list[int]:
    """The short sides, in pixels, of the records that a recipe reads; its folders are named so.

    Raises:
        UserError: a folder that is named otherwise, or a prefix that the builder does not write.
    """
    phases = recipe.training_strategy.root
    named = {f"phase {n}, key 'data_dir'": p.data_dir for n, p in enumerate(phases, 1)}
    named["key 'evaluation.data_dir'"] = recipe.evaluation.data_dir
    for key, folder in named.items():
        if not (folder.isdecimal() and folder == str(int(folder)) and int(folder)):
            raise UserError(
                f"--images with recipe '{recipe.name}', {key}: received {folder!r}; records of "
                "images are made in folders named by their short side, such as '160'"
            )
    prefixes = {p.prefix for p in phases} - {"train"} | {recipe.evaluation.prefix} - {"validation"}
    if prefixes:
        raise UserError(
            f"--images with recipe '{recipe.name}', key 'prefix': received {min(prefixes)!r}; "
            "records of images are made as 'train', and 'validation' for the evaluation"
        )
    return sorted(set(map(int, named.values())))


def taken_from(root: Path, recipe: Recipe, workers: int, own_images: bool) -> dict[str, Any]:
    """The keys of a recipe that its records decide, for `Recipe.taking`.

    They are the number of classes, where the recipe leaves it out; and, where the records were
    made of the user's own images (`--images`), always that, the number of images, batches that
    leave an epoch enough steps, and, where they are left out, how often the run is saved and
    logged.
    """
    folder = root / recipe.evaluation.data_dir
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or len(manifest.classes) < 2:
        return {}
    taken: dict[str, Any] = {"classes": len(manifest.classes)}
    if not own_images:
        return {} if "classes" in recipe.model_fields_set else taken
    images = manifest.splits["train"].images

    def fitting(batch_size: int) -> int:
        while batch_size >= 2 * SMALLEST_BATCH:
            if images // (batch_size * workers) >= STEPS_PER_EPOCH:
                break
            batch_size //= 2
        return max(1, min(batch_size, images // workers))

    phases = recipe.training_strategy.root
    taken["images"] = images
    if (sizes := [fitting(p.batch_size) for p in phases]) != [p.batch_size for p in phases]:
        taken["batch_sizes"] = sizes
    steps = recipe.taking(taken).schedule(workers, images).total_steps
    for key, parts in (("checkpoint_every", CHECKPOINTS), ("log_every", LOG_LINES)):
        if key not in recipe.model_fields_set:
            taken[key] = max(1, round(steps / parts))
    return taken


def in_words(taken: Mapping[str, Any]) -> str:
    """What a run took from its data and its initial model, in a line."""
    words = {key: f"{key} {_short(value)}" for key, value in taken.items()}
    if sizes := taken.get("batch_sizes"):
        in_turn = _short(list(dict.fromkeys(sizes)))
        words["batch_sizes"] = f"batches of {in_turn}, with rates in proportion"
    return "; ".join(words.values())


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def find_data(root: Path, recipe: Recipe) -> RunData:
    """Finds the records that a recipe names below `root`.

    Raises:
        DataError: a folder or shard is missing or broken, the number of classes is not the
            recipe's, or the labels do not show whether they count from 0 or from 1.
    """
    wanted = {(p.data_dir, p.prefix) for p in recipe.training_strategy.root}
    training = {key: _records(root, *key, recipe) for key in sorted(wanted)}
    validation, statistics = find_validation(root, recipe), find_statistics(root, recipe)
    return RunData(training, validation, root.resolve(), statistics=statistics)


def find_validation(root: Path, recipe: Recipe) -> Records:
    """Finds the records of a recipe's evaluation below `root`; raises as `find_data`."""
    return _records(root, recipe.evaluation.data_dir, recipe.evaluation.prefix, recipe)


def find_statistics(root: Path, recipe: Recipe) -> Records | None:
    """Finds the training records for `evaluation.statistics_images`; None without that key."""
    wanted, data_dir = recipe.evaluation.statistics_images, recipe.evaluation.data_dir
    if wanted is None:
        return None
    prefix = recipe.training_strategy.root[-1].prefix
    key = f"key 'evaluation.statistics_images': received {wanted}"
    try:
        records = _records(root, data_dir, prefix, recipe)
    except DataError as error:
        raise DataError(
            f"{key}, which needs training images, '{prefix}', in the evaluation's data_dir, "
            f"'{data_dir}': {error}"
        ) from None
    if records.images < wanted:
        raise DataError(f"{key}, but '{data_dir}/{prefix}' holds {records.images} images")
    return records


def check_classes(records: Records, trained_on: Sequence[str]) -> None:
    """Refuses records with other classes than the model's, which are in the order of its logits.

    Nothing is compared where either are not known.
    """
    for number, (own, model) in enumerate(zip(records.classes, trained_on, strict=False), 1):
        if own != model:
            raise DataError(
                f"{records.files[0].parent}: its class {number} is '{own}', the model's is "
                f"'{model}'; name the data that the model was trained on with --data_dir"
            )


def _records(root: Path, data_dir: str, prefix: str, recipe: Recipe) -> Records:
    folder, files = root / data_dir, shard_files(root, data_dir, prefix)
    manifest = read_manifest(folder)
    if manifest is None:
        return _foreign_records(root, data_dir, prefix, recipe)
    counts = tuple(images_by_file(files, manifest))
    if len(manifest.classes) != recipe.classes:
        raise DataError(
            f"{folder}: its manifest has {len(manifest.classes)} classes, "
            f"but the recipe has classes: {recipe.classes}"
        )
    offset = manifest.label_offset
    if recipe.label_offset not in (None, offset):
        raise DataError(
            f"{folder}: its manifest has label_offset {offset}, "
            f"but the recipe has label_offset: {recipe.label_offset}"
        )
    return Records(tuple(files), sum(counts), offset, classes=manifest.classes, counts=counts)


def _foreign_records(root: Path, data_dir: str, prefix: str, recipe: Recipe) -> Records:
    """Records without a manifest: they are read to find out what they hold.

    The label offset is found from all splits of the folder, since a small split may lack
    the first or the last class.
    """
    files = shard_files(root, data_dir, prefix)
    keys = detect_keys(files[0])
    by_file = survey(files, keys)
    own = merge(by_file)
    info = read_dataset_info(root / data_dir)
    if info and info.images.get(prefix, own.images) != own.images:
        raise DataError(
            f"{root / data_dir}: '{prefix}' holds {own.images} images, but its "
            f"dataset_info.json says {info.images[prefix]}; copy the whole set again"
        )
    evaluation = recipe.evaluation
    prefixes = {p.prefix for p in recipe.training_strategy.root if p.data_dir == data_dir}
    prefixes |= {evaluation.prefix} if evaluation.data_dir == data_dir else set()
    others = []
    for other in prefixes - {prefix}:
        with contextlib.suppress(DataError):  # missing, and reported where it is needed
            other_files = shard_files(root, data_dir, other)
            if detect_keys(other_files[0]) == keys:
                others += survey(other_files, keys)
    offset = _label_offset(root / data_dir, merge([own, *others]), info, recipe)
    counts = tuple(part.images for part in by_file)
    names = info.names if info else ()
    return Records(tuple(files), own.images, offset, keys, names, counts)


def _label_offset(folder: Path, found: Survey, info: DatasetInfo | None, recipe: Recipe) -> int:
    """The label of the first class: stated by the data or the recipe, or found in the labels."""
    classes, stated = recipe.classes, recipe.label_offset
    by = f"the recipe's label_offset: {stated}"
    if info is not None:
        if info.classes != classes:
            raise DataError(
                f"{folder}: its features have {info.classes} classes, "
                f"but the recipe has classes: {classes}"
            )
        if stated not in (None, TFDS_LABEL_OFFSET):
            raise DataError(f"{folder}: its features.json says labels from 0, but {by}")
        stated, by = TFDS_LABEL_OFFSET, "its features.json"
    labels = f"{folder}: its labels run from {found.lowest} to {found.highest}"
    if stated is not None:
        if stated <= found.lowest and found.highest < classes + stated:
            return stated
        raise DataError(
            f"{labels}, but by {by} and classes: {classes} they run from {stated} to "
            f"{classes - 1 + stated}"
        )
    try:
        offset = offset_of(found, classes)
    except ValueError as error:
        raise DataError(f"{folder}: {error}; check the recipe's `classes`") from None
    if offset is None:
        raise DataError(
            f"{labels}, which does not show whether the {classes} classes count from 0 or from 1\n"
            "Add label_offset: 0 or label_offset: 1 to the recipe."
        )
    return offset
