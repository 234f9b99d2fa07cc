"""What all callbacks that act on steps have in common."""

from typing import Any

import keras


class StepCallback(keras.callbacks.Callback):
    """A callback with a count of global steps of its own.

    `optimizer.iterations` is no such count: it stands still when loss scaling skips a
    step. This one follows the data, goes on in the next `fit`, and starts where a
    resumed run left off.

    Everything happens before a step, nothing after it: Keras converts the logs for
    `on_train_batch_end` to Python numbers, for which it waits for the device.

    Args:
        initial_step: steps that are done before the first `fit`.

    Attributes:
        step: steps that are done, or under way.
    """

    def __init__(self, initial_step: int = 0):
        super().__init__()
        self.initial_step = initial_step
        self.step = initial_step

    def before_step(self, step: int) -> None:
        """Called when `step` steps are done and step number `step` is about to run."""

    def after_fit(self, step: int) -> None:
        """Called at the end of each `fit`, when `step` steps are done."""

    def on_train_begin(self, logs: Any = None) -> None:
        if getattr(self.model, "steps_per_execution", 1) != 1:
            raise ValueError(
                f"{type(self).__name__} acts before every step; compile with "
                f"steps_per_execution=1. Received: {self.model.steps_per_execution}"
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.before_step(self.step)
        self.step += 1

    def on_train_end(self, logs: Any = None) -> None:
        self.after_fit(self.step)
