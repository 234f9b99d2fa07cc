"""A sign of life before every step."""

import time

from callbacks.step_callback import StepCallback
from core.board import Board

# A longer step is a hang; a worker whose steps are slower gets the time of five of them.
LONGEST_STEP_SECONDS = 45.0
STEPS = 5


class Heartbeat(StepCallback):
    """Shows a supervisor before every step that this worker is alive.

    The first step of a `fit` is traced and has no time limit. Neither has what workers
    wait for together between two steps, such as a slow disk: they call `waiting`.

    Args:
        board: where the supervisor sees the signs; one costs a microsecond.

    Example:
        >>> heartbeat = Heartbeat(Board())
        >>> checkpoint = StepCheckpoint(path, every=500, peers=[heartbeat])
        >>> model.fit(dataset, callbacks=[checkpoint, heartbeat])
    """

    def __init__(self, board: Board):
        super().__init__()
        self.board = board
        self._began = 0.0
        self._waiting_since: float | None = None

    def before_fit(self, step: int) -> None:
        self._last: tuple[int, float | None] = (step, None)

    def before_step(self, step: int) -> None:
        now, timed = time.monotonic(), step - self.first_of_fit - 1  # the first one is not timed
        if timed <= 0:
            self._began = now
        longest = max(LONGEST_STEP_SECONDS, STEPS * (now - self._began) / max(timed, 1))
        self._beat(step, None if timed < 0 else longest)

    def after_fit(self, step: int) -> None:
        self._beat(step, None)

    def waiting(self) -> None:
        """Another sign between two steps. The time between such signs belongs to no step."""
        now = time.monotonic()
        if self._waiting_since is not None:
            self._began += now - self._waiting_since
        self._waiting_since = now
        self.board.beat(*self._last)

    def _beat(self, step: int, longest: float | None) -> None:
        self._waiting_since = None
        self._last = (step, longest)
        self.board.beat(step, longest)
