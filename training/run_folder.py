"""The run folder: what is in it, and where. Nothing else knows its layout."""

import contextlib
import functools
import json
import os
import platform
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import yaml

from core import files
from core.clock import BUCKETS
from core.errors import UserError
from core.schedule import Schedule
from core.settings import Evaluation
from training import tables
from training.log_format import (
    CHANGE_OF_WORKERS,
    STEP_OF_LINE,
    evaluation_line,
    train_line,
    workers_line,
)
from training.recipes import Recipe

TRAIN_COLUMNS = (
    *("step", "epoch", "images_per_second", "loss", "total_loss", "learning_rate", "batch_size"),
    *("image_size", "top5", "seconds", "skipped_steps", "workers"),
)
CHECKPOINT_COLUMNS = ("step", "epoch", "seconds", "images", "time", "workers")
EVALUATION_COLUMNS = (
    *("step", "epoch", "seconds", "top1", "top5", "loss", "images", "image_size", "crop"),
    *("data", "folder", "images_per_second", "time", "workers"),
)
CLOCK_COLUMNS = ("step", "event", "images", *BUCKETS, "workers")
BAD_BATCH_COLUMNS = ("step", "workers", "time")
CHECKPOINT_NAME = re.compile(r"step-(\d+)-workers-(\d+)\.keras")
PACKAGES = ("keras", "tensorflow", "horovod", "numpy", "tensorflow-addons", "pandas", "matplotlib")

Row = dict[str, Any]


def checkpoint_key(row: Mapping[str, Any]) -> tuple[int, Any]:
    """Identifies the checkpoint of a row: its step as written, and the workers that wrote it."""
    return row.get("written_step", row["step"]), row.get("workers")


def _evaluation_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Identifies an evaluation: how the checkpoint was evaluated, and on which records."""
    return row["image_size"], row["crop"], row["data"]


class RunFolder:
    """One run's files.

    A run may be resumed by another number of workers, which counts its steps differently.
    What is written stays as it was written: a checkpoint has the step and the number of
    workers in its name, and a row has both. Methods that return rows translate `step` for
    the present number of workers, and keep the one of the file as `written_step`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.environment_file = self.path / "environment.json"
        self.train_csv = self.path / "train.csv"
        self.log = self.path / "train.log"
        self.checkpoints_csv = self.path / "checkpoints.csv"
        self.bad_batches_csv = self.path / "bad_batches.csv"
        self.clock_csv = self.path / "clock.csv"
        self.evaluation_csv = self.path / "evaluation.csv"
        self.predictions_csv = self.path / "predictions.csv"
        self.evaluation_shares = self.path / ".evaluation"
        self.classes_file = self.path / "classes.txt"
        self.architecture_file = self.path / "architecture.json"
        self.state_file = self.path / "state.json"
        self.model = self.path / "model.keras"
        self.picture = self.path / "accuracy_vs_time.png"
        self.page = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self.export = self.path / "export"
        self.tracking = self.path / "tracking"
        self.checkpoints = self.path / "checkpoints"
        self._workers: int | None = None
        self._schedules: dict[int, Schedule] = {}

    @property
    def holds_a_run(self) -> bool:
        return self.recipe_file.exists()

    def check_free(self, resume: bool, overwrite: bool) -> None:
        """Raises `UserError` for a folder that the run would damage or cannot be resumed in."""
        if resume and overwrite:
            raise UserError("--resume and --overwrite: give one of them, not both")
        if resume and not self.holds_a_run:
            raise UserError(f"--run_dir {self.path}: holds no run to resume")
        if self.path.is_file():
            raise UserError(f"--run_dir {self.path}: is a file; name a folder")
        if self.holds_a_run and not (resume or overwrite):
            raise UserError(
                f"--run_dir {self.path}: already holds a run; --resume resumes it, "
                "--overwrite deletes it, or name another folder"
            )
        if not self.holds_a_run and self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(
                f"--run_dir {self.path}: holds files that are not a run's; name an empty folder"
            )

    def start(
        self,
        recipe: Recipe,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        architecture: str | None = None,
    ) -> None:
        """Creates the folder with the resolved recipe and the settings of the run, as JSON.

        `architecture`, JSON too, is that of `model: initial`, which no recipe has.
        """
        if overwrite and self.holds_a_run:
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.write_state("training")
        self._write_environment(
            {
                "command": shlex.join([Path(sys.executable).name, *sys.argv]),
                "started": _utc(),
                **settings,
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                "packages": versions(PACKAGES),
            }
        )
        if architecture:
            files.write(self.architecture_file, architecture)
        # Last: a folder with a recipe holds a run.
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)
        files.write(self.recipe_file, text)

    def counted_by(self, schedule: Schedule) -> None:
        """Says by which schedule this process trains, so that no file is read for it."""
        self._workers = schedule.workers
        self._schedules[schedule.workers] = schedule

    def take_up(self, step: int, workers: int, now: int) -> None:
        """Drops what was noted after `step` of `workers` workers; `now` workers do it again.

        May be called again after it was interrupted.
        """
        last = self._position(step, workers)
        with self.evaluation_lock:
            for path, columns in (
                (self.train_csv, TRAIN_COLUMNS),
                (self.checkpoints_csv, CHECKPOINT_COLUMNS),
                (self.evaluation_csv, EVALUATION_COLUMNS),
                (self.clock_csv, CLOCK_COLUMNS),
            ):
                kept = [
                    row
                    for row in tables.read(path)
                    if self._position(row["step"], row.get("workers") or workers) <= last
                ]
                tables.rewrite(path, columns, kept)
            shutil.rmtree(self.evaluation_shares, ignore_errors=True)
        self._take_up_log(last, now)
        for unfinished in self.checkpoints.glob(".step-*"):  # of a process that was killed
            unfinished.unlink()
        if now != self.environment().get("workers"):
            self._write_environment({**self.environment(), "workers": now})

    def _take_up_log(self, last: tuple[int, int], now: int) -> None:
        """Keeps the lines up to a position, and notes a change of the number of workers."""
        if not self.log.exists():
            return
        lines = self.log.read_text().splitlines(keepends=True)
        changes = [found for found in map(CHANGE_OF_WORKERS.match, lines) if found]
        counting = int(changes[0][1]) if changes else self.workers
        kept = []
        for line in lines:
            if found := CHANGE_OF_WORKERS.match(line):
                counting = int(found[2])
            found = STEP_OF_LINE.match(line)
            if not found or self._position(int(found[1]), counting) <= last:
                kept.append(line)
        if counting != now:
            step = self._schedule(now).step_at(last)
            kept.append(workers_line(counting, now, step) + "\n")
        files.write(self.log, "".join(kept))

    def recipe(self) -> Mapping[str, Any]:
        return yaml.safe_load(self.recipe_file.read_text())

    def environment(self) -> dict[str, Any]:
        """What the run was started with: command, workers, policy, versions."""
        return json.loads(self.environment_file.read_text())

    def _write_environment(self, environment: Mapping[str, Any]) -> None:
        files.write(self.environment_file, json.dumps(environment, indent=2) + "\n")

    @property
    def workers(self) -> int:
        """How many workers train the run now, or did when it last ran."""
        if self._workers is None and self.environment_file.exists():
            return self.environment().get("workers", 1)
        return self._workers or 1

    @property
    def is_synthetic(self) -> bool:
        """Whether the run was trained on noise, which leaves nothing to evaluate."""
        return bool(self.environment().get("synthetic"))

    @property
    def own_data(self) -> str:
        """The name of the run's own validation records; empty where it is not known."""
        try:
            return self.environment().get("validation", "")
        except FileNotFoundError:
            return ""

    def note_own_data(self, name: str) -> None:
        """Notes that name in a run of an older version, which did not."""
        environment = self.environment()
        if "validation" not in environment:
            self._write_environment({**environment, "validation": name})

    def write_classes(self, names: Sequence[str]) -> None:
        """Notes the names of the classes, a line each, in the order of the logits."""
        files.write(self.classes_file, "".join(f"{name}\n" for name in names))

    def classes(self) -> tuple[str, ...]:
        """The names of the classes; none where the records do not have them."""
        if not self.classes_file.exists():
            return ()
        return tuple(self.classes_file.read_text().splitlines())

    def architecture(self) -> str | None:
        """The architecture of `model: initial`; None for a model of models/."""
        try:
            return self.architecture_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def write_state(self, state: str, beat: int = 0) -> None:
        """Says that the run is `"training"` or `"trained"`; a new `beat` shows that it is alive."""
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        said = {"state": state, **where, "beat": beat, "time": _utc()}
        files.write(self.state_file, json.dumps(said))

    def state(self) -> dict[str, Any]:
        """What `write_state` wrote last; empty in a run of an older version."""
        try:
            return json.loads(self.state_file.read_text())
        except FileNotFoundError:
            return {}

    def checkpoint_pattern(self, workers: int) -> Path:
        """The path of the checkpoints that `workers` workers write, with the field `{step}`."""
        return self.checkpoints / f"step-{{step:08d}}-workers-{workers}.keras"

    def checkpoint(self, step: int, workers: int | None = None) -> Path:
        """The checkpoint of a step as counted by `workers`, by default the present ones."""
        return Path(str(self.checkpoint_pattern(workers or self.workers)).format(step=step))

    def checkpoint_of(self, row: Mapping[str, Any]) -> Path:
        """The checkpoint of a row."""
        return self.checkpoint(*checkpoint_key(row))

    def checkpoint_files(self) -> list[Path]:
        """The checkpoints that are there, the newest first; not all may be whole."""
        found = []
        for path in self.checkpoints.glob("step-*.keras"):
            if not (name := CHECKPOINT_NAME.fullmatch(path.name)):
                raise UserError(
                    f"{path}: its name does not say how many workers wrote it, so it is of an "
                    "earlier version of this project; use that version, or move it away"
                )
            found.append((self._position(int(name[1]), int(name[2])), path))
        return [path for _, path in sorted(found, reverse=True)]

    def note_checkpoint(
        self, schedule: Schedule, step: int, seconds: float, clock: Mapping[str, float]
    ) -> None:
        """Notes a regular checkpoint of the workers of `schedule`, and the clock at it."""
        images, workers = schedule.images_between(0, step), schedule.workers
        self.write_checkpoint_row(step, schedule.epoch(step), seconds, images, workers)
        self.write_clock_row(step, "checkpoint", images, clock, workers)

    def write_checkpoint_row(
        self, step: int, epoch: float, seconds: float, images: int, workers: int | None = None
    ) -> None:
        """Adds a row to checkpoints.csv; a checkpoint that was written for a signal has none."""
        row = {"step": step, "epoch": epoch, "seconds": seconds, "images": images, "time": _utc()}
        row["workers"] = workers or self.workers
        tables.append(self.checkpoints_csv, CHECKPOINT_COLUMNS, row)

    def noted_checkpoints(self) -> list[Row]:
        """The regular checkpoints in the order of training, as they were noted when written."""
        rows = {checkpoint_key(row): row for row in self._rows(self.checkpoints_csv)}
        return [rows[key] for key in sorted(rows, key=lambda key: self._position(*key))]

    def checkpoint_rows(self) -> list[Row]:
        """Those of the noted checkpoints that are there."""
        return [row for row in self.noted_checkpoints() if self.checkpoint_of(row).exists()]

    def write_line(self, line: str) -> str:
        files.append(self.log, f"{line}\n")
        return line

    def write_train_row(self, row: Mapping[str, Any]) -> str:
        """Adds a row to train.csv and its line to the log, or raises `OSError` and adds neither."""
        with files.undone_on_error(self.train_csv):
            tables.append(self.train_csv, TRAIN_COLUMNS, {"workers": self.workers, **row})
            return self.write_line(train_line(row))

    def train_rows(self) -> list[Row]:
        return self._rows(self.train_csv)

    def write_clock_row(
        self,
        step: int,
        event: str,
        images: int,
        buckets: Mapping[str, float],
        workers: int | None = None,
    ) -> None:
        """Notes the seconds in each bucket at an event: `"phase"`, `"checkpoint"` or `"end"`."""
        row = {**buckets, "step": step, "event": event, "images": images}
        tables.append(self.clock_csv, CLOCK_COLUMNS, {**row, "workers": workers or self.workers})

    def clock_rows(self) -> list[Row]:
        """The rows of clock.csv; none in a run of an older version."""
        return self._rows(self.clock_csv)

    def write_bad_batch(self, step: int, workers: int) -> None:
        """Notes a step whose loss was not finite, unless it is noted."""
        if step not in self.bad_batches(workers):
            row = {"step": step, "workers": workers, "time": _utc()}
            tables.append(self.bad_batches_csv, BAD_BATCH_COLUMNS, row)

    def bad_batches(self, workers: int) -> list[int]:
        """Steps whose loss was not finite with `workers` workers, in the order of finding."""
        return [r["step"] for r in tables.read(self.bad_batches_csv) if r["workers"] == workers]

    @functools.cached_property
    def evaluation_lock(self) -> filelock.FileLock:
        """Held to change what has been evaluated; a process that dies releases it."""
        return filelock.FileLock(self.path / ".evaluation.lock")

    def write_evaluation_row(self, count: int, row: Mapping[str, Any]) -> str | None:
        """Adds a row to evaluation.csv and its line to the log, unless it is there.

        Several processes may do so at once. A line does not say on which records it was
        made, so those of other records than the run's own are not in the log.

        Returns:
            The line; None where another process has evaluated this checkpoint so.
        """
        with self.evaluation_lock:
            rows = self.evaluation_rows()
            key = checkpoint_key(row), _evaluation_key(row)
            if any(key == (checkpoint_key(r), _evaluation_key(r)) for r in rows):
                return None
            if rows and set(EVALUATION_COLUMNS) - set(tables.read(self.evaluation_csv)[0]):
                old = [{**row, "step": row["written_step"]} for row in rows]  # of an older version
                tables.rewrite(self.evaluation_csv, EVALUATION_COLUMNS, old)
            line = evaluation_line(count, row)
            written = {"workers": self.workers, **row, "step": checkpoint_key(row)[0]}
            with files.undone_on_error(self.evaluation_csv):
                tables.append(self.evaluation_csv, EVALUATION_COLUMNS, written)
                return self.write_line(line) if row["data"] == self.own_data else line

    def evaluation_rows(self) -> list[Row]:
        """In the order in which they were done.

        `crop` names the choices of evaluation, `data` the records, which lay in `folder`.
        Rows of versions without these columns are plain, and of the run's own records.
        """
        older = {"crop": Evaluation().crop, "data": self.own_data, "folder": ""}
        return [
            {**row, **{name: row.get(name) or older[name] for name in older}}
            for row in self._rows(self.evaluation_csv)
        ]

    def evaluated(self, settings: Evaluation, data: str) -> list[Row]:
        """The rows of checkpoints that have been evaluated so on these records, by step."""
        wanted = (settings.image_size, settings.crop, data)
        rows = [row for row in self.evaluation_rows() if _evaluation_key(row) == wanted]
        return sorted({checkpoint_key(r): r for r in rows}.values(), key=lambda r: r["step"])

    def to_evaluate(self, settings: Evaluation, data: str) -> list[tuple[int, Row]]:
        """The numbers and rows of the checkpoints that have not been evaluated so."""
        done = set(map(checkpoint_key, self.evaluated(settings, data)))
        return [
            (count, row)
            for count, row in enumerate(self.noted_checkpoints())
            if checkpoint_key(row) not in done and self.checkpoint_of(row).exists()
        ]

    def _rows(self, path: Path) -> list[Row]:
        """The rows of a table, their steps translated for the present number of workers."""
        rows = tables.read(path)
        now = self.workers if rows else 1
        for row in rows:
            row["written_step"] = row["step"]
            row["workers"] = row.get("workers") or now  # absent in a run of an older version
            if row["workers"] != now:
                position = self._position(row["step"], row["workers"])
                row["step"] = self._schedule(now).step_at(position)
        return rows

    def _position(self, step: int, workers: int) -> tuple[int, int]:
        return self._schedule(workers).position(step)

    def _schedule(self, workers: int) -> Schedule:
        if workers not in self._schedules:
            recipe, images = Recipe.model_validate(self.recipe()), self.environment().get("images")
            self._schedules[workers] = recipe.schedule(workers, images)
        return self._schedules[workers]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package that is installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _utc() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
