"""Training without an input pipeline: what the model alone reaches."""

from typing import Any

import keras
import tensorflow as tf

from core.schedule import Stage
from datasets.records.schema import Records
from training.inputs import RunData
from training.recipes import Recipe

MARK = "-synthetic"


def marked(recipe: Recipe) -> Recipe:
    """The recipe under a name that shows its reader that the data are not real.

    Nothing else depends on the name: `RunData.synthetic` decides.
    """
    return recipe.model_copy(update={"name": recipe.name.removesuffix(MARK) + MARK})


def data_for(recipe: Recipe) -> RunData:
    """Stands for the records of a recipe: as many images as it says, in no files."""
    wanted = {(p.data_dir, p.prefix) for p in recipe.training_strategy.root}
    return RunData(
        {key: Records((), recipe.images, 1) for key in sorted(wanted)},
        Records((), 0, 1),
        synthetic=True,
    )


def batches(stage: Stage, recipe: Recipe, net: keras.Model) -> tf.data.Dataset:
    """Has each step of `net` train on one batch that lies on its device.

    The batch, noise with labels drawn from the recipe's seed, takes the place of what
    the dataset gives: single images, for Keras wants to see their form.

    Returns:
        A dataset of as many elements as the stage has steps.
    """
    height, width = stage.data.image_size
    count = stage.data.batch_size
    draw = tf.random.Generator.from_seed(recipe.seed)
    images = tf.cast(draw.uniform((count, height, width, 3), 0, 256, tf.int32), tf.uint8)
    labels = draw.uniform((count,), 0, recipe.classes, tf.int32)
    step = type(net).train_step

    def train_step(_: Any) -> Any:
        return step(net, (images, labels))

    net.train_step = train_step
    form = (images[:1], labels[:1])
    return tf.data.Dataset.from_tensors(form).repeat(stage.steps)
