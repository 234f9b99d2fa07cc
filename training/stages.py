"""One stage of a run: the data switch, then one `fit`."""

import fnmatch
import gc
import math
from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from core import keras_patches
from core.errors import UserError
from core.schedule import Schedule, Stage
from core.settings import Augmentation
from core.workers import Workers
from datasets.input.faults import Faults, name_in
from datasets.input.pipeline import ReadPlan, records_in_order, training_pipeline
from models.whitening import whiten
from training import synthetic
from training.inputs import RunData
from training.recipes import Recipe
from training.run import Run

HEAD = "head"  # a pattern of `freeze`
WHITENING_BATCH = 100  # images at once; their number is a multiple of it, or smaller


def fit_stage(run: Run, stage: Stage, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Trains through one stage, as one `fit` of one epoch."""
    batches = batches_of(run, stage)
    with keras_patches.frozen(run.model, frozen_layers(run.model, stage.data.freeze)):
        run.model.fit(
            batches, steps_per_epoch=stage.steps, callbacks=callbacks, shuffle=False, verbose=0
        )
    del batches
    # The next stage is traced anew, at its own static shape; Keras would reuse this
    # stage's trace. Its graph and buffers are freed before the next one's are made.
    run.model.train_function = None
    gc.collect()


def frozen_layers(model: keras.Model, patterns: Sequence[str]) -> list[keras.Layer]:
    """The layers of a model that shell patterns of their names freeze, in the model's order.

    They are those that match a pattern, or all where each pattern begins with `!`; without those
    that match a pattern after its `!`. The pattern `head` is the last layer that trains, where
    none has that name.

    Raises:
        ValueError: a pattern matches no layer with variables that train, or nothing else trains.
    """
    # By its variables: the layer `whitening` counts as frozen, but its bias trains.
    trained = {
        layer.name: layer for layer in model.layers if any(v.trainable for v in layer.variables)
    }
    left_out: set[str] = set()
    matched = set(trained) if patterns and all(p[0] == "!" for p in patterns) else set()
    for pattern in patterns:
        found = fnmatch.filter(trained, pattern.removeprefix("!"))
        if not found and pattern.removeprefix("!") == HEAD:
            found = [*trained][-1:]
        if not found:
            first = ", ".join([*trained][:6])
            raise ValueError(
                f"received {pattern!r}, which matches no layer that trains; the first of the "
                f"{len(trained)} that do are {first}"
            )
        (left_out if pattern[0] == "!" else matched).update(found)
    matched -= left_out
    if matched and matched == set(trained):
        raise ValueError(f"received {list(patterns)}, which leaves no layer that trains")
    return [layer for name, layer in trained.items() if name in matched]


def check_phases(model: keras.Model, schedule: Schedule) -> None:
    """Refuses what a phase asks of layers or of the optimizer and the compiled model cannot do.

    Raises:
        UserError: the message names the key, and the phase where not all have it.
    """
    for number, scheduled in enumerate(schedule.phases, 1):
        try:
            frozen_layers(model, scheduled.phase.freeze)
        except ValueError as error:
            raise UserError(f"phase {number}, key 'freeze': {error}") from None
    if schedule.momentum(0) is not None:
        try:
            keras_patches.momentum_setter(model.optimizer)
        except ValueError as error:
            raise UserError(f"key 'momentum' of the phases: {error}") from None


def batches_of(run: Run, stage: Stage) -> tf.data.Dataset:
    """The data switch: a pipeline with the batch, image size and folder of the stage."""
    run.log.clock.switch("data")
    if run.data.synthetic:
        return synthetic.batches(stage, run.recipe, run.model)
    return run.balance.watched(
        stage_pipeline(
            stage,
            run.recipe,
            run.data,
            run.team,
            run.threads,
            run.faults,
            run.start.skipped_batches,
        )
    )


def stage_pipeline(
    stage: Stage,
    recipe: Recipe,
    data: RunData,
    team: Workers,
    threads: int,
    faults: Faults | None = None,
    skipped: Collection[int] = (),
) -> tf.data.Dataset:
    """This worker's training batches of one stage, without those of the `skipped` steps."""
    phase = stage.data
    return training_pipeline(
        data.training[phase.data_dir, phase.prefix],
        read_plan(stage, recipe, team, threads),
        range(stage.begin, stage.end),
        image_size=phase.image_size,
        classes=recipe.classes,
        augmentation=phase.augmented(recipe.augmentation),
        faults=faults,
        skipped=skipped,
    )


def read_plan(stage: Stage, recipe: Recipe, team: Workers, threads: int = 2) -> ReadPlan:
    """How this worker reads the records of a stage."""
    return ReadPlan(
        batch_size=stage.data.batch_size,
        steps_per_epoch=stage.steps_per_epoch,
        seed=recipe.seed,
        first_step=stage.first,
        first_epoch=math.floor(stage.phases[0].phase.epoch[0] + 0.5),
        rank=team.rank,
        workers=team.size,
        shuffle_buffer=recipe.shuffle_buffer,
        threads=threads,
    )


def names_in_batch(run: Run, step: int) -> list[str]:
    """File names of the records in this worker's batch of `step`, read again.

    The order of the records is a function of the seed and the step, so no list is kept.
    """
    while step in run.start.skipped_batches and step + 1 < run.schedule.total_steps:
        step += 1
    (stage,) = (s for s in run.schedule.stages(step) if s.begin == step)
    records = run.data.training[stage.data.data_dir, stage.data.prefix]
    epoch, into_epoch = divmod(step - stage.first, stage.steps_per_epoch)
    ordered = records_in_order(
        records,
        read_plan(stage, run.recipe, run.team),
        range(epoch, epoch + 1),
        faults_of(run.recipe, run.data),  # the run's own have been reported
    )
    size = stage.data.batch_size
    batch = ordered.skip(into_epoch * size).take(size)
    return [name_in(record.numpy(), records.keys) for record in batch]


def faults_of(recipe: Recipe, data: RunData) -> Faults:
    """Where a worker's pipelines note bad records, with the recipe's limit."""
    return Faults(int(recipe.max_bad_records * max(data.images.values())))


def whiten_first(
    net: keras.Model, recipe: Recipe, data: RunData, team: Workers, threads: int
) -> None:
    """Whitens the model's first convolution by `whitening_images` of the training set.

    They are those of the last phase, whole and not augmented, in the order of the seed. Its
    kernel stays for all phases, and so it suits the size at which training ends. Noise
    (`data.synthetic`) would teach it nothing; there it keeps its random values. Rank 0 does it
    alone: `BroadcastFromFirst` gives the others its weights.
    """
    if not recipe.whitening_images or data.synthetic or not team.is_first:
        return
    phase = recipe.training_strategy.root[-1]
    records = data.training[phase.data_dir, phase.prefix]
    size = min(WHITENING_BATCH, recipe.whitening_images, records.images)
    steps = min(recipe.whitening_images, records.images) // size
    images = training_pipeline(
        records,
        ReadPlan(size, steps, recipe.seed, shuffle_buffer=1, threads=threads),
        range(steps),
        image_size=phase.image_size,
        classes=recipe.classes,
        augmentation=Augmentation(crop="none", flip=False),
        faults=faults_of(recipe, data),  # the run's own count each bad record once
    )
    whiten(net, (batch.numpy() for batch, _ in images))
