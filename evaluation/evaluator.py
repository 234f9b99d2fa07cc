"""Evaluation on the whole validation set, exact and the same however it is shared out."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from evaluation.tally import LOSS_UNIT, Tally


def count(logits: Any, labels: Any) -> Any:
    """The fields of a `Tally` of a batch, as an int64 tensor; usable in a graph.

    A class comes before the label's where its logit is larger, or the same and its
    number smaller: the order of `tf.math.top_k` and of a stable sort.

    Args:
        logits: `[batch, classes]`.
        labels: `[batch]` int32; images of a label below 0 are not counted.
    """
    own = tf.maximum(labels, 0)
    mine = tf.gather(logits, own, batch_dims=1)[:, tf.newaxis]
    numbers = tf.range(tf.shape(logits)[1])
    before = (logits > mine) | ((logits == mine) & (numbers < own[:, tf.newaxis]))
    rank = tf.reduce_sum(tf.cast(before, tf.int32), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(own, tf.cast(logits, tf.float64))
    fields = [
        tf.ones_like(labels, tf.int64),
        tf.cast(finite & (rank < 1), tf.int64),
        tf.cast(finite & (rank < 5), tf.int64),
        tf.cast(tf.round(tf.where(finite, loss, 0) / LOSS_UNIT), tf.int64),
        tf.cast(~finite, tf.int64),
    ]
    return tf.reduce_sum(tf.stack(fields) * tf.cast(labels >= 0, tf.int64), axis=1)


class Evaluator:
    """Evaluates the weights of one checkpoint after the other, with one trace a shape.

    Args:
        model: a model with logits, of the checkpoints' layers.
        load: loads a checkpoint's weights into the model.
        batches: gives the batches of share `k` of `n`: uint8 images and int32 labels, -1
            for what only fills up a batch.
        flip: average the logits of each image and of its mirror image.
    """

    def __init__(
        self,
        model: keras.Model,
        load: Callable[[Path], None],
        batches: Callable[[int, int], tf.data.Dataset],
        flip: bool = False,
    ):
        self.load = load
        self.batches = batches

        def step(total: Any, images: Any, labels: Any) -> Any:
            logits = model(images, training=False)
            if flip:
                logits = (logits + model(tf.reverse(images, [2]), training=False)) / 2
            return total + count(logits, labels)

        self.step = tf.function(step)

    def evaluate(self, checkpoint: Path, share: int = 0, shares: int = 1) -> tuple[Tally, float]:
        """The tally of one checkpoint, and the seconds it took, with loading.

        Raises:
            FileNotFoundError, BadCheckpoint: as `load` does.
        """
        began = time.monotonic()
        self.load(checkpoint)
        total = tf.zeros(Tally.FIELDS, tf.int64)
        for images, labels in self.batches(share, shares):
            total = self.step(total, images, labels)
        return Tally(*total.numpy().tolist()), time.monotonic() - began
