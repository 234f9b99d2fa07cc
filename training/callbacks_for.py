"""The callbacks of a run, in the one order that works."""

from functools import partial

import keras

from callbacks.agreement import BroadcastFromFirst, SameWeights
from callbacks.bad_records import BadRecords
from callbacks.finite_loss import FiniteLoss
from callbacks.heartbeat import Board, Heartbeat
from callbacks.phase_scheduler import PhaseScheduler
from callbacks.profiler import Profiler
from callbacks.stage_clock import StageClock
from callbacks.step_callback import StepCallback
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.stop_on_signal import StopOnSignal
from callbacks.wall_clock import ProgressBar, WallClock
from core.signals import SignalWatch
from training.run import Run
from training.stages import names_in_batch


def callbacks_for(run: Run, watch: SignalWatch, board: Board) -> list[keras.callbacks.Callback]:
    """All callbacks of a run, starting at the run's first step.

    `watch` knows whether this worker was asked to stop; `board` shows that it is alive.
    """
    recipe, schedule, log = run.recipe, run.schedule, run.log
    boundaries = [phase.first for phase in schedule.phases]
    bar = ProgressBar(schedule.total_steps)
    heartbeat = Heartbeat(board)
    wall_clock = WallClock(
        lambda report: bar.show(log.note_report(report)),
        recipe.log_every,
        schedule,
        started=log.started,
        skipped=log.skipped,
    )
    finite = FiniteLoss(
        recipe.log_every,
        names=partial(names_in_batch, run),
        way_out=log.way_out,
        skipped=log.skipped,
        sign=heartbeat.waiting,
    )
    checkpoint = StepCheckpoint(
        run.folder.checkpoint_pattern(run.team.size),
        recipe.checkpoint_every,
        schedule.total_steps,
        peers=[finite, wall_clock, heartbeat],
        journal=log,
        clock=log.clock,
    )
    if run.start.restores_workers and run.start.checkpoint:
        checkpoint.resume_from(run.start.checkpoint)
    callbacks = [
        # First: it closes the step before, so the others' time is not taken for that step's.
        StageClock(log.clock, boundaries, log.note_time),
        # All workers start equal; SameWeights then has something to compare.
        BroadcastFromFirst(),
        # The rate is set before anyone reports or saves it.
        PhaseScheduler(schedule),
        SameWeights([*boundaries, run.start.step], log.note),
        # Whatever ends a run comes before what reports and saves it.
        finite,
        BadRecords(run.faults, recipe.log_every, log.note),
        wall_clock,
        bar,
        run.balance,
        # After all whose state it saves, and after FiniteLoss, whose check it relies on.
        checkpoint,
        # After the checkpoint: at a step that is saved anyway, it saves nothing more.
        StopOnSignal(watch, checkpoint),
        # Last: its sign says that the step itself begins, not the callbacks before it.
        heartbeat,
    ]
    if run.profiled and run.team.is_first:
        # After the clock, which waits for the device; a step's trace begins with its callbacks.
        callbacks.insert(1, Profiler(run.folder.tensorboard, run.profiled, log.say))
    for callback in callbacks:
        if isinstance(callback, StepCallback):
            callback.start_at(run.start.step)
    return callbacks
