"""The log of a run: its tables, its lines, TensorBoard. Rank 0 writes."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm.auto import tqdm

from callbacks.finite_loss import ADVICE, SkippedSteps
from callbacks.step_checkpoint import Journal
from core import checkpoints, workers
from core.clock import TimeBuckets
from core.environment import shows_bars
from core.schedule import Schedule
from training.liveness import SignsOfLife
from training.log_format import train_line, train_words
from training.recipes import Recipe
from training.resume import Start
from training.run_folder import RunFolder


class RunLog(Journal):
    """Writes down what happens in a run.

    Args:
        identity: what makes the run this run; stored in each checkpoint.
        start: where the run starts.
        process_started: the `time.monotonic()` at which this process started.
        optimizer: the model's, with the updates that are done.

    Attributes:
        started: the `time.monotonic()` at which the run's clock showed 0.
        clock: the run's time buckets.
        skipped: counts the steps that a dynamic loss scale skips.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        schedule: Schedule,
        identity: Mapping[str, Any],
        start: Start,
        process_started: float,
        optimizer: keras.optimizers.Optimizer,
    ):
        self.folder = folder
        self.recipe = recipe
        self.schedule = schedule
        self.started = process_started - start.seconds
        self.clock = TimeBuckets(process_started)
        self.clock.restore(start.clock)
        self.skipped = SkippedSteps(optimizer, start.step, start.skipped_steps)
        self._identity = identity
        self._skipped_batches = start.skipped_batches
        self._deferred = DeferredWrites(self.say)
        self._signs = SignsOfLife(folder)
        self._scalars = Scalars(folder.tensorboard, self.say)

    def open(self) -> None:
        """Begins to show that the run is alive; on rank 0, when the folder is there."""
        self._signs.start()

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        tqdm.write(line)

    warn = say

    def note(self, line: str) -> None:
        """Prints a line and adds it to the log; on rank 0 only."""
        self.say(line)
        self._deferred.do(lambda: self.folder.write_line(line))

    def note_report(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a report of `WallClock`; returns the row, for the progress bar."""
        row = {**report, "total_loss": report["loss"], "loss": report["cross_entropy"]}
        self.say(train_words(row) if shows_bars() else train_line(row))
        self._deferred.do(lambda: self.folder.write_train_row(row))
        self._scalars.write("train", row, set(row) - {"step", "cross_entropy"})
        phases = self.schedule.phases
        number = phases.index(self.schedule.phase_at(row["step"] - 1)) + 1
        return {**row, "phase": f"{number}/{len(phases)}"}

    def note_time(self, step: int, event: str = "phase") -> None:
        """Adds a row to clock.csv, on rank 0."""
        if workers.current().is_first:
            images, buckets = self.schedule.images_between(0, step), self.clock.state()
            self._deferred.do(lambda: self.folder.write_clock_row(step, event, images, buckets))

    def way_out(self, step: int | None) -> str:
        """What to do about a loss that is not finite; notes the step, for a resume."""
        if step is None or not workers.current().is_first:
            return ADVICE
        if step in self._skipped_batches:
            return f"{ADVICE}: its first batch was skipped, so the data are probably not the cause"
        with contextlib.suppress(OSError):  # the message is about the loss, not the disk
            self.folder.write_bad_batch(step, self.schedule.workers)
        allowed = self.recipe.skip_bad_batches
        noted = self.folder.bad_batches(self.schedule.workers)
        number = noted.index(step) + 1 if step in noted else len(noted) + 1
        if number <= allowed:
            return f"--resume skips this batch ({number} of at most {allowed})"
        return f"{ADVICE}, and skip_bad_batches: {number} in the recipe resumes without this batch"

    def facts(self, step: int) -> dict[str, Any]:
        """What a checkpoint stores for all workers."""
        self._deferred.settle()
        return {
            **self._identity,
            "workers": self.schedule.workers,
            "images": self.schedule.images_between(0, step),
            "seconds": time.monotonic() - self.started,
            "clock": self.clock.state(),
            "skipped_steps": self.skipped.at(step),
        }

    def saved(self, step: int, path: Path, facts: Mapping[str, Any]) -> None:
        """Notes a checkpoint that is written, and removes those that are no longer kept."""
        folder, recipe = self.folder, self.recipe
        if facts["kind"] == checkpoints.REGULAR:
            folder.note_checkpoint(self.schedule, step, facts["seconds"], facts["clock"])
        regular = [folder.checkpoint_of(row) for row in folder.noted_checkpoints()]
        present = folder.checkpoint_files()
        gone = checkpoints.superseded(regular, recipe.keep_newest, recipe.keep_every)
        # Newer ones were skipped by a resume, as damaged, and are not looked at.
        older = present[present.index(path) + 1 :] if path in present else []
        gone += [
            old
            for old in older
            if old not in regular and checkpoints.kind_of(old) == checkpoints.SIGNAL
        ]
        for old in gone:
            old.unlink(missing_ok=True)

    def end_training(self) -> None:
        """The last checkpoint is written; what follows is evaluation."""
        if workers.current().is_first:
            self._signs.trained()

    def note_evaluations(self, data: str) -> None:
        """Shows TensorBoard, on rank 0, what all workers have evaluated."""
        if workers.current().is_first:
            for row in self.folder.evaluated(self.recipe.evaluation, data):
                self._scalars.write("validation", row, ("top1", "top5", "loss"))

    def settle(self) -> str | None:
        """Writes the lines that wait; returns how many cannot be written and why, if any."""
        problem = self._deferred.settle()
        return problem and f"{len(self._deferred)} lines of the log are not written: {problem}"


class Scalars:
    """Numbers for TensorBoard; `warn` gets a line where they cannot be written."""

    def __init__(self, folder: Path, warn: Callable[[str], None]):
        self._folder = folder
        self._warn = warn
        self._writer: Any = None

    def write(self, group: str, row: Mapping[str, Any], names: Iterable[str]) -> None:
        """Writes `names` of a row as `group/name` at the row's step."""
        # One record for all of a row: an op for each would cost ten times as much.
        summary = tf.compat.v1.Summary()
        for name in sorted(names):
            summary.value.add(tag=f"{group}/{name}", simple_value=row[name])
        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=row["step"]):
                tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        except tf.errors.OpError as error:
            # The file may end in half a record, and TensorBoard reads nothing behind it.
            self._writer = None
            reason = error.message.splitlines()[0].rpartition("; ")[2]
            self._warn(f"TensorBoard lacks step {row['step']} ({reason})")


class DeferredWrites:
    """Makes writes in their order; one that fails is kept, and tried again with the next.

    Training does not stop for a row of a table: it is some 200 bytes, and can wait in memory.
    `warn` gets a line when writes begin to wait.
    """

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        self._waiting: list[Callable[[], Any]] = []

    def do(self, write: Callable[[], Any]) -> None:
        """Calls `write`, now or later; it may raise `OSError` and is then called again."""
        waited = bool(self._waiting)
        self._waiting.append(write)
        problem = self.settle()
        if problem and not waited:
            self._warn(f"the log cannot be written ({problem}); training continues, trying again")

    def settle(self) -> str | None:
        """Makes the writes that wait; returns why the rest cannot be made."""
        try:
            while self._waiting:
                self._waiting[0]()
                del self._waiting[0]
        except OSError as error:
            return f"{error.strerror or error}, {error.filename or 'no file named'}"
        return None

    def __len__(self) -> int:
        return len(self._waiting)
