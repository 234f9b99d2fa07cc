"""Evaluation on the whole validation set: exact, and the same however it is shared out."""

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

# Losses are added as whole multiples of this: float32's step at 1 to 2. The sum of whole
# numbers is the same in any order and for any shares; that of floats is not.
LOSS_UNIT = 2.0**-23
LIKELIEST = 5  # classes that are kept of each image


@dataclass(frozen=True)
class Counts:
    """What was counted over some images; the counts of disjoint images add up."""

    images: int = 0
    top1: int = 0  # images with their label first
    top5: int = 0  # ... among the first five
    loss: int = 0  # sum of the cross-entropies, in units of `LOSS_UNIT`
    not_finite: int = 0  # images with a logit that is not finite; they count as wrong

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, Any]:
        """`top1` and `top5` as fractions, `loss` (mean cross-entropy) and `images`."""
        return {
            "top1": self.top1 / self.images,
            "top5": self.top5 / self.images,
            "loss": float("nan") if self.not_finite else self.loss * LOSS_UNIT / self.images,
            "images": self.images,
        }


def count(logits: Any, labels: Any) -> Any:
    """The fields of the `Counts` of a batch, as an int64 tensor; usable in a graph.

    The logits are `[batch, classes]`, the labels `[batch]` int32; images with a label below 0 are
    not counted. A class is ranked before the label's where its logit is larger, or equal and its
    number smaller: the order of `tf.math.top_k` and of a stable sort.
    """
    own = tf.maximum(labels, 0)
    mine = tf.gather(logits, own, batch_dims=1)[:, tf.newaxis]
    numbers = tf.range(tf.shape(logits)[1])
    before = (logits > mine) | ((logits == mine) & (numbers < own[:, tf.newaxis]))
    rank = tf.reduce_sum(tf.cast(before, tf.int32), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(own, tf.cast(logits, tf.float64))
    found = [
        tf.ones_like(labels, tf.int64),
        tf.cast(finite & (rank < 1), tf.int64),
        tf.cast(finite & (rank < 5), tf.int64),
        tf.cast(tf.round(tf.where(finite, loss, 0) / LOSS_UNIT), tf.int64),
        tf.cast(~finite, tf.int64),
    ]
    return tf.reduce_sum(tf.stack(found) * tf.cast(labels >= 0, tf.int64), axis=1)


def likeliest(logits: Any, most: int = LIKELIEST, apart: bool = False) -> tuple[Any, Any]:
    """The likeliest classes of each image, in their order, and their probabilities.

    The order is that of `count`. Usable in a graph.

    Args:
        logits: `[batch, classes]`.
        apart: whether each class is a question of its own.

    Returns:
        int32 and float64 `[batch, min(most, classes)]`. The probabilities are the softmax of all
        logits, or the sigmoid of each where the classes are `apart`. An image with a logit that is
        not finite has the classes -1, of probability 0.
    """
    _, classes = tf.math.top_k(logits, min(most, logits.shape[-1]))
    probabilities = (tf.sigmoid if apart else tf.nn.softmax)(tf.cast(logits, tf.float64))
    own = tf.gather(probabilities, classes, batch_dims=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1, keepdims=True)
    return tf.where(finite, classes, -1), tf.where(finite, own, tf.zeros_like(own))


def averaged_logits(
    model: Callable[..., Any], images: Any, flip: bool = False, shift: int = 0
) -> Any:
    """The logits `[batch, classes]` of uint8 images, averaged over views of each image.

    With `shift`, half of the weight is the image's own; a quarter each have two views whose
    content is moved by `shift` pixels, down-right and up-left, with reflected borders. With `flip`,
    each view is averaged with its mirror image. `flip` and `shift=1` are the test of airbench
    (Jordan 2024, https://arxiv.org/abs/2404.00498).
    """
    if shift:
        sides = [shift, shift]
        padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]], "REFLECT")
        one, other = padded[:, : -2 * shift, : -2 * shift], padded[:, 2 * shift :, 2 * shift :]
        centre, one, other = (averaged_logits(model, x, flip) for x in (images, one, other))
        return centre / 2 + (one + other) / 4
    logits = model(images, training=False)
    if flip:
        logits = (logits + model(tf.reverse(images, [2]), training=False)) / 2
    return logits


class Evaluator:
    """Evaluates the weights of one checkpoint after the other, with one trace a shape.

    The model returns logits; `load` loads a checkpoint's weights into it. `batches` returns the
    batches of share `k` of `n`: uint8 images and int32 labels, which are -1 where an image only
    fills up the batch; and, where a third argument is true, the images' numbers and file names.
    `flip` and `shift` choose the views, as for `averaged_logits`; `apart` is that of `likeliest`.
    """

    def __init__(
        self,
        model: keras.Model,
        load: Callable[[Path], None],
        batches: Callable[..., tf.data.Dataset],
        flip: bool = False,
        shift: int = 0,
        apart: bool = False,
    ):
        self.load = load
        self.batches = batches

        def step(total: Any, images: Any, labels: Any) -> Any:
            logits = averaged_logits(model, images, flip, shift)
            return total + count(logits, labels), *likeliest(logits, apart=apart)

        self.step = tf.function(step, autograph=False)

    def evaluate(self, checkpoint: Path, share: int = 0, shares: int = 1) -> tuple[Counts, float]:
        """The counts of one checkpoint, and the seconds that it took, with loading."""
        began = time.monotonic()
        self.load(checkpoint)
        total = tf.zeros(len(fields(Counts)), tf.int64)
        for images, labels in self.batches(share, shares):
            total, _, _ = self.step(total, images, labels)
        return Counts(*total.numpy().tolist()), time.monotonic() - began

    def predict(self, checkpoint: Path, share: int = 0, shares: int = 1) -> list[list[Any]]:
        """What a checkpoint says of each image of a share, in the order of the pipeline.

        Returns:
            For each image, ready for JSON: its number in the set, its file name, its label, its
            likeliest classes and their probabilities, as `likeliest` orders them.
        """
        self.load(checkpoint)
        nothing, found = tf.zeros(len(fields(Counts)), tf.int64), list[list[Any]]()
        for images, labels, numbers, names in self.batches(share, shares, True):
            _, classes, probabilities = self.step(nothing, images, labels)
            texts = [name.decode(errors="replace") for name in names.numpy()]
            columns = [x.numpy().tolist() for x in (labels, classes, probabilities)]
            # The numbers and names end before the images that fill up the batch.
            rows = zip(numbers.numpy().tolist(), texts, *columns, strict=False)
            found += map(list, rows)
        return found
