"""A run at MLflow: settings as parameters and tags, rows as metrics, files as artifacts.

MLflow's own variables say where and under which name: `MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID`, and those for credentials.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracking.news import Point, Sent
from tracking.trackers import PROJECT, About

KEY = "run_folder"  # the tag that identifies a run folder
# By itself, MLflow tries for minutes. What follows a run tries again anyway.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it is said here, too
}


class MLflowTracker:
    """See `Tracker`.

    A point's time is that of the run's clock, so that MLflow's relative time is the run's. It
    also makes a point that is sent twice the same point, which MLflow stores once.
    """

    rows = 0
    leftovers = ""

    def __init__(self) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import mlflow

        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        self.place = re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())

    def open(self, about: About, sent: Sent) -> bool:
        number = os.environ.get("MLFLOW_EXPERIMENT_ID")
        name = None if number else os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._mlflow.set_experiment(name, number).experiment_id
        self._started = about.started
        runs = self._client.search_runs([experiment], f"tags.{KEY} = '{sent.key}'")
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags, begun = {KEY: sent.key}, self._time(0)
            made = self._client.create_run(experiment, begun, tags, about.name)
            self._run = made.info.run_id
        self._page = f"experiments/{experiment}/runs/{self._run}"
        return not runs

    def address(self) -> str:
        if self.place.startswith("http"):
            return f"{self.place.rstrip('/')}/#/{self._page}"
        return f"run {self._run} in {self.place}"

    def send_settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        # Parameters are written once; of the environment, a resume may change something.
        entities = self._mlflow.entities
        params = [entities.Param(*pair) for pair in flat("", recipe)]
        tags = [entities.RunTag(*pair) for pair in flat("", environment)]
        self._client.log_batch(self._run, params=params, tags=tags)

    def send_points(self, points: Sequence[Point]) -> None:
        metric = self._mlflow.entities.Metric
        metrics = [
            metric(name, value, self._time(point.seconds), point.step)
            for point in points
            for name, value in point.figures.items()
        ]
        self._client.log_batch(self._run, metrics)

    def send_file(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, finished: bool, seconds: float) -> None:
        status = "FINISHED" if finished else "KILLED"
        self._client.set_terminated(self._run, status, self._time(seconds))

    def _time(self, seconds: float) -> int:
        """A time of the run's clock as MLflow counts: milliseconds since 1970."""
        return round((self._started + seconds) * 1000)


def flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested settings as `training_strategy.1.lr`, `[0.1, 0.05]`, in names that MLflow allows."""
    if isinstance(value, Mapping) and value:
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        pairs = [(str(number), inner) for number, inner in enumerate(value, 1)]
    else:
        yield re.sub(r"[^\w.\-/ :]", "_", name), str(value)
        return
    for key, inner in pairs:
        yield from flat(f"{name}.{key}" if name else key, inner)
