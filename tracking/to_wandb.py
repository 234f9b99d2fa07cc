"""A run at W&B: settings as its config, rows as its history, pictures, the model as an artifact.

W&B's own variables say where and how: `WANDB_MODE=offline`, `WANDB_PROJECT`, `WANDB_ENTITY`,
`WANDB_BASE_URL`, `WANDB_API_KEY`.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracking.news import Point, Sent
from tracking.trackers import PROJECT, About

INIT_SECONDS = 30.0


class WandbTracker:
    """See `Tracker`.

    W&B counts rows, and refuses a row that comes before the last one. Checkpoints are evaluated
    after later steps; so the rows have a count of their own, and `step` is a figure, and the axis
    of all others.
    """

    place = "wandb"

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb
        self.rows = 0
        self.leftovers = ""

    def open(self, about: About, sent: Sent) -> bool:
        wandb = self._wandb
        about.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            quiet=True,
            console="off",  # this process's own output; the run's log is sent as a file
            init_timeout=INIT_SECONDS,
            symlink=False,  # a run folder may be copied to another place
            x_disable_stats=not about.live,
            disable_git=True,
            x_save_requirements=False,  # the environment's versions are among the settings
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=sent.key,
            resume="allow",
            dir=about.folder,
            settings=settings,
        )
        self._started, self._step, self.rows = about.started, sent.step, sent.rows
        self.leftovers = shlex.join(["wandb", "sync", str(Path(self._run.dir).parent)])
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return False

    def address(self) -> str:
        return self._run.url or f"offline; `{self.leftovers}` sends it to W&B"

    def send_settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        found = {**recipe, "environment": environment}
        self._run.config.update(found, allow_val_change=True)

    def send_points(self, points: Sequence[Point]) -> None:
        for point in points:
            self._step = max(self._step, point.step)
            time = {"step": point.step, "seconds": point.seconds}
            self._log({**time, "_timestamp": self._started + point.seconds, **point.figures})

    def send_file(self, path: Path) -> None:
        run, wandb = self._run, self._wandb
        if path.suffix == ".keras":
            artifact = wandb.Artifact(f"model-{run.id}", type="model")
            artifact.add_file(str(path), policy="immutable")
            run.log_artifact(artifact)
        elif path.suffix == ".png":
            self._log({f"pictures/{path.stem}": wandb.Image(str(path)), "step": self._step})
        else:
            run.save(path, base_path=path.parent, policy="now", glob=False)

    def close(self, finished: bool, seconds: float) -> None:
        self._run.finish(exit_code=0 if finished else 1)

    def _log(self, row: Mapping[str, Any]) -> None:
        self._run.log(row, step=self.rows)
        self.rows += 1
