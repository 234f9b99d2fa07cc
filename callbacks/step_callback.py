"""What all callbacks that act on steps have in common."""

from typing import Any

import keras


class StepCallback(keras.callbacks.Callback):
    """A callback that counts global steps, from 0 or `start_at` on, over one `fit` after another.

    `optimizer.iterations` is no such count: it stands still when loss scaling skips a step.
    Nothing happens after a step: for `on_train_batch_end`, Keras waits for the device.

    Attributes:
        initial_step: steps that were done before the first `fit`.
        first_of_fit: steps that were done before the current `fit`.
        step: steps that are done, or under way.
    """

    initial_step = first_of_fit = step = 0

    def start_at(self, step: int) -> None:
        """Begins at global step `step`; call it before the first `fit` of a resumed run."""
        self.initial_step = self.step = step

    def before_fit(self, step: int) -> None:
        """Called at the start of each `fit`, when `step` steps are done."""

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
        self.first_of_fit = self.step
        self.before_fit(self.step)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.before_step(self.step)
        self.step += 1

    def on_train_end(self, logs: Any = None) -> None:
        self.after_fit(self.step)


def at_least_one(every: int) -> int:
    """Returns `every`, a number of steps; refuses one below 1."""
    if every < 1:
        raise ValueError(f"`every` must be 1 or more. Received: every={every!r}")
    return every
