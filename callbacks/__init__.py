"""Keras 3 callbacks for training in phases; each works alone, with or without Horovod."""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:  # `exports` reads these lines
    from callbacks.agreement import BroadcastFromFirst as BroadcastFromFirst
    from callbacks.agreement import MetricAverage as MetricAverage
    from callbacks.agreement import SameWeights as SameWeights
    from callbacks.bad_records import BadRecords as BadRecords
    from callbacks.finite_loss import FiniteLoss as FiniteLoss
    from callbacks.finite_loss import SkippedSteps as SkippedSteps
    from callbacks.heartbeat import Heartbeat as Heartbeat
    from callbacks.input_balance import InputBalance as InputBalance
    from callbacks.phase_scheduler import PhaseScheduler as PhaseScheduler
    from callbacks.profiler import Profiler as Profiler
    from callbacks.stage_clock import StageClock as StageClock
    from callbacks.step_callback import StepCallback as StepCallback
    from callbacks.step_checkpoint import Journal as Journal
    from callbacks.step_checkpoint import StepCheckpoint as StepCheckpoint
    from callbacks.stop_on_signal import StopOnSignal as StopOnSignal
    from callbacks.wall_clock import ProgressBar as ProgressBar
    from callbacks.wall_clock import WallClock as WallClock

__all__, __getattr__, __dir__ = exports(__name__, __file__)
