"""All workers start from the same state."""

from typing import Any

import keras

from core import workers


class BroadcastFromFirst(keras.callbacks.Callback):
    """Gives every worker rank 0's variables and optimizer state, before the first step.

    Once, at the start of the first `fit`. An optimizer that is not built yet is built.

    Example:

    >>> model.fit(dataset, callbacks=[BroadcastFromFirst()])
    """

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def on_train_begin(self, logs: Any = None) -> None:
        if self.done:
            return
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        workers.broadcast_variables([*self.model.variables, *optimizer.variables])
        self.done = True
