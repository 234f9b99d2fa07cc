"""Metrics of all workers, not of rank 0's share of the data."""

from collections.abc import Mapping
from typing import Any

import keras

from core import workers


def average_over_workers(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each number over the workers; a collective, with the same keys on all."""
    names = sorted(values)
    means = dict(zip(names, workers.average([values[name] for name in names]), strict=True))
    return {name: means[name] for name in values}


class MetricAverage(keras.callbacks.Callback):
    """Averages the logs of each epoch over the workers, for the callbacks after it.

    Put it first in the list: `History`, `EarlyStopping` and `ModelCheckpoint` then see the
    same numbers on every worker and decide alike.

    Example:

    >>> model.fit(dataset, callbacks=[MetricAverage(), keras.callbacks.EarlyStopping()])
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs:
            logs.update(average_over_workers({k: float(v) for k, v in logs.items()}))
