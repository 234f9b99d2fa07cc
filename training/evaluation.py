"""Evaluation on the whole validation set."""

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


def accuracy_metrics() -> list[keras.metrics.Metric]:
    """Top-1 and top-5 of logits against integer labels."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]


class Evaluator:
    """Evaluates the weights of one checkpoint after the other, with one trace.

    Args:
        model: a model with logits, of the checkpoints' layers.
        dataset: batches of uint8 images and int32 labels; every image counts once, the
            last partial batch included.
    """

    def __init__(self, model: keras.Model, dataset: tf.data.Dataset):
        self.model = model
        self.dataset = dataset
        self.top1, top5 = accuracy_metrics()
        model.compile(
            optimizer=None,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[self.top1, top5],
            jit_compile=False,
        )

    def evaluate(self, checkpoint: Path) -> dict[str, Any]:
        """Returns `top1` and `top5` as fractions, `loss` (mean cross-entropy), the number
        of `images` and `images_per_second`, loading included."""
        began = time.monotonic()
        self.model.load_weights(str(checkpoint))
        found = self.model.evaluate(self.dataset, verbose=0, return_dict=True)
        images = int(self.top1.count)
        return {**found, "images": images, "images_per_second": images / (time.monotonic() - began)}
