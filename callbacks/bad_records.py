"""Names the bad records of all workers in the log, and ends a run with too many of them."""

from collections.abc import Callable
from typing import Any, Protocol

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError


class Faults(Protocol):
    """What one worker's pipeline found damaged; `datasets/input/faults.py` has one."""

    problem: str | None  # why the run has to stop

    def news(self) -> list[str]:
        """A line for each bad record found since the last call."""


class BadRecords(StepCallback):
    """Collects what the workers' pipelines found damaged.

    All workers stop with a `RunError` when there are too many bad records, or where a file
    cannot be read.

    Args:
        faults: this worker's, as given to its pipeline.
        every: steps between two collections; there is another one at the end of a `fit`.
        limit: the maximum number of different bad records of all workers.
        say: called on rank 0 with a line for each bad record.

    Example:

    >>> faults = Faults(limit=10)
    >>> batches = training_pipeline(records, plan, steps, faults=faults, ...)
    >>> model.fit(batches, callbacks=[BadRecords(faults, every=100, limit=10)])
    """

    def __init__(self, faults: Faults, every: int, limit: int, say: Callable[[str], Any] = print):
        super().__init__()
        self.faults = faults
        self.every = every
        self.limit = limit
        self.say = say
        self._known: set[str] = set()

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and step != self.initial_step:
            self._collect()

    def after_fit(self, step: int) -> None:
        self._collect()

    def _collect(self) -> None:
        found = workers.gather({"problem": self.faults.problem, "new": self.faults.news()})
        for line in [line for worker in found for line in worker["new"]]:
            if line not in self._known:
                self._known.add(line)
                if workers.current().is_first:
                    self.say(f"bad record {line}; {len(self._known)} so far")
        problems = {worker["problem"]: rank for rank, worker in enumerate(found)}
        problems.pop(None, None)
        if problems:
            raise RunError("\n".join(f"worker {rank}: {text}" for text, rank in problems.items()))
        if len(self._known) > self.limit:
            raise RunError(
                f"{len(self._known)} bad record(s), more than max_bad_records allows "
                f"({self.limit}); they are named in the log: mend or verify the data set"
            )
