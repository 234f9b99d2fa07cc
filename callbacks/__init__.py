"""Keras 3 callbacks for training in phases; each works alone, with or without Horovod."""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:  # the same names as below
    from callbacks.bad_records import BadRecords as BadRecords
    from callbacks.broadcast import BroadcastFromFirst as BroadcastFromFirst
    from callbacks.finite_loss import FiniteLoss as FiniteLoss
    from callbacks.finite_loss import SkippedSteps as SkippedSteps
    from callbacks.heartbeat import Heartbeat as Heartbeat
    from callbacks.input_balance import InputBalance as InputBalance
    from callbacks.metric_average import MetricAverage as MetricAverage
    from callbacks.phase_scheduler import PhaseScheduler as PhaseScheduler
    from callbacks.progress_bar import ProgressBar as ProgressBar
    from callbacks.same_weights import SameWeights as SameWeights
    from callbacks.stage_clock import StageClock as StageClock
    from callbacks.step_callback import StepCallback as StepCallback
    from callbacks.step_checkpoint import Journal as Journal
    from callbacks.step_checkpoint import StepCheckpoint as StepCheckpoint
    from callbacks.stop_on_signal import StopOnSignal as StopOnSignal
    from callbacks.wall_clock import WallClock as WallClock

_MODULES = {
    "BadRecords": "bad_records",
    "BroadcastFromFirst": "broadcast",
    "FiniteLoss": "finite_loss",
    "SkippedSteps": "finite_loss",
    "Heartbeat": "heartbeat",
    "InputBalance": "input_balance",
    "MetricAverage": "metric_average",
    "PhaseScheduler": "phase_scheduler",
    "ProgressBar": "progress_bar",
    "SameWeights": "same_weights",
    "StageClock": "stage_clock",
    "StepCallback": "step_callback",
    "Journal": "step_checkpoint",
    "StepCheckpoint": "step_checkpoint",
    "StopOnSignal": "stop_on_signal",
    "WallClock": "wall_clock",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = exports(__name__, _MODULES)
