"""What of a run folder a tracker does not have yet. Functions of files; nothing is sent here."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core import files
from core.clock import seconds_on
from core.errors import UserError
from core.settings import Evaluation, Settings
from training.recipes import load_recipe
from training.run_folder import EVALUATION_COLUMNS, TRAIN_COLUMNS, RunFolder

FIGURES = ("top1", "top5", "loss")


class Sent(Settings):
    """What a tracker has of a run, as it stands in the run folder.

    Attributes:
        key: identifies the run at the tracker; made before the first contact, so that an answer
            that was lost does not lead to a second run there.
        place: where it was sent; another place has nothing yet.
        workers: all steps are sent as so many workers count them.
        step: of the last row of train.csv.
        evaluations: the evaluated checkpoints, as `validation 625`.
        files: digest of each file.
        rows: the number of rows, as W&B counts them.
        closed: the tracker has said that it has it all, and that the run ended.
        leftovers: the command that sends what the tracker's own process has not; W&B's.
    """

    key: str
    place: str = ""
    workers: int = 1
    settings: bool = False
    step: int = 0
    evaluations: tuple[str, ...] = ()
    files: dict[str, str] = {}
    rows: int = 0
    closed: bool = False
    leftovers: str = ""

    def changed(self, **changes: Any) -> "Sent":
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Point:
    """Figures at a step; `seconds` on the run's clock. `name` says what it is for `Sent`."""

    name: str
    step: int
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class News:
    """What a tracker does not have yet. `files` are paths with the digests of their contents."""

    settings: bool
    points: tuple[Point, ...]
    files: tuple[tuple[Path, str], ...]

    def __str__(self) -> str:
        words = ["settings"] if self.settings else []
        words += [f"{len(self.points)} row(s)"] if self.points else []
        return ", ".join(words + ([f"{len(self.files)} file(s)"] if self.files else []))


def state_file(folder: RunFolder, tracker: str) -> Path:
    return folder.tracking / f"{tracker}.json"


def read_sent(folder: RunFolder, tracker: str) -> Sent | None:
    """What the tracker has by the run folder; None where nothing was ever sent.

    Raises:
        UserError: the file is damaged.
    """
    path = state_file(folder, tracker)
    try:
        return Sent.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(
            f"{path}: is damaged; delete it, and the run is sent to {tracker} anew"
        ) from None


def write_sent(folder: RunFolder, tracker: str, sent: Sent) -> None:
    files.write(state_file(folder, tracker), sent.model_dump_json(indent=2) + "\n")


def news(folder: RunFolder, sent: Sent, with_files: bool) -> News:
    """What the tracker does not have; of the files only `with_files`, as they change until the end.

    A resume cuts rows back and writes them again. A step that was sent is not sent again: a
    resumed run repeats it to the bit.
    """
    as_sent = RunFolder(folder.path)
    recipe, images = load_recipe(folder.recipe_file), folder.environment().get("images")
    as_sent.counted_by(recipe.schedule(sent.workers, images))
    points = (*_trained(as_sent, sent), *_evaluated(as_sent, sent, recipe.evaluation))
    return News(not sent.settings, points, tuple(_files(folder, sent)) if with_files else ())


def with_point(sent: Sent, point: Point) -> Sent:
    """`sent`, when a point was sent, too."""
    if point.name == "train":
        return sent.changed(step=point.step)
    return sent.changed(evaluations=(*sent.evaluations, f"{point.name} {point.step}"))


def _trained(folder: RunFolder, sent: Sent) -> Iterator[Point]:
    last = sent.step
    for row in folder.train_rows():
        if row["step"] > last:
            last = row["step"]
            yield _point("train", row, TRAIN_COLUMNS)


def _evaluated(folder: RunFolder, sent: Sent, settings: Evaluation) -> Iterator[Point]:
    own = settings.image_size, settings.crop, folder.own_data
    done = set(sent.evaluations)
    for row in folder.evaluation_rows():
        size, crop, data = way = row["image_size"], row["crop"], row["data"]
        # Other ways of evaluation have names of their own; MLflow allows no plus sign in one.
        other = f"validation-{crop.replace('+', '-')}-{size}"
        if data != folder.own_data:
            other += f"-{data}"
        point = _point("validation" if way == own else other, row, EVALUATION_COLUMNS)
        if (key := f"{point.name} {point.step}") not in done:
            done.add(key)
            yield point


def _point(name: str, row: Mapping[str, Any], columns: tuple[str, ...]) -> Point:
    wanted = columns if name == "train" else FIGURES
    figures = {
        f"{name}/{column}": float(row[column])
        for column in wanted
        if column != "step" and isinstance(row.get(column), int | float)
    }
    return Point(name, row["step"], float(row["seconds"]), figures)


def _files(folder: RunFolder, sent: Sent) -> Iterator[tuple[Path, str]]:
    """The files of the run folder itself: tables, log, report, pictures, model."""
    for path in sorted(folder.path.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path != folder.state_file:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
            if sent.files.get(path.name) != digest:
                yield path, digest


def started_at(folder: RunFolder) -> float:
    """When the run's clock showed 0, in seconds since 1970."""
    text = folder.environment()["started"]
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()


def end_of(folder: RunFolder) -> tuple[bool, float]:
    """Whether the run was trained and concluded, and what its clock shows at its last sign."""
    clock, trained = folder.clock_rows(), folder.train_rows()
    times = [*(seconds_on("everything", row) for row in clock), *(r["seconds"] for r in trained)]
    return any(row["event"] == "end" for row in clock), max(times, default=0.0)
