"""The parts of a run that stand between `recipe.py` and the rooms behind it."""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm.auto import tqdm

from callbacks.progress_bar import ProgressBar
from datasets.pipeline import LABEL_OUTSIDE, training_pipeline
from datasets.settings import Evaluation
from training import model, workers
from training.clock import TimeBuckets
from training.data import RunData
from training.errors import OtherWorkerEnded, UserError
from training.liveness import Heartbeat
from training.phases import Schedule, Stage
from training.recipes import Recipe
from training.run_folder import RunFolder
from training.workers import Workers


def stage_pipeline(
    stage: Stage, recipe: Recipe, data: RunData, team: Workers, threads: int
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
        threads=threads,
        shuffle_buffer=recipe.shuffle_buffer,
    )


@contextlib.contextmanager
def in_plain_words() -> Iterator[None]:
    """Says what TensorFlow and Horovod raise in the middle of a run in our own words.

    Raises:
        UserError: this worker met a record that cannot be trained on.
        OtherWorkerEnded: another worker has ended, and will have said why.
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
        if isinstance(error, tf.errors.DataLossError):
            raise UserError(f"a record is damaged: {error.message.splitlines()[0]}") from None
        if "Horovod" in error.message:
            raise OtherWorkerEnded from None
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
    ) -> int:
        """Opens the run folder and, where a run goes on, loads its last checkpoint.

        The order of a resume: the last checkpoint's weights and optimizer state, its
        step, its seconds on the clock; the notes of later steps are dropped.

        Returns:
            The number of steps that are done.
        """
        done = 0
        rows = self.run.checkpoint_rows() if resume else []
        if rows:
            done = rows[-1]["step"]
            self.started -= rows[-1]["seconds"]
            times = [row for row in self.run.clock_rows() if row["step"] <= done]
            self.clock.restore(times[-1] if times else {})
            model.resume(net, self.run.checkpoint(done))
        if team.is_first:
            if resume:
                self.run.drop_after(done)
            else:
                settings = {"workers": team.size, "policy": policy, "images": self.schedule.images}
                if self.data:
                    settings["data_dir"] = str(self.data.root)
                self.run.start(recipe, settings, overwrite)
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
            if resume:
                self.say(f"going on after step {done}")
        workers.gather(None)  # nobody writes or reads before the folder is there
        return done

    def open(self) -> None:
        """Opens the TensorBoard log; the other files are opened for each line."""
        writer = tf.summary.create_file_writer(str(self.run.tensorboard))

        def write(group: str, row: Mapping[str, Any], names: Iterable[str]) -> None:
            # One record for all of a row: an op for each would cost ten times as much.
            summary = tf.compat.v1.Summary()
            for name in sorted(names):
                summary.value.add(tag=f"{group}/{name}", simple_value=row[name])
            with writer.as_default(step=row["step"]):
                tf.summary.experimental.write_raw_pb(summary.SerializeToString())

        self._scalars = write

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        tqdm.write(line)

    def note(self, line: str) -> None:
        """Prints a line and adds it to the log; on rank 0 only."""
        self.say(self.run.write_line(line))

    def note_training(self, bar: ProgressBar) -> Callable[[dict[str, Any]], None]:
        """What `WallClock` reports to: train.csv, the log, TensorBoard and the bar."""

        def note(report: dict[str, Any]) -> None:
            row = {**report, "total_loss": report["loss"], "loss": report["cross_entropy"]}
            self.say(self.run.write_train_row(row))
            self._scalars("train", row, set(row) - {"step", "cross_entropy"})
            phase = self.schedule.phases.index(self.schedule.phase_at(row["step"] - 1)) + 1
            bar.show({**row, "phase": f"{phase}/{len(self.schedule.phases)}"})

        return note

    def note_checkpoint(self, step: int, path: Path) -> None:
        self.run.write_checkpoint_row(
            step,
            self.schedule.epoch(step),
            time.monotonic() - self.started,
            self.schedule.images_between(0, step),
        )
        self.note_time(step, "checkpoint")

    def note_time(self, step: int, event: str = "phase") -> None:
        """Adds a row to clock.csv, on rank 0."""
        if workers.current().is_first:
            images = self.schedule.images_between(0, step)
            self.run.write_clock_row(step, event, images, self.clock.state())

    def end_training(self) -> None:
        """The last checkpoint is written; what follows is evaluation."""
        if workers.current().is_first:
            self._heartbeat.trained()

    def note_evaluations(self, settings: Evaluation) -> None:
        """Shows TensorBoard, on rank 0, what all workers have evaluated."""
        if workers.current().is_first:
            for row in self.run.evaluation_rows():
                if (row["image_size"], row["crop"]) == (settings.image_size, settings.crop):
                    self._scalars("validation", row, ("top1", "top5", "loss"))

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
        from training.report import bucket_words, report

        self.note_time(self.schedule.total_steps, "end")
        rows = sorted(self.run.evaluation_rows(), key=lambda row: row["step"])
        if not rows:
            return  # no checkpoint could be read
        report([self.run.path])
        self.say(
            f"{rows[-1]['top1']:.2%} top-1, {rows[-1]['top5']:.2%} top-5 after "
            f"{rows[-1]['seconds']:.0f} s of training\n"
            f"  time     {bucket_words(self.clock.state())}\n"
            f"  model    {self.run.model}\n"
            f"  log      {self.run.log}\n"
            f"  picture  {self.run.picture}"
        )
