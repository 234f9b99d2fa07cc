"""BatchNorm's statistics, estimated anew at the image size of the evaluation.

A network that was trained at other sizes has other activations at this one: the moving
averages of the training fit them less (Touvron et al. 2019, https://arxiv.org/abs/1906.06423;
Hoffer et al. 2019, https://arxiv.org/abs/1908.08986). Averaged weights have none of their own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from datasets.input.validation import statistics_pipeline
from datasets.records.schema import Records
from training.recipes import Recipe


def reestimator(model: keras.Model, batches: Iterable[Any]) -> Callable[[], None]:
    """A function that sets the moving statistics of a model's `BatchNormalization` layers.

    Each mean and variance becomes the plain average, over the batches, of those of one batch
    while the model runs as in training: what PyTorch's `update_bn` does, with Keras's variance,
    which divides by n. The weights do not change. Frozen layers keep their statistics.

    Args:
        model: a functional model; it is traced once.
        batches: of images, of one shape; read anew at each call.
    """
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    statistics = [
        (variable, 1 - layer.momentum)
        for layer in layers
        if layer.trainable
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    places = [id(variable) for variable in model.non_trainable_variables]

    @tf.function(autograph=False)
    def add_moments(total: list[Any], images: Any) -> list[Any]:
        # From 0, a moving statistic becomes its batch's times (1 - momentum).
        empty = {id(variable): tf.zeros_like(variable.value) for variable, _ in statistics}
        before = [empty.get(id(v), v.value) for v in model.non_trainable_variables]
        _, after = model.stateless_call(model.trainable_variables, before, images, training=True)
        moved = dict(zip(places, after, strict=True))
        return [
            so_far + tf.cast(moved[id(variable)], tf.float64) / share
            for so_far, (variable, share) in zip(total, statistics, strict=True)
        ]

    def reestimate() -> None:
        count, total = 0, [tf.zeros(variable.shape, tf.float64) for variable, _ in statistics]
        for images in batches:
            count, total = count + 1, add_moments(total, images)
        for (variable, _), value in zip(statistics, total, strict=True):
            variable.assign(value / count)

    return reestimate


def reestimator_of(
    model: keras.Model, recipe: Recipe, records: Records | None, threads: int
) -> Callable[[], None]:
    """The function that the recipe's evaluation asks for; it does nothing without `records`.

    A batch is as large as one of a worker in the recipe's last phase.
    """
    images = recipe.evaluation.statistics_images
    if records is None or images is None:
        return lambda: None
    batch_size = min(images, recipe.training_strategy.root[-1].batch_size)
    size = recipe.evaluation.image_size
    return reestimator(model, statistics_pipeline(records, images, size, batch_size, threads))
