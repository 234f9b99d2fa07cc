"""One stage of a run: the data switch, then one `fit`."""

import gc
from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from core.schedule import Stage
from core.workers import Workers
from datasets.input.faults import Faults, name_in
from datasets.input.pipeline import records_in_order, training_pipeline
from training import synthetic
from training.inputs import RunData
from training.recipes import Recipe
from training.run import Run


def fit_stage(run: Run, stage: Stage, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Trains through one stage, as one `fit` of one epoch."""
    batches = batches_of(run, stage)
    run.model.fit(
        batches, steps_per_epoch=stage.steps, callbacks=callbacks, shuffle=False, verbose=0
    )
    del batches
    # The next stage is traced anew, at its own static shape; Keras would reuse this
    # stage's trace. Its graph and buffers are freed before the next one's are made.
    run.model.train_function = None
    gc.collect()


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
    """This worker's training batches of one stage.

    Args:
        stage: phases that share a pipeline.
        recipe: of the run.
        data: the run's records.
        team: this worker's place among the workers.
        threads: of the pipeline.
        faults: where bad records are noted; without it, the first one raises.
        skipped: global steps whose batch is left out.
    """
    phase = stage.data
    records = data.training[phase.data_dir, phase.prefix]
    return training_pipeline(
        records.files,
        batch_size=phase.batch_size,
        image_size=phase.image_size,
        steps_per_epoch=stage.steps_per_epoch,
        steps=stage.end - stage.first,
        done_steps=stage.begin - stage.first,
        classes=recipe.classes,
        augmentation=recipe.augmentation,
        label_offset=records.label_offset,
        keys=records.keys,
        seed=recipe.seed,
        first_step=stage.first,
        rank=team.rank,
        workers=team.size,
        counts=records.counts,
        threads=threads,
        shuffle_buffer=recipe.shuffle_buffer,
        faults=faults,
        passed_over=skipped,
    )


def names_in_batch(run: Run, step: int) -> list[str]:
    """File names of the records in this worker's batch of `step`, read again.

    The order of the records is a function of the seed and the step, so no list is kept.
    """
    while step in run.start.skipped_batches and step + 1 < run.schedule.total_steps:
        step += 1
    (stage,) = (s for s in run.schedule.stages(step) if s.begin == step)
    phase, records = stage.data, run.data.training[stage.data.data_dir, stage.data.prefix]
    done = stage.begin - stage.first
    ordered = records_in_order(
        records.files,
        phase.batch_size,
        stage.steps_per_epoch,
        first_epoch=done // stage.steps_per_epoch,
        epochs=done // stage.steps_per_epoch + 1,
        seed=run.recipe.seed,
        first_step=stage.first,
        rank=run.team.rank,
        workers=run.team.size,
        counts=records.counts,
        shuffle_buffer=run.recipe.shuffle_buffer,
        faults=faults_of(run.recipe, run.data),  # the run's own have been reported
    )
    batch = ordered.skip(done % stage.steps_per_epoch * phase.batch_size).take(phase.batch_size)
    return [name_in(record.numpy(), records.keys) for record in batch]


def faults_of(recipe: Recipe, data: RunData) -> Faults:
    """Where a worker's pipelines note bad records, with the recipe's limit."""
    return Faults(int(recipe.max_bad_records * max(data.images.values())))
