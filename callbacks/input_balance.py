"""Says whether a run is input-bound or compute-bound, without waiting for the device."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config  # its public twin can only set

from callbacks.step_callback import StepCallback
from core import workers

INPUT_BOUND = 0.1  # share of the time above which waiting for images is worth a remedy
LEFT_OUT = 4  # first steps, which trace and fill the buffers
GROWTH = 1.25  # of the steps between two looks at the clock


class InputBalance(StepCallback):
    """Says once, after the first minute, whether the model waits for its input.

    `watched` has the dataset add up how long each request for a batch took: nothing where a
    batch is ready. This holds on a GPU, too: the host runs ahead of it only by its queue of
    kernels. All workers take part, by the first one's clock, at steps ever further apart.

    Args:
        say: called on rank 0 with the line.
        total_steps: of the whole run; a run shorter than `after` is judged at its end.
        threads: of the input pipeline, for the advice.
        after: seconds of training before it speaks.

    Example:
        >>> balance = InputBalance(print, total_steps=1000, threads=4)
        >>> model.fit(balance.watched(dataset), steps_per_epoch=1000, callbacks=[balance])
    """

    def __init__(
        self, say: Callable[[str], Any], total_steps: int, threads: int, after: float = 60.0
    ):
        super().__init__()
        self.say = say
        self.total_steps = total_steps
        self.threads = threads
        self.after = after
        self.done: bool | None = None  # until there is a dataset to watch
        self.start_at(0)
        with tf.device("CPU"):
            self._waited = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def start_at(self, step: int) -> None:
        super().start_at(step)
        self._begin_at = self._look_at = step + LEFT_OUT

    @tf.autograph.experimental.do_not_convert
    def watched(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same dataset, which adds up the seconds that its batches are waited for."""
        if config.is_op_determinism_enabled():  # such ops cannot read the clock
            return dataset

        def note(asked: Any, batch: Any) -> Any:
            with tf.control_dependencies([self._waited.assign_add(tf.timestamp() - asked)]):
                return tf.nest.map_structure(tf.identity, batch)

        self.done = self.done or False
        # `zip` asks its parts in turn: first for the time, then for the batch.
        times = tf.data.Dataset.counter().map(lambda _: tf.timestamp())
        return tf.data.Dataset.zip((times, dataset)).map(note)

    def before_step(self, step: int) -> None:
        if step == self._begin_at:
            self._began = time.monotonic()
            self._waited_before = float(self._waited)
        if self.done is False and step >= self._look_at:
            self._look_at = max(step + 1, int(step * GROWTH))
            if step > self._begin_at:
                self._judge(self.after)

    def after_fit(self, step: int) -> None:
        if self.done is False and step >= self.total_steps and step > self._begin_at:
            self._judge(0.0)

    def _judge(self, after: float) -> None:
        elapsed = time.monotonic() - self._began
        found = workers.gather([elapsed, float(self._waited) - self._waited_before])
        if found[0][0] >= after:
            self.done = True
            if workers.current().is_first:
                shares = [waited / seconds for seconds, waited in found]
                self.say(verdict(shares, found[0][0], self.threads))


def verdict(shares: Sequence[float], seconds: float, threads: int) -> str:
    """What the workers' shares of time spent waiting for images mean, and what would help."""
    # Workers wait for the slowest of them at every step, so that one decides.
    share = min(1.0, max(0.0, *shares))
    worst = shares.index(max(shares))
    who = f" (worker {worst}, of {len(shares)})" if len(shares) > 1 else ""
    measured = f"{share:.0%} of {seconds:.0f} s was spent waiting for images{who}"
    if share <= INPUT_BOUND:
        return (
            f"Compute-bound: {measured}. The pipeline keeps up with {threads} thread(s) a worker; "
            "a faster model, policy or device would help, more cores for reading would not."
        )
    return (
        f"Input-bound: {measured}. The pipeline has {threads} thread(s) a worker: give it more "
        "cores or a faster disk, or records nearer to the training size; `--data synthetic` "
        "shows what the model alone would reach."
    )
