"""Checkpoints during training."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from callbacks.stage_clock import wait_for_device
from callbacks.step_callback import StepCallback, at_least_one
from core import checkpoints, workers
from core.checkpoints import BackgroundWriter, Snapshot
from core.clock import TimeBuckets
from core.errors import RunError


class Journal:
    """Where a run notes its checkpoints, on rank 0. A subclass overrides what it needs."""

    def facts(self, step: int) -> dict[str, Any]:
        """What to store in a checkpoint for all workers, as JSON."""
        return {}

    def saved(self, step: int, path: Path, facts: Mapping[str, Any]) -> None:
        """Called in the writing thread when a checkpoint is on the disk."""

    def warn(self, line: str) -> None:
        """Called with a line for the user."""
        print(line)


def mean_moving_statistics(model: keras.Model) -> list[tuple[Any, np.ndarray]]:
    """The moving statistics of BatchNorm, each with its mean over the workers; a collective."""
    # Random seeds, which are integers, are left out.
    variables = [v for v in model.non_trainable_variables if v.dtype in ("float32", "float64")]
    return list(zip(variables, workers.means(variables), strict=True))


def own_variables(model: keras.Model) -> list[Any]:
    """The variables that differ between workers: statistics, random seeds, metrics."""
    return [*model.non_trainable_variables, *model.metrics_variables]


class StepCheckpoint(StepCallback):
    """Writes the model and its optimizer every `every` steps, on rank 0.

    Before a step the variables are only copied to the host; the file is written in the
    background. The next checkpoint and the end of `fit` wait for it. It is a plain `.keras`
    file (see `core/checkpoints.py`), in which the moving statistics of BatchNorm are the means
    over the workers. The run keeps its own: checkpoints do not change its result.

    A checkpoint that cannot be written is tried again, then left out with a warning;
    several in a row end the run, on all workers, with a `RunError`. Put it after the
    callbacks whose state it stores, but before `StopOnSignal` and `Heartbeat`.

    Args:
        path: where to write, with the field `{step}`.
        every: in steps; the first checkpoint is that of step 0.
        last_step: a step that is written too, at the end of its `fit`.
        peers: the other callbacks of the run. What one with `state()` and `restore(state)`
            remembers is stored under its class's name (`wall_clock`). Two methods are called
            on every worker, where a peer has them: `before_save(step)` before a checkpoint,
            which an error prevents, and `waiting()` every few seconds of waiting for the disk.
        journal: where to note the checkpoints; by default nowhere.
        clock: buckets of time, of which checking, copying and waiting fill `checkpoints`.

    Raises:
        ValueError: the path has no field `{step}`, or `every` is below 1.

    Example:
        >>> clock = WallClock(print, every=100, batch_size=64)
        >>> save = StepCheckpoint("run/step-{step:06d}.keras", every=500, peers=[clock])
        >>> model.fit(dataset, callbacks=[clock, save])
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
        if str(path).format(step=1) == str(path).format(step=2):
            raise ValueError(f"`path` needs the field {{step}}. Received: path={str(path)!r}")
        self.path = str(path)
        self.every = at_least_one(every)
        self.last_step = last_step
        self.peers = peers
        self.journal = journal or Journal()
        self.clock = clock
        self.saved_step: int | None = None
        self._stateful = _stateful(peers)
        self._resumed: Path | None = None
        self._writer = BackgroundWriter(self._write, self.journal.warn)

    def start_at(self, step: int) -> None:
        """As for every `StepCallback`; the checkpoint of that step is not written again."""
        super().start_at(step)
        self.saved_step = step or None

    def resume_from(self, path: Path) -> None:
        """Has the first `fit` restore each worker's own state; build the metrics before."""
        self._resumed = path

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Only here: Keras has just reset the metrics, and the other callbacks have begun.
        if self._resumed is not None:
            rank = workers.current().rank
            arrays = checkpoints.read_arrays(self._resumed, rank)
            for variable, value in zip(own_variables(self.model), arrays, strict=True):
                variable.assign(value)
            states = checkpoints.read_state(self._resumed)["stateful"][rank]
            for name, peer in self._stateful.items():
                if name in states:
                    peer.restore(states[name])
            self._resumed = None

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and (step != self.initial_step or step == 0):
            self.save(step)

    def after_fit(self, step: int) -> None:
        if step == self.last_step:
            self.save(step)
            self.finish()
        else:  # the process may end now, and its threads with it
            self.finish(checkpoints.LEFT_OUT_LIMIT - 1)

    def save(self, step: int, kind: str = checkpoints.REGULAR) -> None:
        """Copies the run of `step` steps to the host and begins to write it; a collective."""
        with self._on_the_clock():
            self._ask_peers("before_save", step)
            self.finish(checkpoints.LEFT_OUT_LIMIT - 1)
            self.saved_step = step
            means = mean_moving_statistics(self.model)
            arrays = workers.gather_arrays([v.numpy() for v in own_variables(self.model)])
            stateful = workers.gather({n: s.state() for n, s in self._stateful.items()})
            if workers.current().is_first:
                averaged = {id(variable) for variable, _ in means}
                variables = [*self.model.variables, *self.model.optimizer.variables]
                kept = [(v, v.numpy()) for v in variables if id(v) not in averaged]
                state = {**self.journal.facts(step), "kind": kind, "stateful": stateful}
                self._writer.start(Snapshot(step, [*kept, *means], state, arrays))

    def finish(self, left_out_allowed: int = 0) -> None:
        """Waits until the last checkpoint is on the disk, or raises `RunError`; a collective."""
        with self._on_the_clock():
            left_out, *_ = workers.gather_in_time(
                lambda seconds: self._writer.left_out if self._writer.wait(seconds) else None,
                lambda: self._ask_peers("waiting"),
            )
        if len(left_out) > left_out_allowed:
            before = f", nor could the {len(left_out) - 1} before it" if left_out[1:] else ""
            raise RunError(f"{left_out[-1]}{before}")

    def _on_the_clock(self) -> contextlib.AbstractContextManager[None]:
        if self.clock is None:
            return contextlib.nullcontext()
        wait_for_device(self.model)  # copying waits, too; the steps' time is not its own
        return self.clock.during("checkpoints")

    def _ask_peers(self, method: str, *arguments: int) -> None:
        for peer in self.peers:
            if hasattr(peer, method):
                getattr(peer, method)(*arguments)

    def _write(self, snapshot: Snapshot) -> None:
        path = Path(self.path.format(step=snapshot.step))
        checkpoints.write(self.model, snapshot, path)
        self.journal.saved(snapshot.step, path, snapshot.state)


def _stateful(peers: Iterable[Any]) -> dict[str, Any]:
    """The peers that remember something, as `wall_clock`; `wall_clock_2` is a second one."""
    found: dict[str, Any] = {}
    for peer in peers:
        if hasattr(peer, "state") and hasattr(peer, "restore"):
            name = re.sub(r"\B([A-Z])", r"_\1", type(peer).__name__).lower()
            alike = sum(type(other) is type(peer) for other in found.values())
            found[f"{name}_{alike + 1}" if alike else name] = peer
    return found
