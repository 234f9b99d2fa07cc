"""Stops all workers together when one of them is asked to stop."""

import math
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

from callbacks.step_callback import StepCallback
from callbacks.step_checkpoint import StepCheckpoint
from core import checkpoints, workers
from core.errors import SharedPreempted
from core.signals import SignalWatch

# Two questions to the other workers:
SECONDS_BETWEEN = 0.5
MOST_STEPS_BETWEEN = 100


class StopOnSignal(StepCallback):
    """Stops all workers before the same step when one of them has received a signal.

    Everything is saved, and all workers raise `SharedPreempted`. Put it after `StepCheckpoint`.

    About twice a second the workers ask each other, in a thread beside the training. All read
    the answer before the same step, late enough for the slowest worker, so that nobody waits.

    Args:
        watch: knows whether this worker received a signal.
        checkpoint: saves before the run stops.

    Example:
        >>> checkpoint = StepCheckpoint("run/step-{step:06d}.keras", every=500)
        >>> stop = StopOnSignal(SignalWatch().install(), checkpoint)
        >>> model.fit(dataset, callbacks=[checkpoint, stop])
    """

    def __init__(self, watch: SignalWatch, checkpoint: StepCheckpoint):
        super().__init__()
        self.watch = watch
        self.checkpoint = checkpoint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stop")
        self._question: Future[list[list[float]]] | None = None
        self._asked_at = (0, 0.0)
        self._answer_at = 0

    def before_fit(self, step: int) -> None:
        self.watch.deferred = True

    def before_step(self, step: int) -> None:
        alone = workers.current().size == 1
        if alone and self.watch.received:
            self._stop(step, self.watch.received)
        if alone or step < self._answer_at:
            return
        now = time.monotonic()
        distance, seconds = 1, 0.0
        if self._question is not None:
            numbers, times = zip(*self._question.result(), strict=True)
            if any(numbers):
                self._stop(step, signal.Signals(int(next(filter(None, numbers)))).name)
            distance = math.ceil(SECONDS_BETWEEN / max(times)) if any(times) else 1
            asked_step, asked_time = self._asked_at
            seconds = (now - asked_time) / (step - asked_step)
        self._asked_at = (step, now)
        self._answer_at = step + min(distance, MOST_STEPS_BETWEEN)
        own = signal.Signals[self.watch.received] if self.watch.received else 0
        self._question = self._thread.submit(workers.gather_beside, [own, seconds])

    def after_fit(self, step: int) -> None:
        if step == self.checkpoint.last_step:
            if self._question is not None:
                self._question.result()
            self._thread.shutdown()
            self.watch.deferred = False
            self.watch.raise_if_received()

    def _stop(self, step: int, received: str) -> None:
        if self.checkpoint.saved_step != step:
            self.checkpoint.save(step, checkpoints.SIGNAL)
        self.checkpoint.finish()
        raise SharedPreempted(f"stopped by {received} after step {step}, which is saved")
