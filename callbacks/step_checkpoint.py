"""Checkpoints as training goes."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from callbacks.stage_clock import wait_for_device
from callbacks.step_callback import StepCallback
from core import checkpoints, workers
from core.checkpoints import BackgroundWriter, Snapshot
from core.clock import TimeBuckets
from core.errors import RunError


class Stateful(Protocol):
    """Something whose memory belongs into a checkpoint."""

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers what `state` returned in another process."""


def mean_moving_statistics(model: keras.Model) -> list[tuple[Any, np.ndarray]]:
    """The moving statistics of BatchNorm, each with its mean over the workers.

    Each worker gathers them from its own share of the data; a checkpoint should hold
    what all have seen. A collective. Integer variables (random seeds) are left out.
    """
    variables = [v for v in model.non_trainable_variables if v.dtype in ("float32", "float64")]
    return list(zip(variables, workers.means(variables), strict=True))


def own_variables(model: keras.Model) -> list[Any]:
    """The variables that differ between workers: statistics, random seeds, metrics."""
    return [*model.non_trainable_variables, *model.metrics_variables]


def save_whole(save: Callable[[str], Any], path: Path) -> None:
    """Lets `save` write a file beside `path` and renames it: whole or not there at all."""
    with checkpoints.whole(path) as unfinished:
        save(str(unfinished))


class StepCheckpoint(StepCallback):
    """Writes the model and its optimizer every so many steps, on rank 0.

    On the step the variables are only copied to the host; the file is written in the
    background. The next checkpoint waits for it, and so does the end of `fit`. The file
    is a plain `.keras` one, in which the moving statistics of BatchNorm are the means
    over the workers; the run itself goes on with its own, so that a checkpoint more or
    less changes nothing. `core/checkpoints.py` says what else is inside.

    A checkpoint that cannot be written is tried again, then left out with a warning;
    several in a row end the run.

    To be put last in the list of callbacks: what is restored at the beginning and
    stored before a step should come after all others.

    Args:
        path: where to write, with the field `{step}`, as in
            `"checkpoints/step-{step:08d}.keras"`.
        every: in steps; the first checkpoint is that of step 0.
        last_step: a step that is written too, at the end of its `fit`.
        on_saved: called on rank 0, in the writing thread, with the step, the path and
            the `facts` of each checkpoint when it is there.
        initial_step: steps that are done before the first `fit`; where there are any,
            that step's checkpoint is not written again.
        clock: buckets of time, of which `before_save`, copying and waiting fill
            `checkpoints`.
        facts: returns what else to store for all workers, as JSON, for a step.
        stateful: what else to store for each worker, by name.
        resumed: the checkpoint from which each worker's own state is restored when
            the first `fit` begins; the model's metrics have to be built by then.
        warn: called on rank 0 with a line for the user.
        before_save: called on every worker with the step; what it raises keeps the
            checkpoint from being written.
        sign: called on every worker every few seconds while all wait for a file to be
            written, which takes as long as the disk takes; `Heartbeat.waiting`, for example.

    Raises:
        ValueError: `every` below 1, or a path without the field.
        RunError: on every worker, in the middle of `fit`: too many checkpoints in a row
            could not be written.

    Example:

    >>> model.fit(dataset, callbacks=[StepCheckpoint("run/step-{step:06d}.keras", every=500)])
    """

    def __init__(
        self,
        path: str | Path,
        every: int,
        last_step: int | None = None,
        on_saved: Callable[[int, Path, Mapping[str, Any]], None] | None = None,
        initial_step: int = 0,
        clock: TimeBuckets | None = None,
        facts: Callable[[int], dict[str, Any]] | None = None,
        stateful: Mapping[str, Stateful] | None = None,
        resumed: Path | None = None,
        warn: Callable[[str], None] = print,
        before_save: Callable[[int], Any] | None = None,
        sign: Callable[[], Any] = lambda: None,
    ):
        super().__init__(initial_step)
        if every < 1:
            raise ValueError(f"`every` must be 1 or more. Received: every={every!r}")
        if str(path).format(step=1) == str(path).format(step=2):
            raise ValueError(f"`path` needs the field {{step}}. Received: path={str(path)!r}")
        self.path = str(path)
        self.every = every
        self.last_step = last_step
        self.on_saved = on_saved
        self.before_save = before_save or (lambda step: None)
        self.sign = sign
        self.clock = clock
        self.facts = facts or (lambda step: {})
        self.stateful = stateful or {}
        self.saved_step: int | None = initial_step or None
        self._resumed = resumed
        self._writer = BackgroundWriter(self._write, warn)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Only here: Keras has just reset the metrics, and the other callbacks have begun.
        if self._resumed is not None:
            self._restore(self._resumed)
            self._resumed = None

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and (step != self.initial_step or step == 0):
            self.save(step)

    def after_fit(self, step: int) -> None:
        if step == self.last_step:
            self.save(step)
            self.finish()
        else:  # the process may end now, and its threads with it
            with self._on_the_clock():
                self._wait(allowed=checkpoints.LEFT_OUT_LIMIT - 1)

    def save(self, step: int, kind: str = checkpoints.REGULAR) -> None:
        """Copies the run to the host and begins to write it; a collective.

        Args:
            step: the number of steps done.
            kind: `"regular"` or `"signal"`, noted in the checkpoint.
        """
        with self._on_the_clock():
            self.before_save(step)
            self._save(step, kind)

    def _save(self, step: int, kind: str) -> None:
        self._wait(allowed=checkpoints.LEFT_OUT_LIMIT - 1)
        self.saved_step = step
        means = mean_moving_statistics(self.model)
        own = {
            "arrays": workers.gather_arrays([v.numpy() for v in own_variables(self.model)]),
            "stateful": workers.gather({n: s.state() for n, s in self.stateful.items()}),
        }
        if not workers.current().is_first:
            return
        averaged = {id(variable) for variable, _ in means}
        kept = [
            (v, v.numpy())
            for v in [*self.model.variables, *self.model.optimizer.variables]
            if id(v) not in averaged
        ]
        state = {**self.facts(step), "kind": kind, "stateful": own["stateful"]}
        self._writer.start(Snapshot(step, [*kept, *means], state, own["arrays"]))

    def finish(self) -> None:
        """Waits until the last checkpoint that was begun is on the disk; a collective.

        Raises:
            RunError: on every worker: it could not be written.
        """
        with self._on_the_clock():
            self._wait(allowed=0)

    def _on_the_clock(self) -> contextlib.AbstractContextManager[None]:
        if self.clock is None:
            return contextlib.nullcontext()
        wait_for_device(self.model)  # copying waits, too; the steps' time is not its own
        return self.clock.during("checkpoints")

    def _wait(self, allowed: int) -> None:
        left_out, *_ = workers.gather_in_time(
            lambda seconds: self._writer.left_out if self._writer.wait(seconds) else None,
            self.sign,
        )
        if len(left_out) > allowed:
            before = f", nor could the {len(left_out) - 1} before it" if left_out[1:] else ""
            raise RunError(f"{left_out[-1]}{before}")

    def _write(self, snapshot: Snapshot) -> None:
        path = Path(self.path.format(step=snapshot.step))
        checkpoints.write(self.model, snapshot, path)
        if self.on_saved:
            self.on_saved(snapshot.step, path, snapshot.state)

    def _restore(self, path: Path) -> None:
        rank = workers.current().rank
        variables = own_variables(self.model)
        for variable, value in zip(variables, checkpoints.read_arrays(path, rank), strict=True):
            variable.assign(value)
        states = checkpoints.read_state(path)["stateful"][rank]
        for name, item in self.stateful.items():
            if name in states:
                item.restore(states[name])
