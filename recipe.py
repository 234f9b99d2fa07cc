"""Trains an image classifier in phases, on one worker or on many.

    python recipe.py --recipe demo
    python recipe.py --recipe finetune --images my_photos --init_from model.keras
    horovodrun -np 8 python recipe.py --recipe imagenet104 --data_dir DIR --run_dir RUN
    horovodrun -np 8 python recipe.py evaluate --run_dir RUN
    python recipe.py plan --recipe imagenet104 --workers 8 --at 0,625

`train` is the story of a run, from top to bottom. One step away from it are

- the learning rate of a step: `core/schedule.py`, set by `callbacks/phase_scheduler.py`;
- the loss, the decay and the optimizer: `training/model.py`, `compile_for_training`;
- the data switch between stages: `training/stages.py`, `batches_of`;
- the callbacks and their order: `training/callbacks_for.py`;
- what each of these is told to do: the recipe, `training/recipes.py` and `recipes/`.
"""

import time

STARTED = time.monotonic()  # the clock counts imports, data loading and tracing

import sys
from pathlib import Path
from typing import Any, get_args

import click
from click_default_group import DefaultGroup

from core import environment, workers
from core.board import board
from core.errors import RunError
from core.signals import SignalWatch
from launch import elastic, rendezvous, sagemaker, supervisor
from launch.commands import RECIPE, evaluate, export, plan, predict, report, track
from launch.launcher import launch
from tracking.beside import Followers
from tracking.trackers import TRACKERS
from training.recipes import Policy
from training.run import Options, start_run

environment.prepare()  # before Keras and TensorFlow are imported

DATA = click.Choice(["records", "synthetic"])
SYNTHETIC = "synthetic: the same batch of noise at every step, already on the device."


@click.group(cls=DefaultGroup, default="train")
def main() -> None:
    """Trains image classifiers in phases; `train` is the default command."""


main.add_command(plan)
main.add_command(launch)
main.add_command(report)
main.add_command(evaluate)
main.add_command(predict)
main.add_command(export)
main.add_command(track)


@main.command()
@RECIPE
@click.option("--data_dir", type=Path, help="Folder of the records (of `160`, `320`, ...).")
@click.option("--images", type=Path, help="Folder of class folders, made into records beside it.")
@click.option("--init_from", type=Path, metavar="FILE|RUN", help="Model to start from.")
@click.option("--run_dir", type=Path, help="Folder for the run; by default a new one in runs/.")
@click.option("--policy", type=click.Choice(get_args(Policy)), help="Keras dtype policy.")
@click.option("--data", type=DATA, default="records", help=SYNTHETIC)
@click.option("--track", type=click.Choice(TRACKERS), multiple=True, help="Send the run there.")
@click.option("--profile", metavar="FIRST:END", help="Trace these steps for TensorBoard.")
@click.option("--resume", is_flag=True, help="Resume the run in --run_dir.")
@click.option("--overwrite", is_flag=True, help="Delete the run in --run_dir first.")
def train(**options: Any) -> None:
    """Trains a recipe's model and evaluates its checkpoints."""
    watch = SignalWatch().install()
    rendezvous.meet()
    workers.join()
    options["resume"], options["run_dir"] = elastic.join_those_that_resume(
        options["resume"], options["run_dir"]
    )
    followers = Followers(options.pop("track"))
    run = start_run(Options(**options), STARTED)  # recipe, data, folder, model, first step
    supervisor.tell_how_to_resume(run.folder.path)
    if run.team.is_first:
        sagemaker.deliver_at_end(run.folder)
        followers.start(run.folder, run.log.say)

    # A mistake in the options was reported before these imports, which take seconds.
    from evaluation.run import evaluate_trained
    from reports.conclude import conclude
    from training.callbacks_for import callbacks_for
    from training.stages import fit_stage
    from training.translated_errors import translated_errors

    callbacks = callbacks_for(run, watch, board)
    with translated_errors(run.faults):
        for stage in run.schedule.stages(run.start.step):
            fit_stage(run, stage, callbacks)  # switch the data, trace once, train
        problems = evaluate_trained(run)  # every checkpoint, by all workers
    conclude(run)  # model.keras, report and pictures
    followers.finish()
    if problems:
        raise RunError(problems)


if __name__ == "__main__":
    sys.exit(supervisor.supervise(lambda: supervisor.exit_status(main)))
