"""Classes of new images by a run's model, prepared as the run's evaluation prepares its own."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from core.errors import DataError, UserError
from core.settings import Evaluation
from datasets.build.images import MAX_BYTES, Refused, convert, keep, reason
from datasets.records.manifest import read_manifest
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder

BATCH = 64  # images that are in memory at once
THREADS = 8  # that read and resize them


@dataclass(frozen=True)
class Trained:
    """A run's model, and what it takes to show it an image."""

    model: Path
    classes: tuple[str, ...]  # names, in the order of the logits
    evaluation: Evaluation
    short_side: int | None  # pixels of the images in the records; None: their own size
    quality: int | None  # of the JPEGs in the records; None: the builder's default
    apart: bool  # whether each class is a question of its own, with a sigmoid


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image file, or why it was not read."""

    image: Path
    likeliest: tuple[tuple[str, float], ...] = ()  # names and probabilities, the likeliest first
    refused: str = ""


def find_trained(run: Path) -> Trained:
    """Finds the model of a run folder, or of the model file in one; reads no weights.

    Raises:
        UserError: there is no model, or nothing that says how its images are prepared.
    """
    folder = RunFolder(run.parent if run.is_file() else run)
    model = run if run.is_file() else folder.model
    if not run.exists():
        raise UserError(f"{run}: no such file or folder; name the folder of a run")
    if not folder.holds_a_run:
        raise UserError(
            f"{run}: there is no {folder.recipe_file.name} in '{folder.path}', which says how "
            "images are prepared; name the folder of a run"
        )
    if not model.is_file():
        raise UserError(
            f"{run}: there is no {model.name} yet; it is written when the run ends (--resume)"
        )
    recipe = load_recipe(folder.recipe_file)
    names = folder.classes() or tuple(map(str, range(recipe.classes)))
    size, quality = _size_of_records(folder, recipe)
    return Trained(model, names, recipe.evaluation, size, quality, recipe.classes_apart)


def _size_of_records(folder: RunFolder, recipe: Recipe) -> tuple[int | None, int | None]:
    """The short side and the quality of the images that the run was evaluated on.

    The records' manifest has them. Where the records are gone, their folder's name, which is
    the short side, is enough.
    """
    name = recipe.evaluation.data_dir
    try:
        root = folder.environment().get("data_dir")
        manifest = read_manifest(Path(root) / name) if root else None
    except (OSError, DataError):
        manifest = None
    if manifest:
        return manifest.size, manifest.settings.get("quality")
    return (int(name) if name.isascii() and name.isdigit() else None), None


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files that were named, and those in folders and below them, but for hidden ones.

    Raises:
        UserError: a path that is not there, or a folder without files.
    """
    found = []
    for path in paths:
        if path.is_dir():
            files = (p for p in sorted(path.rglob("*")) if p.is_file())
            inside = [p for p in files if not any(n[0] == "." for n in p.relative_to(path).parts)]
            if not inside:
                raise UserError(f"{path}: holds no files; name images, or folders of images")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    return found


def read(path: Path, trained: Trained) -> bytes:
    """An image file as the JPEG that a build of records would make of it.

    What is not an image raises nearly any `Exception`, as `datasets.build.images.read_image`.
    """
    size = path.stat().st_size
    if not size:
        raise Refused("empty file")
    if size > MAX_BYTES:
        raise Refused(f"{size:,} bytes; at most {MAX_BYTES:,} are read")
    data = path.read_bytes()
    if trained.short_side is None:
        return keep(data, trained.quality)[0]
    return convert(data, [trained.short_side], trained.quality)[0][0]


def predict(trained: Trained, images: Iterable[Path], most: int) -> Iterator[Prediction]:
    """The `most` likeliest classes of each image, in the order of the images.

    An image becomes the JPEG that stood in a record, and the evaluation's own code crops it and
    averages the views. So an image of the validation set gets the evaluation's prediction.

    Raises:
        UserError: the model cannot be loaded, or has another number of classes.
    """
    import tensorflow as tf

    from datasets.input import fused_jpeg
    from datasets.input.validation import evaluation_crop
    from evaluation.evaluator import averaged_logits, likeliest

    model = _load(trained)
    settings = trained.evaluation
    fused_jpeg.native()  # once, before the threads ask for it

    def prepare(path: Path) -> Any:
        try:
            return evaluation_crop(read(path, trained), settings)
        except MemoryError:
            raise
        except Exception as error:  # broken images make Pillow raise nearly anything
            return Prediction(path, refused=reason(error))

    @tf.function(reduce_retracing=True)
    def step(batch: Any) -> Any:
        logits = averaged_logits(model, batch, settings.flip, settings.shift)
        return likeliest(logits, most, trained.apart)

    rest = iter(images)
    with ThreadPoolExecutor(THREADS) as pool:
        while paths := list(itertools.islice(rest, BATCH)):
            found = dict(zip(paths, pool.map(prepare, paths), strict=True))
            crops = {path: crop for path, crop in found.items() if not isinstance(crop, Prediction)}
            # Rectangular crops have several shapes.
            for shape in {tuple(crop.shape) for crop in crops.values()}:
                alike = [path for path, crop in crops.items() if tuple(crop.shape) == shape]
                classes, probabilities = step(tf.stack([crops[path] for path in alike]))
                for path, *best in zip(alike, classes.numpy(), probabilities.numpy(), strict=True):
                    pairs = zip(*(x.tolist() for x in best), strict=True)
                    names = tuple((trained.classes[n], p) for n, p in pairs if n >= 0)
                    refused = "" if names else "the model's output is not finite"
                    found[path] = Prediction(path, names, refused)
            yield from found.values()


def _load(trained: Trained) -> Any:
    """The model, which must have the classes that the run's folder names."""
    import keras

    try:
        model = keras.saving.load_model(trained.model, compile=False)
    except Exception as error:  # Keras, h5py and zipfile raise of every class on damaged bytes
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"model '{trained.model}' cannot be loaded: {why}") from None
    count = model.output_shape[-1]
    if count != len(trained.classes):
        raise UserError(
            f"model '{trained.model}' has {count} classes, but its run's folder names "
            f"{len(trained.classes)}"
        )
    return model


def as_table(found: Iterable[Prediction]) -> Table:
    """A table for the console: an image's classes below each other."""
    table = Table()
    for name in ("image", "class"):
        table.add_column(name, overflow="fold")
    table.add_column("probability", justify="right")
    for one in found:
        for number, (name, probability) in enumerate(one.likeliest):
            table.add_row("" if number else str(one.image), name, f"{probability:.2%}")
        table.add_section()
    return table


def as_csv(found: Iterable[Prediction], most: int) -> str:
    """A row for each image: `image`, `class_1`, `probability_1`, `class_2`, ..."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(1, most + 1)
    writer.writerow(["image", *(f"{x}_{rank}" for rank in ranks for x in ("class", "probability"))])
    for one in found:
        cells = [(name, f"{probability:.6g}") for name, probability in one.likeliest]
        writer.writerow([one.image, *itertools.chain(*cells)])
    return text.getvalue()


def as_json(found: Iterable[Prediction]) -> str:
    """A list of objects: `image`, and `likeliest` as objects of `class` and `probability`."""
    return json.dumps(
        [
            {
                "image": str(one.image),
                "likeliest": [{"class": name, "probability": p} for name, p in one.likeliest],
            }
            for one in found
        ],
        indent=2,
    )
