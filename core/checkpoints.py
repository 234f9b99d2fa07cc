"""Checkpoints: plain `.keras` files that also hold all that a resume needs, and a digest.

To what `model.save` writes, the zip archive adds two entries and a comment:

- `training_state.json`: the step, the kind of checkpoint, the workers, the recipe, the data,
  and what each worker's callbacks remember;
- `worker_arrays.npz`: each worker's own variables (statistics of BatchNorm, metrics, seeds);
- the comment, at the end of the file: the SHA-256 of every byte before its hex digits.
"""

import hashlib
import io
import json
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import ml_dtypes
import numpy as np

from core.errors import UserError
from core.files import whole

if TYPE_CHECKING:
    import keras

WEIGHTS = "model.weights.h5"  # Keras 3's name of them in a `.keras` archive
STATE = "training_state.json"
ARRAYS = "worker_arrays.npz"
DIGEST = b"sha256:"
HEX_DIGITS = 64
BLOCK = 2**20  # bytes read at once
MOST_UNPACKED = 2  # times a file's size; ours are stored uncompressed
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError)

# What a checkpoint is written for. It says so itself, since its step does not: another
# number of workers, or another `checkpoint_every`, has other steps.
REGULAR = "regular"  # by the recipe; kept as the recipe says, and evaluated
SIGNAL = "signal"  # for a run that was asked to stop; removed when the next one is written

RETRIES = (1.0, 3.0, 6.0)  # seconds before each further try to write a checkpoint
SLOW_SECONDS = 60.0  # after which the user is told of a slow write; again after twice as many
LEFT_OUT_LIMIT = 3  # checkpoints in a row that could not be written end a run


class BadCheckpoint(UserError):
    """A checkpoint that is cut short, altered, of another model or not one of ours."""


@dataclass(frozen=True)
class Snapshot:
    """A run at a step, copied to the host."""

    step: int  # steps that are done
    values: Sequence[tuple[Any, np.ndarray]] = ()  # variables of the model and its optimizer
    state: dict[str, Any] = field(default_factory=dict)  # JSON
    arrays: Sequence[Sequence[np.ndarray]] = ()  # for each worker, its own


def write(model: Any, snapshot: Snapshot, path: Path) -> None:
    """Writes `model` as it was at the snapshot; may run beside its training; or an `OSError`."""
    import keras

    from core.keras_patches import TRAINABLE, remember_what_saving_skips

    remember_what_saving_skips()
    packed = io.BytesIO()
    arrays = enumerate(snapshot.arrays)
    np.savez(packed, **{f"{rank}/{i}": a for rank, own in arrays for i, a in enumerate(own)})
    with whole(path) as unfinished:
        # Inside the scope, which is this thread's alone, a variable has its snapshot's value.
        with TRAINABLE, keras.StatelessScope(state_mapping=snapshot.values):
            model.save(str(unfinished))
        with zipfile.ZipFile(unfinished, "a") as archive:
            archive.writestr(STATE, json.dumps({**snapshot.state, "step": snapshot.step}))
            archive.writestr(ARRAYS, packed.getvalue())
            archive.comment = DIGEST + b"0" * HEX_DIGITS
        with open(unfinished, "r+b") as file:
            size = file.seek(0, os.SEEK_END) - HEX_DIGITS
            digest = _digest(file, size)
            file.seek(size)
            file.write(digest)


def _digest(file: Any, size: int) -> bytes:
    """Hex digits of the SHA-256 of the first `size` bytes."""
    total = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(BLOCK, size)):
        total.update(block)
        size -= len(block)
    return total.hexdigest().encode()


def check(path: Path) -> None:
    """Compares a checkpoint with the digest inside it; `BadCheckpoint` says what is wrong."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) - HEX_DIGITS
            if size < len(DIGEST):
                raise BadCheckpoint("is cut short or empty")
            file.seek(size - len(DIGEST))
            mark, noted = file.read(len(DIGEST)), file.read()
            if mark != DIGEST:
                raise BadCheckpoint("is cut short: it does not end with a digest")
            if _digest(file, size) != noted:
                raise BadCheckpoint("was altered: its digest is another one")
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_UNPACKED * size:
            raise BadCheckpoint(f"would unpack to {unpacked / size:.0f} times its size")
    except zipfile.BadZipFile as error:
        raise BadCheckpoint(f"is no archive ({error})") from None
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror}") from None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON state in a checkpoint; raises `BadCheckpoint` if none can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read(STATE))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BadCheckpoint(f"holds no state of a run ({error})") from None
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise BadCheckpoint("holds no state of a run (no step)")
    return state


def read_arrays(path: Path, rank: int) -> list[np.ndarray]:
    """The arrays of worker `rank` in a checkpoint, in their order."""
    with (
        zipfile.ZipFile(path) as archive,
        np.load(io.BytesIO(archive.read(ARRAYS)), allow_pickle=False) as arrays,
    ):
        return [arrays[name] for name in arrays.files if name.startswith(f"{rank}/")]


def kind_of(path: Path) -> str | None:
    """`REGULAR` or `SIGNAL`; None where a checkpoint cannot be read."""
    try:
        return read_state(path).get("kind")
    except BadCheckpoint:
        return None


def load_weights(
    model: "keras.Model", path: Path, averaged_by: "keras.optimizers.Optimizer | None" = None
) -> None:
    """Loads a checkpoint's weights into a built functional model of the same layers.

    Keras's own loading walks the whole model for anything that could hold state. Here each
    layer takes what was saved under its name; optimizer and architecture are left alone.

    Args:
        averaged_by: the optimizer of the run (without a loss scale), built on the model
            with `use_ema`: its averages of the weights are loaded, if it has done a step.
            Keras does not average the statistics of BatchNorm.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        BadCheckpoint: it is damaged or of another model; the model may hold a part of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # checks its checksum
            saved = io.BytesIO(archive.read(WEIGHTS))
        with h5py.File(saved, "r") as file:
            saved_layers = [group["vars"] for group in file["layers"].values()]
            by_name = {variables.attrs["name"]: variables for variables in saved_layers}
            for layer in (layer for layer in model.layers if layer.weights):
                if layer.name not in by_name:
                    raise ValueError(f"it has no layer '{layer.name}'")
                layer.load_own_variables(_arrays(by_name[layer.name]))
            if averaged_by is not None:
                _load_averages(model, file["optimizer"], averaged_by)
    except FileNotFoundError:
        raise
    except (*DAMAGED, ValueError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        is_damaged = isinstance(error, DAMAGED)
        what = "cut short or damaged" if is_damaged else "of another model than the run's recipe"
        raise BadCheckpoint(f"checkpoint '{path}': {what} ({reason})") from None


def _load_averages(
    model: "keras.Model", group: Mapping[str, Any], optimizer: "keras.optimizers.Optimizer"
) -> None:
    saved = _arrays(group.get("inner_optimizer", group)["vars"])  # where there is a loss scale
    known = len(optimizer.variables)
    if len(saved) != known:
        raise ValueError(f"its optimizer has {len(saved)} variables, the recipe's {known}")
    state = {id(v): saved[str(i)] for i, v in enumerate(optimizer.variables)}
    if int(state[id(optimizer.iterations)]) > 0:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            variable.assign(state[id(average)])


def _arrays(group: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The saved variables, by their numbers. HDF5 has no bfloat16; Keras notes it apart."""
    types = {"bfloat16": ml_dtypes.bfloat16}
    return {key: np.array(v, types.get(v.attrs.get("dtype"))) for key, v in group.items()}


def superseded(regular: Sequence[Path], newest: int | None, each: int | None) -> list[Path]:
    """The regular checkpoints that may be removed, of all written so far, in their order.

    The `newest` stay, and every `each`-th from the first, and the last; without both, all.
    """
    if newest is None and each is None:
        return []
    kept = {*regular[-(newest or 1) :], *(regular[::each] if each else ())}
    return [path for path in regular if path not in kept]


class BackgroundWriter:
    """Calls `write` with one snapshot after the other, in a thread of its own.

    A write that raises `OSError` is tried again, then left out; `warn` gets a line each time.
    `left_out` says why the checkpoints since the last one that was written are missing.
    """

    def __init__(self, write: Callable[[Snapshot], None], warn: Callable[[str], None]):
        self._write = write
        self._warn = warn
        self.left_out: list[str] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Begins to write; first waits for a write that is under way."""
        self.wait()
        self._began, self._tell_after = time.monotonic(), SLOW_SECONDS
        name = f"checkpoint of step {snapshot.step}"
        # A daemon: a dead disk must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name=name, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits at most `seconds` for the write under way; returns whether it is done.

        What a write raised that was not an `OSError` is raised here.
        """
        if self._thread is not None:
            self._thread.join(seconds)
            waited, what = time.monotonic() - self._began, self._thread.name
            if self._thread.is_alive():
                if waited >= self._tell_after:
                    self._tell_after *= 2
                    self._warn(f"training waits for the {what}: {waited:.0f} s of writing so far")
                return False
        if self._error is not None:
            raise self._error
        return True

    def _run(self, snapshot: Snapshot) -> None:
        try:
            for pause in (*RETRIES, None):
                try:
                    self._write(snapshot)
                    self.left_out = []
                    return
                except OSError as error:
                    text = f"{error.strerror}: '{error.filename}'" if error.filename else error
                    reason = f"checkpoint of step {snapshot.step} could not be written: {text}"
                if pause is not None:
                    self._warn(f"{reason}; trying again in {pause:g} s")
                    time.sleep(pause)
            self.left_out.append(reason)
            self._warn(f"{reason}; left out")
        except BaseException as error:  # raised where the write is waited for
            self._error = error
