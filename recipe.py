"""Trains an image classifier in phases, on one worker or on many.

    python recipe.py --recipe demo
    horovodrun -np 8 python recipe.py --recipe imagenet104 --data_dir DIR --run_dir RUN
    horovodrun -np 8 python recipe.py evaluate --run_dir RUN
    python recipe.py plan --recipe imagenet104 --workers 8 --at 0,625

A run goes through `train` from top to bottom: join the workers, read the recipe and
find its data, build the model, fit one stage after the other, evaluate, report.
"""

import time

STARTED = time.monotonic()  # the clock counts imports, data loading and tracing

import gc
import os
import sys
from pathlib import Path
from typing import get_args

import click
from click_default_group import DefaultGroup

from core import workers
from core.errors import RunError
from core.signals import SignalWatch
from launch import elastic, sagemaker, supervisor
from launch.commands import RECIPE, evaluate, launch, plan, report
from launch.main import run_command_line
from training.recipes import Policy
from training.start import prepare

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Where there is no GPU, TensorFlow's complaints about CUDA help nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if workers.has_gpu_driver() else "3")


@click.group(cls=DefaultGroup, default="train")
def main() -> None:
    """Trains image classifiers in phases; `train` is the default command."""


main.add_command(plan)
main.add_command(launch)
main.add_command(report)
main.add_command(evaluate)


@main.command()
@RECIPE
@click.option("--data_dir", type=Path, help="Folder of the records (of `160`, `320`, ...).")
@click.option("--run_dir", type=Path, help="Folder for the run; by default a new one in runs/.")
@click.option("--policy", type=click.Choice(get_args(Policy)), help="Keras dtype policy.")
@click.option("--data", type=click.Choice(["records", "synthetic"]), default="records",
              help="synthetic: one batch again and again, on the device.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the run in --run_dir.")
@click.option("--overwrite", is_flag=True, help="Delete the run in --run_dir first.")
def train(recipe_name, data_dir, run_dir, policy, data, resume, overwrite):
    """Trains a recipe's model and evaluates its checkpoints."""
    watch = SignalWatch().install()
    team = workers.join()
    resume, run_dir = elastic.join_those_that_resume(resume, run_dir)
    now = workers.from_first(time.strftime("%Y%m%d-%H%M%S"))
    recipe, data, schedule, run = workers.together(
        lambda: prepare(team, now, recipe_name, data_dir, run_dir, data, resume, overwrite)
    )
    if team.is_first:
        sagemaker.deliver_at_end(run)

    from callbacks.bad_records import BadRecords
    from callbacks.broadcast import BroadcastFromFirst
    from callbacks.finite_loss import FiniteLoss
    from callbacks.heartbeat import Heartbeat
    from callbacks.input_balance import InputBalance
    from callbacks.phase_scheduler import PhaseScheduler
    from callbacks.progress_bar import ProgressBar
    from callbacks.same_weights import SameWeights
    from callbacks.stage_clock import StageClock
    from callbacks.step_callback import StepCallback
    from callbacks.step_checkpoint import StepCheckpoint
    from callbacks.stop_on_signal import StopOnSignal
    from callbacks.wall_clock import WallClock
    from core import devices
    from evaluation.run import evaluate_trained
    from training import model, synthetic
    from training.run_log import Scribe, faults_of, in_plain_words, stage_pipeline, step_names

    threads = devices.prepare_devices(team)
    policy, remark = devices.choose_policy(recipe.policy, policy)
    devices.set_numerics(policy, recipe.seed, recipe.xla, recipe.deterministic)
    net = workers.together(lambda: model.build(recipe))
    workers.together(lambda: model.compile_for_training(net, recipe, policy))

    scribe = Scribe(run, schedule, STARTED, data)
    start = scribe.begin(team, recipe, net, policy, resume, overwrite, remark)
    supervisor.tell_how_to_resume(run.path)
    done = start.step
    bar = ProgressBar(schedule.total_steps)
    wall_clock = WallClock(
        scribe.note_training(bar), recipe.log_every, schedule,
        started=scribe.started, skipped=scribe.skipped,
    )  # fmt: skip
    heartbeat = Heartbeat(supervisor.board)
    finite = FiniteLoss(
        recipe.log_every, way_out=scribe.way_out, skipped=scribe.skipped,
        sign=heartbeat.waiting,
        names=lambda step: step_names(step, schedule, recipe, data, team, start.passed_over),
    )  # fmt: skip
    checkpoint = StepCheckpoint(
        run.checkpoint_pattern(team.size), recipe.checkpoint_every, schedule.total_steps,
        peers=[wall_clock, finite, heartbeat], journal=scribe, clock=scribe.clock,
    )  # fmt: skip
    if start.checkpoint and start.restores_workers:
        checkpoint.resume_from(start.checkpoint)
    phases = [p.first for p in schedule.phases]
    balance = InputBalance(scribe.note, schedule.total_steps, threads)
    faults = faults_of(recipe, data)
    callbacks = [
        StageClock(scribe.clock, phases, scribe.note_time),
        BroadcastFromFirst(),
        PhaseScheduler(schedule),
        SameWeights([*phases, done]),
        finite,
        BadRecords(faults, recipe.log_every, faults.limit, scribe.note),
        wall_clock,
        bar,
        balance,
        checkpoint,
        StopOnSignal(watch, checkpoint),
        heartbeat,
    ]
    for callback in callbacks:
        if isinstance(callback, StepCallback):
            callback.start_at(done)
    scribe.clock.switch("data")
    with in_plain_words(faults):
        for stage in schedule.stages(done):
            if data.synthetic:
                batches = synthetic.batches(stage, recipe, net)
            else:
                batches = balance.watched(
                    stage_pipeline(stage, recipe, data, team, threads, faults, start.passed_over)
                )
            net.fit(
                batches, steps_per_epoch=stage.steps, callbacks=callbacks, shuffle=False, verbose=0
            )
            del batches
            # The next stage is traced anew, at its own static shape; Keras would reuse this
            # one's trace. Its graph and buffers go before the next one's come.
            net.train_function = None
            gc.collect()
        if data.synthetic:
            scribe.conclude_synthetic()
            return
        scribe.clock.switch("evaluation")
        problems = evaluate_trained(run, recipe, data.validation, team, threads, scribe)
    if team.is_first:
        scribe.clock.switch("checkpoints")
        model.save_result(recipe, run.checkpoint_of(run.checkpoint_rows()[-1]), run.model)
        scribe.conclude()
    if problems:
        raise RunError(problems)


if __name__ == "__main__":
    sys.exit(run_command_line(main))
