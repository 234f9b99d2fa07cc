"""Which worker evaluates what, and how the results become rows of evaluation.csv.

The workers do not communicate here. They agree beforehand on what is to be done, and write
what they find into the run folder. So a worker that is slow or dies costs the others nothing,
and a second start finds everything that was done.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from core import files
from core.environment import shows_bars
from core.settings import Evaluation
from evaluation.evaluator import Counts
from training.liveness import LivenessProbe
from training.log_format import evaluation_words
from training.run_folder import RunFolder

NumberedRow: TypeAlias = tuple[int, dict[str, Any]]  # a checkpoint's number in the run, its row

POLL = 1.0  # seconds between two looks for new checkpoints


@dataclass(frozen=True)
class Task:
    """A checkpoint to evaluate, on all images or on share `share` of `shares`."""

    number: int  # of the checkpoint in the run, from 0
    row: dict[str, Any]  # of checkpoints.csv
    share: int = 0
    shares: int = 1


def share_out(checkpoints: Sequence[NumberedRow], rank: int, workers: int) -> list[Task]:
    """One worker's tasks: checkpoint i is evaluated by worker `i % workers`.

    The last ones, if they are fewer than the workers, are shared by all, image by image.
    """
    whole = len(checkpoints) - len(checkpoints) % workers
    own = [Task(number, row) for number, row in checkpoints[rank:whole:workers]]
    return own + [Task(number, row, rank, workers) for number, row in checkpoints[whole:]]


@dataclass(frozen=True)
class Results:
    """The rows of evaluation.csv for one way to evaluate a run.

    A share is a small file in the run folder until all shares of its checkpoint are there.
    The worker that adds the last one writes the row.
    """

    run: RunFolder
    settings: Evaluation
    data: str  # the name of the records
    folder: str  # where they are
    note: Callable[[str], None]  # called with each new line of the log

    def missing(self) -> list[NumberedRow]:
        """The checkpoints that have no row yet."""
        return self.run.to_evaluate(self.settings, self.data)

    def share(self, task: Task) -> tuple[Counts, float] | None:
        """The counts and the seconds of a share, if it was done by an earlier start."""
        try:
            found = json.loads(self._path(task).read_text())
        except FileNotFoundError:
            return None
        if found["of"] != task.row["time"]:
            return None  # the checkpoint was written again since
        return Counts(*found["tally"]), found["seconds"]

    def add(self, task: Task, counts: Counts, seconds: float) -> None:
        """Adds a share and, where it is the last one, the row."""
        with self.run.evaluation_lock:
            share = {"of": task.row["time"], "tally": astuple(counts), "seconds": seconds}
            files.write(self._path(task), json.dumps(share))
            done = (self.share(replace(task, share=share)) for share in range(task.shares))
            parts = [part for part in done if part]
            if len(parts) < task.shares:
                return
            row = {
                **task.row,
                **sum((counts for counts, _ in parts), Counts()).figures(),
                "image_size": self.settings.image_size,
                "crop": self.settings.crop,
                "data": self.data,
                "folder": self.folder,
                "images_per_second": sum(counts.images / spent for counts, spent in parts),
            }
            line = self.run.write_evaluation_row(task.number, row)
            # Those for other numbers of workers go, too.
            for path in self.run.evaluation_shares.glob(f"{self._name(task)}-*"):
                path.unlink(missing_ok=True)
        if line:
            self.note(evaluation_words(row) if shows_bars() else line)

    def _name(self, task: Task) -> str:
        checkpoint = self.run.checkpoint_of(task.row).stem
        return f"{checkpoint}-{self.settings.image_size}-{self.settings.crop}-{self.data}"

    def _path(self, task: Task) -> Path:
        name = f"{self._name(task)}-{task.share}-of-{task.shares}.json"
        return self.run.evaluation_shares / name


def tasks_to_come(
    results: Results, known: Sequence[NumberedRow], rank: int, workers: int, probe: LivenessProbe
) -> Iterator[Task]:
    """One worker's tasks of a run that is still training, as checkpoints appear beside the known.

    All workers share each checkpoint: none idles while there is a single new one, and they
    need not agree on who is next.
    """

    def identity(row: dict[str, Any]) -> tuple[Path, str]:
        # A resumed run writes checkpoints of the same steps again, at another time.
        return results.run.checkpoint_of(row), row["time"]

    seen = {identity(row) for _, row in known}
    while True:
        life = probe.look()  # before the look, so that the last checkpoints are found
        for number, row in results.missing():
            if identity(row) not in seen:
                seen.add(identity(row))
                yield Task(number, row, rank, workers)
        if life != "training":
            return
        time.sleep(POLL)
