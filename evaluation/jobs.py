"""Who evaluates what: checkpoints and shares of checkpoints, and the rows they come to.

The workers do not talk here. They agree on what there is to do before, and put what
they find into the run folder, so that a worker that is slow or dies costs the others
nothing and a second start finds all that was done.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeAlias

from core import files
from core.settings import Evaluation
from evaluation.tally import Tally
from training.liveness import Pulse
from training.run_folder import RunFolder

Checkpoint: TypeAlias = tuple[int, dict[str, Any]]  # its number in the run, its row

POLL = 1.0  # seconds between two looks for new checkpoints


@dataclass(frozen=True)
class Job:
    """A checkpoint to evaluate, on all images or on one share of them.

    Attributes:
        count: number of the checkpoint in the run, from 0.
        row: its row of checkpoints.csv.
        share, shares: which share of the images.
    """

    count: int
    row: dict[str, Any]
    share: int = 0
    shares: int = 1


def share_out(checkpoints: Sequence[Checkpoint], rank: int, workers: int) -> list[Job]:
    """One worker's jobs: number i is worker `i % workers`'s.

    Those at the end that are fewer than the workers are shared by all, image by image.
    """
    whole = len(checkpoints) - len(checkpoints) % workers
    own = [Job(count, row) for count, row in checkpoints[rank:whole:workers]]
    return own + [Job(count, row, rank, workers) for count, row in checkpoints[whole:]]


def jobs_to_come(
    run: RunFolder,
    settings: Evaluation,
    data: str,
    known: Sequence[Checkpoint],
    rank: int,
    workers: int,
    pulse: Pulse,
    poll: float = POLL,
) -> Iterator[Job]:
    """One worker's jobs of a run that goes on, as checkpoints appear, until it ends.

    All workers share each of them: none idles while a single new checkpoint is there, and
    they need not agree on who is next.

    Args:
        data: the name of the records.
        known: checkpoints that have been shared out already.
    """
    # A resumed run writes checkpoints of the same steps anew, at another time.
    seen = {_identity(row) for _, row in known}
    while True:
        life = pulse.feel()  # before the look: what is there at the end is found
        for count, row in run.to_evaluate(settings, data):
            if _identity(row) not in seen:
                seen.add(_identity(row))
                yield Job(count, row, rank, workers)
        if life != "training":
            return
        time.sleep(poll)


class Ledger:
    """Rows of evaluation.csv, put together from shares where there are shares.

    A share is a small file in the run folder until all shares of its checkpoint are
    there. Whoever brings the last one writes the row.

    Args:
        run: the run's folder.
        settings: the choices of evaluation.
        data, folder: the name of the records, and where they are.
        note: called with each new line of the log.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: Evaluation,
        data: str,
        folder: str,
        note: Callable[[str], None],
    ):
        self.run = run
        self.settings = settings
        self.data = data
        self.folder = folder
        self.note = note

    def share(self, job: Job) -> tuple[Tally, float] | None:
        """The tally and the seconds of a job's share, if an earlier start got so far."""
        try:
            found = json.loads(self._path(job).read_text())
        except FileNotFoundError:
            return None
        if found["of"] != job.row["time"]:
            return None
        return Tally(*found["tally"]), found["seconds"]

    def enter(self, job: Job, tally: Tally, seconds: float) -> None:
        """Enters a result: a row, or a share that may complete one."""
        with self.run.evaluation_lock:
            shares: list[tuple[Tally, float] | None] = [(tally, seconds)]
            if job.shares > 1:
                self._save(job, tally, seconds)
                shares = [
                    self.share(Job(job.count, job.row, share, job.shares))
                    for share in range(job.shares)
                ]
            found = [share for share in shares if share is not None]
            if len(found) < job.shares:
                return
            row = {
                **job.row,
                **sum((tally for tally, _ in found), Tally()).figures(),
                "image_size": self.settings.image_size,
                "crop": self.settings.crop,
                "data": self.data,
                "folder": self.folder,
                "images_per_second": sum(tally.images / spent for tally, spent in found),
            }
            line = self.run.write_evaluation_row(job.count, row)
            self._forget(job)
        if line:
            self.note(line)

    def _name(self, job: Job) -> str:
        way = (self.settings.image_size, self.settings.crop, self.data)
        return "-".join(map(str, (self.run.checkpoint_of(job.row).stem, *way)))

    def _path(self, job: Job) -> Any:
        name = f"{self._name(job)}-{job.share}-of-{job.shares}.json"
        return self.run.evaluation_shares / name

    def _save(self, job: Job, tally: Tally, seconds: float) -> None:
        self.run.evaluation_shares.mkdir(exist_ok=True)
        found = {"of": job.row["time"], "tally": astuple(tally), "seconds": seconds}
        files.write(self._path(job), json.dumps(found))

    def _forget(self, job: Job) -> None:
        """Removes the shares of a checkpoint, those for other numbers of workers, too."""
        for path in self.run.evaluation_shares.glob(f"{self._name(job)}-*"):
            path.unlink(missing_ok=True)


def _identity(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["written_step"], row["workers"], row["time"]
