"""Where the seconds of a run go, and which of them a clock counts. No TensorFlow.

There are three clocks; compare runs by one of them only:

- `training`: only the steps, as in benchmarks that warm up first.
- `dawnbench`: start-up, data, tracing and steps, as that competition counted; without
  writing checkpoints and without evaluation.
- `everything`: all the time that the run was paid for.

`docs/clocks.md` says what is in each bucket, and how exact it is.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

BUCKETS = {
    "start_up": "imports, joining the workers, reading the recipe, building the model",
    "data": "building each stage's input pipeline",
    "tracing": "each stage's first step beyond a normal one: its trace and its first batch",
    "steps": "the training steps, with what they wait for input",
    "checkpoints": "writing checkpoints and the result",
    "evaluation": "evaluating the checkpoints, where the run does it itself",
}

CLOCKS = {
    "training": ("steps",),
    "dawnbench": ("start_up", "data", "tracing", "steps"),
    "everything": tuple(BUCKETS),
}


def seconds_on(clock: str, buckets: Mapping[str, float]) -> float:
    """Seconds that `clock` counts of those in `buckets`."""
    return sum(buckets[name] for name in CLOCKS[clock])


class TimeBuckets:
    """Divides a run's seconds: at every moment exactly one bucket is filling.

    So the buckets add up to the time since the start. Switching only reads the time;
    nothing waits for a device. Another thread may read the state.

    Args:
        started: the `time.monotonic()` at which the run started; the first bucket,
            `start_up`, fills from then on.

    Example:

    >>> clock = TimeBuckets(time.monotonic())
    >>> with clock.during("checkpoints"):
    ...     model.save("model.keras")
    >>> clock.state()["checkpoints"]
    1.73
    """

    def __init__(self, started: float):
        self._seconds = dict.fromkeys(BUCKETS, 0.0)
        self._filling = "start_up"
        self._since = started
        self._lock = threading.Lock()

    def switch(self, bucket: str) -> str:
        """Fills `bucket` from now on; returns the one that was filling."""
        if bucket not in BUCKETS:
            raise ValueError(f"`bucket` must be one of {list(BUCKETS)}. Received: {bucket!r}")
        with self._lock:
            self._settle()
            before, self._filling = self._filling, bucket
        return before

    def _settle(self) -> None:
        now = time.monotonic()
        self._seconds[self._filling] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def during(self, bucket: str) -> Iterator[None]:
        """Fills `bucket` inside the block, and afterwards the one from before."""
        before = self.switch(bucket)
        try:
            yield
        finally:
            self.switch(before)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Moves seconds that were counted in the wrong bucket."""
        with self._lock:
            self._seconds[source] -= seconds
            self._seconds[target] += seconds

    def state(self) -> dict[str, float]:
        """Seconds in each bucket by now; JSON, for a checkpoint."""
        with self._lock:
            self._settle()
            return dict(self._seconds)

    def restore(self, state: Mapping[str, float]) -> None:
        """Adds the seconds of an earlier process's `state`.

        What that process did after it took the state is not counted.
        """
        with self._lock:
            for name in BUCKETS:
                self._seconds[name] += float(state.get(name, 0.0))
