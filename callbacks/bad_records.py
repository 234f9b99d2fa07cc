"""Bad records of all workers: named in the log, counted, and too many of them an end."""

from collections.abc import Callable
from typing import Any

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError
from datasets.input.faults import Faults


class BadRecords(StepCallback):
    """Collects what the workers' pipelines found damaged, and stops all of them together.

    Args:
        faults: this worker's, as given to its pipeline.
        every: in steps, how often to collect; the end of a `fit` is another time.
        limit: so many different bad records of all workers may be there.
        say: called on rank 0 with a line for each bad record.

    Raises:
        RunError: on every worker: the limit is passed, or a file cannot be read.

    Example:

    >>> faults = Faults(limit=10)
    >>> batches = training_pipeline(records, plan, steps, faults=faults, ...)
    >>> model.fit(batches, callbacks=[BadRecords(faults, every=100, limit=10)])
    """

    def __init__(
        self,
        faults: Faults,
        every: int,
        limit: int,
        say: Callable[[str], Any] = print,
    ):
        super().__init__()
        self.faults = faults
        self.every = every
        self.limit = limit
        self.say = say
        self._known: set[str] = set()

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and step != self.initial_step:
            self.collect()

    def after_fit(self, step: int) -> None:
        self.collect()

    def collect(self) -> None:
        """Compares the workers' findings; a collective."""
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
