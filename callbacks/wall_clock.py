"""The wall-clock log: what was reached after how many seconds; and a bar that shows it."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm.auto import tqdm

from callbacks.agreement import average_over_workers
from callbacks.finite_loss import SkippedSteps
from callbacks.step_callback import StepCallback, at_least_one
from core import workers
from core.environment import shows_bars
from core.schedule import Schedule

# What a progress bar shows of a report, and how: a terminal of 100 columns has room for it.
FORMATS = {
    "phase": "phase {}",
    "image_size": "{} px",
    "images_per_second": "{:,.0f} im/s",
    "loss": "loss {:.3f}",
    "top1": "top-1 {:.1%}",
}
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def window_mean(now: float, count_now: int, before: float, count_before: int) -> float:
    """Mean of the values number `count_before` to `count_now` of a running mean."""
    return (now * count_now - before * count_before) / (count_now - count_before)


class WallClock(StepCallback):
    """Reports time, speed, rate and metrics; between reports it reads nothing from the device.

    The metrics are means over the steps since the last report and over all workers.

    Args:
        write: called on rank 0 with each report, a dict with `step` (steps done),
            `seconds`, `images_per_second` (of all workers), `learning_rate`, `batch_size`
            (per worker), `skipped_steps` (so far), the model's metrics by name (`loss`
            with the regularisation) and, with a schedule, `epoch` and `image_size`.
        every: steps between two reports; the end of a `fit` is reported too.
        schedule: the run's; or
        batch_size: images per worker and step.
        started: the `time.monotonic()` at second 0; by default the first `fit`'s start.
        skipped: as in `FiniteLoss`.

    Raises:
        ValueError: there is neither a schedule nor a batch size.

    Example:
        >>> model.fit(dataset, callbacks=[WallClock(print, every=100, batch_size=64)])
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        every: int,
        schedule: Schedule | None = None,
        batch_size: int | None = None,
        started: float | None = None,
        skipped: SkippedSteps | None = None,
    ):
        super().__init__()
        if schedule is None and batch_size is None:
            raise ValueError("WallClock needs a `schedule` or a `batch_size`. Received: neither")
        self.write = write
        self.every = at_least_one(every)
        self.schedule = schedule
        self.batch_size = batch_size
        self.started = started
        self.skipped = skipped

    def state(self) -> dict[str, Any]:
        """The window that is open, for a checkpoint; JSON."""
        began = {"epoch_began": self._epoch_began, "window_began": self._window_began}
        seconds = time.monotonic() - self._window_time
        return {**began, "window_seconds": seconds, "before": dict(self._before)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues a window that another process opened; restore the metrics, too."""
        self._epoch_began = state["epoch_began"]
        self._window_began = state["window_began"]
        self._window_time = time.monotonic() - state["window_seconds"]
        self._before: Mapping[str, float] = state["before"]

    def before_fit(self, step: int) -> None:
        if self.started is None:
            self.started = time.monotonic()
        self.skipped = self.skipped or SkippedSteps(self.model.optimizer, step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Keras resets its metrics here; a window starts with them.
        self._epoch_began = self._window_began = self.step
        self._window_time = time.monotonic()
        self._before = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.step > self._window_began:
            self._report(self.step)

    def before_step(self, step: int) -> None:
        if step % self.every == 0 and step > self._window_began:
            self._report(step)

    def _report(self, step: int) -> None:
        running = {name: float(value) for name, value in self.model.get_metrics_result().items()}
        now = time.monotonic()
        count, before = step - self._epoch_began, self._window_began - self._epoch_began
        metrics = {
            name: window_mean(value, count, self._before.get(name, 0.0), before)
            for name, value in running.items()
        }
        metrics = average_over_workers(metrics)
        if workers.current().is_first:
            self.write({**self._describe(step, now), **metrics})
        self._before, self._window_began, self._window_time = running, step, now

    def _describe(self, step: int, now: float) -> dict[str, Any]:
        if self.schedule is None:
            batch_size = self.batch_size or 0
            images = batch_size * workers.current().size * (step - self._window_began)
            row = {"learning_rate": float(self.model.optimizer.learning_rate)}
        else:
            # The step that ran last: at a boundary, the report is of the phase that ends.
            scheduled = self.schedule.phase_at(step - 1)
            batch_size = scheduled.phase.batch_size
            images = self.schedule.images_between(self._window_began, step)
            row = {
                "learning_rate": scheduled.learning_rate(step),
                "epoch": scheduled.epoch(step),
                "image_size": scheduled.phase.image_size[0],
            }
        return {
            "step": step,
            "seconds": now - (self.started or now),
            **row,
            "images_per_second": images / max(now - self._window_time, 1e-9),
            "batch_size": batch_size,
            "skipped_steps": self.skipped.at(step) if self.skipped else 0,
        }


class ProgressBar(StepCallback):
    """Shows steps and, by `show`, the last report of `WallClock`; on rank 0 only.

    Without a terminal or a notebook there is no bar.

    Args:
        total_steps: of the whole run.
        **options: of `tqdm`, such as `file` or `disable`.

    Example:
        >>> bar = ProgressBar(total_steps=1000)
        >>> model.fit(dataset, callbacks=[bar, WallClock(bar.show, every=50, batch_size=64)])
    """

    def __init__(self, total_steps: int, **options: Any):
        super().__init__()
        self.total_steps = total_steps
        hidden = not shows_bars()
        self._options = {"bar_format": BAR, "smoothing": 0.05, "disable": hidden, **options}
        if not workers.current().is_first:
            self._options["disable"] = True

    @functools.cached_property  # the bar appears when it is first used
    def bar(self) -> tqdm:
        return tqdm(total=self.total_steps, initial=self.initial_step, **self._options)

    def show(self, row: Mapping[str, Any]) -> None:
        """Puts what there is of a report's phase, size, speed and metrics behind the bar."""
        numbers = [text.format(row[name]) for name, text in FORMATS.items() if name in row]
        self.bar.set_postfix_str(" ".join(numbers), refresh=False)

    def before_step(self, step: int) -> None:
        self.bar.update(step - self.bar.n)

    def after_fit(self, step: int) -> None:
        self.bar.update(step - self.bar.n)
        if step >= self.total_steps:
            self.bar.close()
