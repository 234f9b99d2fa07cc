"""The parts of a run that stand between `recipe.py` and the rooms behind it."""

import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm.auto import tqdm

from callbacks.finite_loss import ADVICE, SkippedSteps
from callbacks.progress_bar import ProgressBar
from core import checkpoints, workers
from core.clock import TimeBuckets
from core.errors import OtherWorkerEnded, RunError, UserError
from core.schedule import Schedule, Stage
from core.settings import Evaluation
from core.workers import Workers
from datasets.input.faults import Faults, name_in
from datasets.input.pipeline import LABEL_OUTSIDE, records_in_order, training_pipeline
from training import model
from training import resume as resuming
from training.inputs import RunData
from training.ledger import Ledger
from training.liveness import Heartbeat
from training.log_format import train_line
from training.recipes import Recipe
from training.resume import Start
from training.run_folder import RunFolder


def stage_pipeline(
    stage: Stage,
    recipe: Recipe,
    data: RunData,
    team: Workers,
    threads: int,
    faults: Faults | None = None,
    passed_over: Collection[int] = (),
) -> tf.data.Dataset:
    """This worker's training batches for one stage."""
    phase = stage.data
    records = data.training[phase.data_dir, phase.prefix]
    return training_pipeline(
        records.files,
        batch_size=phase.batch_size,
        image_size=phase.image_size,
        steps_per_epoch=stage.steps_per_epoch,
        steps=stage.end - stage.first,
        done_steps=stage.begin - stage.first,
        classes=recipe.classes,
        augmentation=recipe.augmentation,
        label_offset=records.label_offset,
        keys=records.keys,
        seed=recipe.seed,
        first_step=stage.first,
        rank=team.rank,
        workers=team.size,
        counts=records.counts,
        threads=threads,
        shuffle_buffer=recipe.shuffle_buffer,
        faults=faults,
        passed_over=passed_over,
    )


def step_names(
    step: int,
    schedule: Schedule,
    recipe: Recipe,
    data: RunData,
    team: Workers,
    passed_over: Collection[int] = (),
) -> list[str]:
    """File names of the records of this worker's batch at `step`, read anew.

    The order is a function of the seed and the step, so nothing need be carried along.
    """
    while step in passed_over and step + 1 < schedule.total_steps:
        step += 1
    (stage,) = (s for s in schedule.stages(step) if s.begin == step)
    phase, records = stage.data, data.training[stage.data.data_dir, stage.data.prefix]
    done = stage.begin - stage.first
    ordered = records_in_order(
        records.files,
        phase.batch_size,
        stage.steps_per_epoch,
        first_epoch=done // stage.steps_per_epoch,
        epochs=done // stage.steps_per_epoch + 1,
        seed=recipe.seed,
        first_step=stage.first,
        rank=team.rank,
        workers=team.size,
        counts=records.counts,
        shuffle_buffer=recipe.shuffle_buffer,
        faults=faults_of(recipe, data),  # of its own: these have been noted
    )
    batch = ordered.skip(done % stage.steps_per_epoch * phase.batch_size).take(phase.batch_size)
    return [name_in(record.numpy(), records.keys) for record in batch]


def faults_of(recipe: Recipe, data: RunData) -> Faults:
    """Where this worker's pipelines note bad records, with the recipe's limit."""
    return Faults(int(recipe.max_bad_records * max(data.images.values())))


@contextlib.contextmanager
def in_plain_words(faults: Faults | None = None) -> Iterator[None]:
    """Says what TensorFlow and Horovod raise in the middle of a run in our own words.

    Raises:
        UserError: this worker met a record that cannot be trained on.
        OtherWorkerEnded: Horovod broke off; as a rule because another worker has ended,
            which will have said why.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(rf"\[{LABEL_OUTSIDE}\] \[(-?\d+)\] \[(.*?)\]", error.message)
        if found:
            raise UserError(
                f"image '{found[2]}': label {found[1]} is outside the recipe's classes; "
                "do `classes` and, where it has one, the manifest's label_offset fit the data?"
            ) from None
        if faults and faults.problem:
            raise UserError(faults.problem) from None
        bad = re.search(r"DataError: (.*)", error.message)
        if bad:
            raise UserError(bad[1]) from None
        if isinstance(error, tf.errors.DataLossError):
            raise UserError(f"a record is damaged: {error.message.splitlines()[0]}") from None
        if "Horovod" in error.message:
            raise OtherWorkerEnded(error.message) from None
        raise


class Scribe:
    """Writes down what happens, on rank 0: files, log lines, TensorBoard, messages.

    Args:
        run: the run's folder.
        schedule: the run's schedule.
        started: the `time.monotonic()` at which this process started.
        data: the run's records, noted with the run.
    """

    def __init__(
        self, run: RunFolder, schedule: Schedule, started: float, data: RunData | None = None
    ):
        self.run = run
        self.schedule = schedule
        self.started = started
        self.asked: dict[str, Any] = {}
        self.passed_over: Collection[int] = ()
        self._ledger = Ledger(self.say)
        self.clock = TimeBuckets(started)
        self.data = data
        self._heartbeat = Heartbeat(run)
        self._scalars: Any = None

    def begin(
        self,
        team: Workers,
        recipe: Recipe,
        net: keras.Model,
        policy: str,
        resume: bool,
        overwrite: bool,
        remark: str | None,
    ) -> Start:
        """Opens the run folder and, where a run goes on, loads its last good checkpoint.

        `training/resume.py` says in which order. Rank 0 chooses the checkpoint.

        Returns:
            Where the run begins.

        Raises:
            SharedUserError: the workers do not agree on what they are to do, or the run
                to go on with is another one.
        """
        asked = self.asked = resuming.facts(recipe, self.data, policy)
        resuming.agree(team, asked, self.schedule.total_steps)
        start = workers.together(
            lambda: (
                resuming.find_start(self.run, asked, recipe, self.schedule)
                if resume and team.is_first
                else Start()
            )
        )
        start = Start.from_json(workers.from_first(start.to_json()))
        if start.checkpoint:
            self.started -= start.seconds
            self.clock.restore(start.clock)
            model.resume(net, start.checkpoint)
        self.skipped = SkippedSteps(net.optimizer, start.step, start.skipped)
        if team.is_first:
            if resume:
                self._take_up(team, start, recipe)
            else:
                settings = {
                    "workers": team.size, "policy": policy, "images": self.schedule.images,
                    "facts": asked,
                }  # fmt: skip
                if self.data:
                    settings["data_dir"] = str(self.data.root)
                    settings["synthetic"] = self.data.synthetic
                    settings["validation"] = self.data.validation.name
                self.run.start(recipe, settings, overwrite)
                self.run.counted_by(self.schedule)
                if self.data:
                    self.run.write_classes(self.data.validation.classes)
            self._heartbeat.start()
            self.open()
            self.say(
                f"{recipe.name}: {recipe.model}, {team.size} worker(s), {policy}, "
                f"{self.schedule.total_steps:,} steps into {self.run.path}"
            )
            if remark:
                self.say(remark)
            for line in start.remarks:
                self.say(line)
            if resume:
                self.say(f"going on after step {start.step}")
        # Nobody writes or reads before the folder is there.
        workers.gather(None)
        self.passed_over = start.passed_over
        return start

    def _take_up(self, team: Workers, start: Start, recipe: Recipe) -> None:
        """Brings the run folder to the state of the checkpoint."""
        self.run.take_up(start.saved_step, start.saved_workers, team.size)
        self.run.counted_by(self.schedule)
        # A run that was killed may have written the checkpoint, but not yet its row.
        noted = map(self.run.checkpoint_of, self.run.noted_checkpoints())
        if start.kind == checkpoints.REGULAR and start.checkpoint not in (None, *noted):
            schedule = recipe.schedule(start.saved_workers, dict(self.schedule.images))
            self._note_checkpoint_row(schedule, start.saved_step, start.seconds, start.clock)

    def open(self) -> None:
        """Opens the TensorBoard log; the other files are opened for each line."""
        writer = None

        def write(group: str, row: Mapping[str, Any], names: Iterable[str]) -> None:
            nonlocal writer
            # One record for all of a row: an op for each would cost ten times as much.
            summary = tf.compat.v1.Summary()
            for name in sorted(names):
                summary.value.add(tag=f"{group}/{name}", simple_value=row[name])
            try:
                if writer is None:
                    writer = tf.summary.create_file_writer(str(self.run.tensorboard))
                with writer.as_default(step=row["step"]):
                    tf.summary.experimental.write_raw_pb(summary.SerializeToString())
            except tf.errors.OpError as error:
                # The file may end in half a record, behind which TensorBoard reads nothing.
                writer = None
                reason = error.message.splitlines()[0].rpartition("; ")[2]
                self.say(f"TensorBoard lacks step {row['step']} ({reason})")

        self._scalars = write

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        tqdm.write(line)

    def note(self, line: str) -> None:
        """Prints a line and adds it to the log; on rank 0 only."""
        self.say(line)
        self._ledger.enter(lambda: self.run.write_line(line))

    def note_training(self, bar: ProgressBar) -> Callable[[dict[str, Any]], None]:
        """What `WallClock` reports to: train.csv, the log, TensorBoard and the bar."""

        def note(report: dict[str, Any]) -> None:
            row = {**report, "total_loss": report["loss"], "loss": report["cross_entropy"]}
            self.say(train_line(row))
            self._ledger.enter(lambda: self.run.write_train_row(row))
            self._scalars("train", row, set(row) - {"step", "cross_entropy"})
            phase = self.schedule.phases.index(self.schedule.phase_at(row["step"] - 1)) + 1
            bar.show({**row, "phase": f"{phase}/{len(self.schedule.phases)}"})

        return note

    def way_out(self, step: int | None) -> str:
        """What to do about a loss that is not finite; notes the step, for a resume."""
        if step is None or not workers.current().is_first:
            return ADVICE
        if step in self.passed_over:
            return f"{ADVICE}: its first batch was passed over, so it is hardly the data"
        with contextlib.suppress(OSError):  # what is to be said is of the loss
            self.run.write_bad_batch(step, self.schedule.workers)
        allowed = self.asked["recipe"]["skip_bad_batches"]
        noted = self.run.bad_batches(self.schedule.workers)
        number = noted.index(step) + 1 if step in noted else len(noted) + 1
        if number <= allowed:
            return f"--resume passes over this batch ({number} of {allowed} that may be)"
        return f"{ADVICE}, and skip_bad_batches: {number} in the recipe resumes without this batch"

    def facts(self, step: int) -> dict[str, Any]:
        """What a checkpoint stores for all workers."""
        self._ledger.settle()
        return {
            **self.asked,
            "workers": self.schedule.workers,
            "images": self.schedule.images_between(0, step),
            "seconds": time.monotonic() - self.started,
            "clock": self.clock.state(),
            "skipped_steps": self.skipped.at(step),
        }

    def note_checkpoint(self, step: int, path: Path, facts: Mapping[str, Any]) -> None:
        """Notes a checkpoint that is written, and removes those that may go."""
        if facts["kind"] == checkpoints.REGULAR:
            self._note_checkpoint_row(self.schedule, step, facts["seconds"], facts["clock"])
        recipe = self.asked["recipe"]
        regular = [self.run.checkpoint_of(row) for row in self.run.noted_checkpoints()]
        files = self.run.checkpoint_files()
        gone = checkpoints.superseded(regular, recipe["keep_newest"], recipe["keep_every"])
        # Those behind it were skipped by a resume as damaged, and are not looked at.
        older = files[files.index(path) + 1 :] if path in files else []
        for old in older:
            if old not in regular and checkpoints.kind_of(old) == checkpoints.SIGNAL:
                gone.append(old)
        for old in gone:
            old.unlink(missing_ok=True)

    saved, warn = note_checkpoint, say  # what `StepCheckpoint` calls them

    def _note_checkpoint_row(
        self, schedule: Schedule, step: int, seconds: float, clock: Mapping[str, float]
    ) -> None:
        images, count = schedule.images_between(0, step), schedule.workers
        self.run.write_checkpoint_row(step, schedule.epoch(step), seconds, images, count)
        self.run.write_clock_row(step, "checkpoint", images, clock, count)

    def note_time(self, step: int, event: str = "phase") -> None:
        """Adds a row to clock.csv, on rank 0."""
        if workers.current().is_first:
            images, buckets = self.schedule.images_between(0, step), self.clock.state()
            self._ledger.enter(lambda: self.run.write_clock_row(step, event, images, buckets))

    def end_training(self) -> None:
        """The last checkpoint is written; what follows is evaluation."""
        if workers.current().is_first:
            self._heartbeat.trained()

    def note_evaluations(self) -> None:
        """Shows TensorBoard, on rank 0, what all workers have evaluated."""
        if workers.current().is_first:
            for row in self._evaluated():
                self._scalars("validation", row, ("top1", "top5", "loss"))

    def _evaluated(self) -> list[dict[str, Any]]:
        """By step, the rows that were made as the recipe says, on the run's own records."""
        settings = Evaluation.model_validate(self.asked["recipe"]["evaluation"])
        return self.run.evaluated(settings, self.data.validation.name if self.data else "")

    def conclude_synthetic(self) -> None:
        """Says, instead of `conclude`, what a run on synthetic data is good for."""
        self.end_training()
        self.note_time(self.schedule.total_steps, "end")
        if workers.current().is_first:
            self.note(
                "Synthetic data: nothing was learnt, evaluated or saved as a model. The rates in "
                f"{self.run.train_csv} are what the model reaches without an input pipeline."
            )

    def conclude(self) -> None:
        """Saves the report with its pictures and says where everything is."""
        from reports.report import bucket_words, report

        self.note_time(self.schedule.total_steps, "end")
        problem = self._ledger.settle()
        if problem:
            raise RunError(f"{len(self._ledger)} lines of the log could not be written: {problem}")
        rows = self._evaluated()
        if not rows:
            return  # no checkpoint could be read
        report([self.run.path])
        last = rows[-1]
        self.say(
            f"{last['top1']:.2%} top-1, {last['top5']:.2%} top-5 after "
            f"{last['seconds']:.0f} s of training\n"
            f"  time     {bucket_words(self.clock.state())}\n"
            f"  model    {self.run.model}\n"
            f"  log      {self.run.log}\n"
            f"  picture  {self.run.picture}"
        )
