"""A run's model for other runtimes: written by Keras, checked by each runtime, then described."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import RunError, UserError
from deploy.card import model_card
from deploy.comparison import Checked, Comparison, compare
from deploy.formats import CLASSES, FORMATS, KERAS, Format
from deploy.source import Source
from reports.console import table

if TYPE_CHECKING:  # they import TensorFlow
    import keras
    from rich.console import Console

    from deploy.runtimes import Predict

IMAGES = 100  # to compare on, or all where the records hold fewer
UNFINISHED, LOG = ".unfinished", "log.txt"  # inside the export folder, while it is written
RECIPE, RECORD, CARD = "recipe.yaml", "export.json", "README.md"
# All that an export may write. The card comes last: a folder with a card is whole.
NAMES = (
    *(name for format in (KERAS, *FORMATS.values()) for name in format.files),
    *(CLASSES, RECIPE, RECORD, CARD),
)


def check_output(folder: Path) -> None:
    """Refuses a folder in which an export would replace the files of something else."""
    if folder.is_file():
        raise UserError(f"--output {folder}: is a file; name a folder")
    others = [name for name in NAMES if (folder / name).exists()]
    if others and not (folder / RECORD).exists():
        raise UserError(
            f"--output {folder}: holds {others[0]}, but no export (there is no {RECORD}); name "
            "another folder"
        )


def export(
    source: Source, formats: Sequence[Format], output: Path
) -> tuple[list[Checked], list[str]]:
    """Writes a run's model in these formats and as Keras loads it, with a card, into a folder.

    A file that its runtime cannot load, or that differs from the Keras model, is left out. At
    the end all replaces what an earlier export wrote there; other files stay.

    Returns:
        What was written, and, in words, what was not.

    Raises:
        RunError: the Keras model itself does not load as it was saved; nothing is replaced.
    """
    # A mistake in the options was reported before these imports, which take seconds.
    import keras

    from deploy import writers
    from deploy.runtimes import RUNTIMES

    model, images = load_model(source), validation_images(source)
    whole = writers.classifier(model, source.size, source.recipe.classes_apart)
    expected = _predict(whole, images)

    def load_keras(path: Path) -> "Predict":
        loaded = keras.saving.load_model(path.parent, compile=False)
        return partial(
            _predict, writers.classifier(loaded, source.size, source.recipe.classes_apart)
        )

    steps: list[tuple[Format, Callable[[Path], None], Callable[[Path], Predict]]] = [
        (KERAS, partial(writers.write_keras, model), load_keras),
        *(
            (one, partial(writers.WRITERS[one.name], whole, source.names), RUNTIMES[one.name])
            for one in formats
        ),
    ]
    written: list[Checked] = []
    problems: list[str] = []
    with _unfinished(output) as folder:
        for format, write, load in steps:
            try:
                with _said_to(folder / LOG):
                    write(folder)
                    found = _in_two_batches(load(folder / format.files[0]), images)
                written.append(_checked(format, folder, compare(expected, found)))
            except Exception as error:  # converters and runtimes raise of every class
                if format is KERAS:
                    raise RunError(f"{source.run.model}: {_reason(error)}") from None
                problems.append(f"{format.name}: {_reason(error)}")
                for name in format.files:
                    _remove(folder / name)
        (folder / CLASSES).write_text(writers.lines(source.names), encoding="utf-8")
        shutil.copyfile(source.run.recipe_file, folder / RECIPE)
        (folder / RECORD).write_text(json.dumps([one.figures() for one in written], indent=2))
        (folder / CARD).write_text(model_card(source, written), encoding="utf-8")
        _replace(folder, output)
    return written, problems


def _checked(format: Format, folder: Path, comparison: Comparison) -> Checked:
    if not comparison.is_good:
        raise RunError(f"differs from the Keras model: {comparison}")
    return Checked(format, sum(_bytes(folder / name) for name in format.files), comparison)


def _reason(error: Exception) -> str:
    """What went wrong with a file, in a line."""
    if isinstance(error, RunError):
        return str(error)
    said = (str(error).strip().splitlines() or [""])[0][:300]
    return f"cannot be written and loaded: {type(error).__name__}: {said}"


def print_export(written: Sequence[Checked], output: Path, console: "Console") -> None:
    """Prints the table of an export, what its formats cannot do, and where it is."""
    columns = {
        "format": "{format}",
        "file": "{file}",
        "bytes": "{bytes:,}",
        "largest difference": "{largest:.1e}",
        "top-1 equal": "{same}",
    }
    console.print(table((one.figures() for one in written), columns))
    for one in written:
        console.print(f"{one.format.name} {one.format.cannot}.", soft_wrap=True)
    console.print(f"saved in {output}; {CARD} there is the model card", soft_wrap=True)


def load_model(source: Source) -> "keras.Model":
    """The run's model in float32: built from its recipe, with the arrays of `model.keras`.

    It computes on the CPU, as the runtimes do here: a GPU's TensorFloat-32 has fewer digits.
    """
    import tensorflow as tf

    from core import devices
    from core.checkpoints import load_weights
    from training import model

    with contextlib.suppress(RuntimeError):  # where this process has used the GPU before
        tf.config.set_visible_devices([], "GPU")
    devices.set_numerics("float32", source.recipe.seed)
    net = model.build(source.recipe, source.run.architecture())
    load_weights(net, source.run.model)
    return net


def validation_images(source: Source) -> np.ndarray:
    """The images to compare on: the first of each record file, cropped as for evaluation.

    uint8 `[images, size, size, 3]`.
    """
    from datasets.input.validation import statistics_pipeline

    count = min(IMAGES, source.records.images)
    (batch,) = statistics_pipeline(source.records, count, source.size, count)
    return batch.numpy()


def _predict(model: "keras.Model", images: np.ndarray) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(model(images, training=False))


def _in_two_batches(predict: "Predict", images: np.ndarray) -> np.ndarray:
    """The first image alone, then the others: a file takes batches of any size."""
    return np.concatenate([predict(part) for part in (images[:1], images[1:]) if len(part)])


@contextlib.contextmanager
def _said_to(log: Path) -> Iterator[None]:
    """Adds to a file what the block, libraries in C++ too, would write to standard error."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextlib.contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """A folder to write to, inside `output`; it is gone after the block."""
    folder = output / UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            output.rmdir()  # only where it is empty


def _replace(folder: Path, output: Path) -> None:
    """Moves an export from `folder` to `output`, and removes what an earlier one left there."""
    for name in reversed(NAMES):
        _remove(output / name)
    for name in NAMES:
        if (folder / name).exists():
            os.replace(folder / name, output / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    inside = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in inside if file.is_file())
