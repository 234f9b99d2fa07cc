"""One bar for the whole run, over all phases."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from callbacks.step_callback import StepCallback
from core import workers

FORMATS = {
    "epoch": "epoch {:.2f}",
    "phase": "phase {}",
    "image_size": "{} px",
    "learning_rate": "lr {:.4g}",
    "images_per_second": "{:,.0f} im/s",
    "loss": "loss {:.3f}",
    "top1": "top-1 {:.1%}",
    "top5": "top-5 {:.1%}",
}


class ProgressBar(StepCallback):
    """Shows steps and, by `show`, the last report of `WallClock`; on rank 0 only.

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
        # Under horovodrun the bar goes through a pipe, where each refresh is a line.
        seconds = 0.1 if sys.stderr.isatty() else 10.0
        self._options = {"unit": "step", "mininterval": seconds, "smoothing": 0.05, **options}
        if not workers.current().is_first:
            self._options["disable"] = True

    @functools.cached_property  # the bar appears when it is first used
    def bar(self) -> tqdm:
        return tqdm(total=self.total_steps, initial=self.initial_step, **self._options)

    def show(self, row: Mapping[str, Any]) -> None:
        """Puts what there is of a report's epoch, rate, speed and metrics behind the bar."""
        numbers = [text.format(row[name]) for name, text in FORMATS.items() if name in row]
        self.bar.set_postfix_str(" ".join(numbers), refresh=False)

    def before_step(self, step: int) -> None:
        self.bar.update(step - self.bar.n)

    def after_fit(self, step: int) -> None:
        self.bar.update(step - self.bar.n)
        if step >= self.total_steps:
            self.bar.close()
