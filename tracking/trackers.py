"""The trackers that there are, and what each of them does."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError
from tracking.news import Point, Sent

TRACKERS = ("mlflow", "wandb")  # each is the name of its package, too
# MLflow's experiment and W&B's project, unless their own variables name another.
PROJECT = "imagenet-in-phases"


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run when it begins or takes it up."""

    name: str
    started: float  # when the run's clock showed 0, in seconds since 1970
    folder: Path  # for what the tracker itself writes
    live: bool  # the run is training now, on this machine


class Tracker(Protocol):
    """Gets a run, from one process at a time. What raises is called again later.

    Attributes:
        place: where it sends to; without a password.
        rows: the number of rows so far, which the tracker wants to know of the process before.
        leftovers: as in `Sent`.
    """

    place: str
    rows: int
    leftovers: str

    def open(self, about: About, sent: Sent) -> bool:
        """Begins the run, or takes it up; returns whether it certainly has nothing of it."""

    def address(self) -> str:
        """Where the user finds the open run."""

    def send_settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None: ...

    def send_points(self, points: Sequence[Point]) -> None: ...

    def send_file(self, path: Path) -> None: ...

    def close(self, finished: bool, seconds: float) -> None:
        """Ends the run, `seconds` after its start; returns when the tracker has everything."""


def make(name: str) -> Tracker:
    """The tracker of a name; its package is imported here."""
    if name == "mlflow":
        from tracking.to_mlflow import MLflowTracker

        return MLflowTracker()
    from tracking.to_wandb import WandbTracker

    return WandbTracker()


def check_installed(names: Iterable[str]) -> None:
    """Raises `UserError` for a tracker whose package is missing; imports none."""
    for name in names:
        found = importlib.util.find_spec(name)
        # A folder `wandb` in the working directory is found, too, but holds no package.
        if found is None or found.origin is None:
            raise UserError(
                f"{name}: its package is not installed here; "
                "`python -m pip install -r requirements-tracking.txt` installs it"
            )
