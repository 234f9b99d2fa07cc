"""Training on one batch of noise: the speed of the model without an input pipeline."""

import keras
import tensorflow as tf

from core import keras_patches
from core.schedule import Stage
from datasets.records.schema import Records
from training.inputs import RunData
from training.recipes import Recipe

MARK = "-synthetic"


def marked(recipe: Recipe) -> Recipe:
    """The recipe under a name that shows that the data are not real.

    The name is only shown; `RunData.synthetic` decides what is trained on.
    """
    return recipe.model_copy(update={"name": recipe.name.removesuffix(MARK) + MARK})


def data_for(recipe: Recipe) -> RunData:
    """Stands for the records of a recipe: its number of images, in no files."""
    wanted = {(p.data_dir, p.prefix) for p in recipe.training_strategy.root}
    return RunData(
        {key: Records((), recipe.images, 1) for key in sorted(wanted)},
        Records((), 0, 1),
        synthetic=True,
    )


def batches(stage: Stage, recipe: Recipe, net: keras.Model) -> tf.data.Dataset:
    """Makes each step of `net` train on one batch that is already on its device.

    The batch is noise, with labels drawn by the recipe's seed. It replaces the elements of
    the dataset, which are single images: Keras needs to see their shape.

    Returns:
        A dataset with one element for each step of the stage.
    """
    height, width = stage.data.image_size
    count = stage.data.batch_size
    draw = tf.random.Generator.from_seed(recipe.seed)
    images = tf.cast(draw.uniform((count, height, width, 3), 0, 256, tf.int32), tf.uint8)
    labels = draw.uniform((count,), 0, recipe.classes, tf.int32)
    keras_patches.train_on_one_batch(net, (images, labels))
    form = (images[:1], labels[:1])
    return tf.data.Dataset.from_tensors(form).repeat(stage.steps)
