"""What is known of a run that was made, whatever it was written down in. No TensorFlow.

A record is read from a run folder, from a log in the original's format, or from a
DAWNBench entry, so that a run of today stands beside a published one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from core.clock import BUCKETS, CLOCKS, seconds_on
from core.errors import UserError
from core.schedule import Schedule, explain
from training.recipes import Recipe
from training.run_folder import RunFolder

MADE_BEFORE = (
    "no clock.csv: the run was made before there was one, so its time in buckets is not known; "
    "under DAWNBench's clock its times are at most those shown, which hold the writing of "
    "checkpoints"
)


@dataclass(frozen=True)
class Checkpoint:
    """An evaluated checkpoint.

    Attributes:
        step, epoch, images: done when it was written; None where not recorded.
        top1, top5: on the validation set, as fractions.
        loss: mean cross-entropy, where it was recorded.
        seconds: by clock, for those clocks that the record knows.
    """

    step: int | None
    epoch: float | None
    images: int | None
    top1: float
    top5: float
    loss: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class PhaseRecord:
    """A phase as it ran.

    Attributes:
        first, end: it ran the global steps `first` to `end - 1`.
        epoch: where it begins and ends; None where not recorded.
        images_per_second: of all workers, in its steps; None where not measured.
    """

    first: int
    end: int
    batch_size: int
    image_size: int
    epoch: tuple[float, float] | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        name: of the recipe or the log, and the folder where that tells more.
        source: what it was read from.
        kind: `"run folder"`, `"log"` or `"DAWNBench entry"`.
        checkpoints: those that were evaluated, by step.
        windows: rows of train.csv, or what the log's train lines say.
        phases: in order; empty where they are not known.
        schedule: of the whole strategy, where that is known.
        workers: how many; None where not recorded.
        at_most: clocks under which the times are upper bounds.
        totals: seconds of the whole run by clock.
        buckets: seconds in each bucket; None where not recorded.
        timelines: by clock, global steps and the seconds at which they were done.
        evaluation: how the checkpoints were evaluated, in words.
        remarks: what the reader has to know of the figures.
        settings: what repeats have in common: workers, the recipe without its name and seed,
            the validation records; None if unknown.
        facts: what else an export wants (model, classes, versions).
    """

    name: str
    source: Path
    kind: str
    checkpoints: tuple[Checkpoint, ...]
    windows: tuple[Mapping[str, Any], ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    schedule: Schedule | None = None
    workers: int | None = None
    at_most: frozenset[str] = frozenset()
    totals: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, float] | None = None
    timelines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    evaluation: str = "not recorded"
    remarks: tuple[str, ...] = ()
    settings: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clocks(self) -> tuple[str, ...]:
        """The clocks that this record can be read by."""
        return tuple(name for name in CLOCKS if name in self.totals)

    def seconds_at(self, step: int, clock: str) -> float:
        """Seconds on `clock` when `step` steps were done, between records on a line."""
        steps, seconds = self.timelines[clock]
        return float(np.interp(step, steps, seconds))


def read_record(path: Path) -> RunRecord:
    """Reads a run folder, a log (`.log`, `.txt`) or a DAWNBench entry (`.tsv`, `.json`).

    Raises:
        UserError: there is no such thing, or it holds nothing that can be reported.
    """
    from reports import dawnbench, log_file

    if path.is_dir():
        try:
            return read_run_folder(RunFolder(path))
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{path}: a file of this run is damaged ({reason})") from None
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a run folder, a log or a .tsv")
    if path.suffix in (".tsv", ".json"):
        return dawnbench.read_entry(path.with_suffix(".tsv"))
    return log_file.read_log(path)


def read_run_folder(run: RunFolder) -> RunRecord:
    """The record of a run folder, also of a run that is under way or broke off.

    Raises:
        UserError: it holds no run, or one that has neither trained nor evaluated yet.
    """
    if not run.holds_a_run:
        raise UserError(f"{run.path}: holds no run (there is no {run.recipe_file.name})")
    try:
        recipe = Recipe.model_validate(run.recipe())
    except ValidationError as error:
        raise UserError(f"{run.recipe_file}: {explain(error)}") from None
    environment = run.environment()
    workers = environment.get("workers") or recipe.workers
    schedule = recipe.schedule(workers, environment.get("images"))
    windows, written = run.train_rows(), run.noted_checkpoints()
    if not windows and not written:
        raise UserError(
            f"{run.path}: nothing to report; the run has no checkpoints and no {run.train_csv.name}"
        )
    times = _whole_clock(run.clock_rows(), written)
    timelines, totals = _clocks(times, written, windows)
    evaluated, evaluation = _evaluations(run)
    record = RunRecord(
        name=_name(recipe.name, run.path),
        source=run.path,
        kind="run folder",
        checkpoints=(),
        windows=tuple(windows),
        phases=tuple(_phases(schedule, times, windows)),
        schedule=schedule,
        workers=workers,
        at_most=frozenset() if times else frozenset({"dawnbench"}),
        totals=totals,
        buckets={name: max(row[name] for row in times) for name in BUCKETS} if times else None,
        timelines=timelines,
        evaluation=evaluation,
        remarks=tuple(_remarks(run, schedule, times, written, windows, evaluated)),
        settings=(
            workers,
            run.is_synthetic,
            recipe.model_copy(update={"seed": 0, "name": ""}).model_dump_json(),
            evaluated[0]["data"] if evaluated else run.own_data,
        ),
        facts={
            "model": recipe.model,
            "classes": recipe.classes,
            "images": schedule.images_in_short,
            "checkpoint_every": recipe.checkpoint_every,
            "written": len(written),
            "total_steps": schedule.total_steps,
            "epochs": schedule.phases[-1].phase.epoch[1],
            "strategy": [p.model_dump(mode="json") for p in recipe.training_strategy.root],
            "environment": environment,
        },
    )
    checkpoints = [
        Checkpoint(
            step=row["step"],
            epoch=schedule.epoch(row["step"]),
            images=schedule.images_between(0, row["step"]),
            top1=row["top1"],
            top5=row["top5"],
            loss=row["loss"],
            seconds={clock: record.seconds_at(row["step"], clock) for clock in totals},
        )
        for row in evaluated
    ]
    return replace(record, checkpoints=tuple(checkpoints))


def _clocks(
    times: list[dict[str, Any]], written: list[dict[str, Any]], windows: list[dict[str, Any]]
) -> tuple[dict[str, tuple[list[float], list[float]]], dict[str, float]]:
    """Timelines and totals by clock: all of them by clock.csv, else those without buckets."""
    timelines = {"everything": _timeline(written, windows, "seconds")}
    totals = {"everything": max(timelines["everything"][1])}
    if not times:
        return (
            {**timelines, "dawnbench": timelines["everything"]},
            {**totals, "dawnbench": totals["everything"]},
        )
    # Where a phase ends at a checkpoint, the time is that of the checkpoint.
    by_event = sorted(
        (r for r in times if r["event"] != "end"), key=lambda r: r["event"] != "phase"
    )
    rows = {row["step"]: row for row in by_event}
    for clock in CLOCKS:
        steps = sorted(rows)
        timelines[clock] = steps, [seconds_on(clock, rows[step]) for step in steps]
        totals[clock] = max(seconds_on(clock, row) for row in times)
    return timelines, totals


def _remarks(
    run: RunFolder,
    schedule: Schedule,
    times: list[dict[str, Any]],
    written: list[dict[str, Any]],
    windows: list[dict[str, Any]],
    evaluated: list[dict[str, Any]],
) -> Iterator[str]:
    if not times:
        yield MADE_BEFORE
    if run.is_synthetic:
        yield "trained on noise (--data synthetic): its rates are those without an input pipeline"
    elif not written:
        yield "the run has no checkpoints yet, so nothing to evaluate"
    elif not evaluated:
        yield (
            "no checkpoint is evaluated yet; "
            f"`python recipe.py evaluate --run_dir {run.path}` does it"
        )
    elif len(evaluated) < len(written):
        yield f"{len(written) - len(evaluated)} checkpoint(s) not evaluated yet"
    done = max(row["step"] for row in (*windows, *written))
    if done < schedule.total_steps:
        yield f"the run has done {done:,} of its {schedule.total_steps:,} steps"


def _name(recipe: str, path: Path) -> str:
    folder = path.resolve().name
    return folder if folder.startswith(recipe) else f"{recipe} ({folder})"


def _whole_clock(rows: list[dict[str, Any]], written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of clock.csv, or none where they do not cover the whole run."""
    noted = {_as_written(row): row["seconds"] for row in written}
    for row in rows:
        if row["event"] == "checkpoint" and _as_written(row) in noted:
            seconds = seconds_on("everything", row)
            if abs(seconds - noted[_as_written(row)]) > 1 + 0.01 * seconds:
                return []
    return rows


def _as_written(row: Mapping[str, Any]) -> tuple[int, int]:
    """What tells checkpoints apart whose steps are one for the workers of now."""
    return row["written_step"], row["workers"]


def _timeline(
    written: list[dict[str, Any]], windows: list[dict[str, Any]], key: str
) -> tuple[list[float], list[float]]:
    """Steps and seconds from both files; where both have a step, the checkpoint's."""
    found = {row["step"]: row[key] for row in (*windows, *written)}
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def _phases(
    schedule: Schedule, times: list[dict[str, Any]], windows: list[dict[str, Any]]
) -> list[PhaseRecord]:
    """The phases, with the rate of their steps by clock.csv, else by train.csv."""
    ends = {0: (0, 0.0)} | {
        row["step"]: (row["images"], row["steps"]) for row in times if row["event"] == "phase"
    }
    stages = {stage.first for stage in schedule.stages()}
    found = []
    for phase in schedule.phases:
        rate = None
        if phase.first in ends and phase.end in ends:
            images, seconds = np.subtract(ends[phase.end], ends[phase.first])
            rate = float(images / seconds) if seconds > 0 else None
        elif not times:
            rate = rate_of_windows(windows, phase.first, phase.end, phase.first in stages)
        found.append(
            PhaseRecord(
                phase.first,
                phase.end,
                phase.phase.batch_size,
                phase.phase.image_size[0],
                phase.phase.epoch,
                rate,
            )
        )
    return found


def rate_of_windows(
    windows: Sequence[Mapping[str, Any]], first: int, end: int, without_first: bool
) -> float | None:
    """Images a second over the report windows inside steps `first` to `end`.

    Args:
        windows: rows with `step`, `seconds` and `images_per_second`, by step.
        without_first: leave out the window of a stage's first step, with its trace.
    """
    before, images, total = 0, 0.0, 0.0
    for i, row in enumerate(windows):
        traced = without_first and before <= first
        if first <= before and row["step"] <= end and i and not traced:
            seconds = row["seconds"] - windows[i - 1]["seconds"]
            images += seconds * row["images_per_second"]
            total += seconds
        before = row["step"]
    return images / total if total > 0 else None


def _evaluations(run: RunFolder) -> tuple[list[dict[str, Any]], str]:
    """The evaluation that is reported, one row a step, and its description.

    Where checkpoints were evaluated in several ways, it is one on the run's own records,
    a plain centre crop, and of these the size that most of them have.
    """
    ways: dict[tuple[Any, ...], dict[tuple[int, int], dict[str, Any]]] = {}
    for row in sorted(run.evaluation_rows(), key=lambda row: row["step"]):
        way = row["data"], row["crop"], row["image_size"]
        ways.setdefault(way, {})[_as_written(row)] = row
    if not ways:
        return [], "none yet"
    own = run.own_data
    best = max(ways, key=lambda way: (way[0] == own, way[1] == "centre", len(ways[way])))
    found = {way: list(rows.values()) for way, rows in ways.items()}
    others = [_words(rows, own) for way, rows in found.items() if way != best]
    also = f" (also there: {'; '.join(others)})" if others else ""
    return found[best], _words(found[best], own) + also


def _words(rows: Sequence[Mapping[str, Any]], own: str) -> str:
    """How the checkpoints of these rows were evaluated."""
    row = rows[-1]
    crop = "plain centre crop" if row["crop"] == "centre" else row["crop"]
    on = "" if row["data"] == own else f" on {row['folder']} ({row['data']})"
    return f"{row['image_size']} px, {crop}{on}"
