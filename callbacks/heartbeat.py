"""A sign of life before every step."""

import time
from typing import Any, Protocol

from callbacks.step_callback import StepCallback

# Longer than that is a hang; a worker whose steps are slower gets five of them.
LONGEST_STEP_SECONDS = 45.0
STEPS = 5


class Board(Protocol):
    """Where another process sees the signs."""

    def beat(self, step: int, longest_seconds: float | None) -> None:
        """Notes that step number `step` begins, and how long it may take."""


class Heartbeat(StepCallback):
    """Tells a supervisor before every step that this worker is alive.

    The first step of a `fit` may take as long as it likes, since it is traced.

    Args:
        board: is told; `training/supervisor.py` has one that costs a microsecond.
        initial_step: steps that are done before the first `fit`.

    Example:

    >>> model.fit(dataset, callbacks=[Heartbeat(supervisor.board)])
    """

    def __init__(self, board: Board, initial_step: int = 0):
        super().__init__(initial_step)
        self.board = board
        self._began = (initial_step, 0.0)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._began = (self.step + 1, time.monotonic())

    def before_step(self, step: int) -> None:
        begun, at = self._began
        if step < begun:
            self.board.beat(step, None)
        elif step == begun:
            self._began = (step, time.monotonic())
            self.board.beat(step, LONGEST_STEP_SECONDS)
        else:
            mean = (time.monotonic() - at) / (step - begun)
            self.board.beat(step, max(LONGEST_STEP_SECONDS, STEPS * mean))

    def after_fit(self, step: int) -> None:
        self.board.beat(step, None)
