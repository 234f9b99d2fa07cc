"""Names the bad records of all workers in the log, and ends a run with too many of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from callbacks.step_callback import StepCallback
from core import workers
from core.errors import RunError

if TYPE_CHECKING:  # this folder is copied without `datasets`, too
    from datasets.input.faults import Faults


class BadRecords(StepCallback):
    """Collects what the workers' pipelines found damaged.

    All workers stop with a `RunError` when a file cannot be read, or when together they
    have found more different bad records than the limit of `faults`.

    Args:
        faults: this worker's, as given to its pipeline.
        every: steps between two collections; there is another one at the end of a `fit`.
        say: called on rank 0 with a line for each bad record.

    Example:
        >>> faults = Faults(limit=10)
        >>> batches = training_pipeline(records, plan, steps, faults=faults, ...)
        >>> model.fit(batches, callbacks=[BadRecords(faults, every=100)])
    """

    def __init__(self, faults: "Faults", every: int, say: Callable[[str], Any] = print):
        super().__init__()
        self.faults = faults
        self.every = every
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
        if len(self._known) > self.faults.limit:
            raise RunError(
                f"{len(self._known)} bad record(s), more than max_bad_records allows "
                f"({self.faults.limit}); they are named in the log: mend or verify the data set"
            )
