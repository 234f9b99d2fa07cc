"""All workers start from the same state."""

from typing import Any

import keras

from core import workers


class BroadcastFromFirst(keras.callbacks.Callback):
    """Gives every worker rank 0's variables and optimizer state when the first `fit` begins.

    An optimizer that is not built yet is built.

    Example:

    >>> model.fit(dataset, callbacks=[BroadcastFromFirst()])
    """

    done = False

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.done:
            optimizer = self.model.optimizer
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
            workers.broadcast_variables([*self.model.variables, *optimizer.variables])
            self.done = True
