"""Checkpoints as training goes."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from callbacks.stage_clock import wait_for_device
from callbacks.step_callback import StepCallback
from core import checkpoints, workers
from core.checkpoints import BackgroundWriter, Snapshot
from core.clock import TimeBuckets
from core.errors import RunError


@runtime_checkable
class Stateful(Protocol):
    """A callback that remembers something between steps."""

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers what `state` returned in another process."""


@runtime_checkable
class ChecksBeforeSave(Protocol):
    """A callback that can keep a checkpoint from being written, by raising an error."""

    def before_save(self, step: int) -> None:
        """Called on every worker before the checkpoint of `step` steps done."""


@runtime_checkable
class ShowsLife(Protocol):
    """A callback that shows another process that this one is alive."""

    def waiting(self) -> None:
        """Called on every worker every few seconds while all wait for a file."""


class Journal(Protocol):
    """The record of a run, in which its checkpoints are noted. All methods run on rank 0.

    A subclass overrides what it needs: by itself, it notes nothing and prints warnings.
    """

    def facts(self, step: int) -> dict[str, Any]:
        """What to store in the checkpoint for all workers, as JSON."""
        return {}

    def saved(self, step: int, path: Path, facts: Mapping[str, Any]) -> None:
        """Called in the writing thread when a checkpoint is on the disk."""
        return None

    def warn(self, line: str) -> None:
        """Shows the user a line; called in the writing thread."""
        print(line)


class NoJournal(Journal):
    """Notes nothing, and prints warnings."""


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


def _by_name(peers: Sequence[Any]) -> dict[str, Stateful]:
    """Those that remember something, by the names of their classes: `wall_clock`.

    A second one of the same class is `wall_clock_2`.
    """
    found: dict[str, Stateful] = {}
    for peer in peers:
        if isinstance(peer, Stateful):
            kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(peer).__name__).lower()
            names = [kind, *(f"{kind}_{number}" for number in range(2, len(peers) + 1))]
            found[next(name for name in names if name not in found)] = peer
    return found


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
        peers: the other callbacks of the run. What a `Stateful` one remembers goes into the
            checkpoint under its class's name (`wall_clock`); one with `before_save` is
            called before each checkpoint; one with `waiting` is called while all wait for
            a file to be written, which takes as long as the disk takes.
        journal: where to note the checkpoints.
        clock: buckets of time, of which `before_save`, copying and waiting fill
            `checkpoints`.

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
        *,
        peers: Sequence[keras.callbacks.Callback] = (),
        journal: Journal | None = None,
        clock: TimeBuckets | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be 1 or more. Received: every={every!r}")
        if str(path).format(step=1) == str(path).format(step=2):
            raise ValueError(f"`path` needs the field {{step}}. Received: path={str(path)!r}")
        self.path = str(path)
        self.every = every
        self.last_step = last_step
        self.clock = clock
        self.journal = journal or NoJournal()
        self.saved_step: int | None = None
        self._stateful = _by_name(peers)
        self._checks = [peer for peer in peers if isinstance(peer, ChecksBeforeSave)]
        self._waiting = [peer for peer in peers if isinstance(peer, ShowsLife)]
        self._resumed: Path | None = None
        self._writer = BackgroundWriter(self._write, self.journal.warn)

    def start_at(self, step: int) -> None:
        """As of every `StepCallback`; the checkpoint of that step is not written again."""
        super().start_at(step)
        self.saved_step = step or None

    def resume_from(self, path: Path) -> None:
        """Restores each worker's own state from a checkpoint when the first `fit` begins.

        The model's metrics have to be built by then.
        """
        self._resumed = path

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
            for peer in self._checks:
                peer.before_save(step)
            self._save(step, kind)

    def _save(self, step: int, kind: str) -> None:
        self._wait(allowed=checkpoints.LEFT_OUT_LIMIT - 1)
        self.saved_step = step
        means = mean_moving_statistics(self.model)
        own = {
            "arrays": workers.gather_arrays([v.numpy() for v in own_variables(self.model)]),
            "stateful": workers.gather({n: s.state() for n, s in self._stateful.items()}),
        }
        if not workers.current().is_first:
            return
        averaged = {id(variable) for variable, _ in means}
        kept = [
            (v, v.numpy())
            for v in [*self.model.variables, *self.model.optimizer.variables]
            if id(v) not in averaged
        ]
        state = {**self.journal.facts(step), "kind": kind, "stateful": own["stateful"]}
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
            self._show_life,
        )
        if len(left_out) > allowed:
            before = f", nor could the {len(left_out) - 1} before it" if left_out[1:] else ""
            raise RunError(f"{left_out[-1]}{before}")

    def _show_life(self) -> None:
        for peer in self._waiting:
            peer.waiting()

    def _write(self, snapshot: Snapshot) -> None:
        path = Path(self.path.format(step=snapshot.step))
        checkpoints.write(self.model, snapshot, path)
        self.journal.saved(snapshot.step, path, snapshot.state)

    def _restore(self, path: Path) -> None:
        rank = workers.current().rank
        variables = own_variables(self.model)
        for variable, value in zip(variables, checkpoints.read_arrays(path, rank), strict=True):
            variable.assign(value)
        states = checkpoints.read_state(path)["stateful"][rank]
        for name, item in self._stateful.items():
            if name in states:
                item.restore(states[name])
