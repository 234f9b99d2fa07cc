"""Reads the record of a run: its folder, its log or its DAWNBench entry. No TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.clock import BUCKETS, CLOCKS, seconds_on
from core.errors import UserError
from core.schedule import Schedule
from evaluation import predictions
from reports import dawnbench, log_file
from reports.run_record import (
    EvaluatedCheckpoint,
    PhaseRecord,
    RunRecord,
    Timeline,
    phases_of,
    with_rates,
)
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder

Row = Mapping[str, Any]


def read_record(path: Path) -> RunRecord:
    """Reads a run folder, a log (`.log`, `.txt`) or a DAWNBench entry (`.tsv`, `.json`)."""
    if path.is_dir():
        try:
            return _read_run_folder(RunFolder(path))
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


def _read_run_folder(run: RunFolder) -> RunRecord:
    """The record of a run folder; the run may still be going on, or may have broken off."""
    if not run.holds_a_run:
        raise UserError(f"{run.path}: holds no run (there is no {run.recipe_file.name})")
    recipe = load_recipe(run.recipe_file)
    environment = run.environment()
    workers = environment.get("workers") or recipe.workers
    schedule = recipe.schedule(workers, environment.get("images"))
    windows, written = run.train_rows(), run.noted_checkpoints()
    if not windows and not written:
        raise UserError(
            f"{run.path}: nothing to report; the run has no checkpoints and no {run.train_csv.name}"
        )
    times = _whole_clock(run, written)
    timelines = _timelines(times, written, windows)
    if times:
        totals = {clock: max(seconds_on(clock, row) for row in times) for clock in CLOCKS}
    else:
        totals = {clock: max(seconds) for clock, (_, seconds) in timelines.items()}
    evaluated, evaluation = _evaluations(run)
    folder = run.path.resolve().name

    def checkpoint(row: Row) -> EvaluatedCheckpoint:
        step, figures = row["step"], (row["top1"], row["top5"], row["loss"])
        seconds = {clock: float(np.interp(step, *line)) for clock, line in timelines.items()}
        images = schedule.images_between(0, step)
        return EvaluatedCheckpoint(step, schedule.epoch(step), images, *figures, seconds)

    return RunRecord(
        name=folder if folder.startswith(recipe.name) else f"{recipe.name} ({folder})",
        source=run.path,
        kind="run folder",
        checkpoints=tuple(map(checkpoint, evaluated)),
        windows=tuple(windows),
        phases=tuple(_phases(schedule, times, windows)),
        schedule=schedule,
        workers=workers,
        at_most=frozenset() if times else frozenset({"dawnbench"}),
        totals=totals,
        buckets={name: max(row[name] for row in times) for name in BUCKETS} if times else None,
        timelines=timelines,
        evaluation=evaluation,
        remarks=tuple(_remarks(run, schedule, times, (*windows, *written), len(evaluated))),
        predictions=_predictions(run, written),
        settings=(
            workers,
            run.is_synthetic,
            recipe.model_copy(update={"seed": 0, "name": ""}).model_dump_json(),
            evaluated[0]["data"] if evaluated else run.own_data,
        ),
        facts={
            "model": recipe.model,
            "classes": recipe.classes,
            "checkpoint_every": recipe.checkpoint_every,
            "written": len(written),
            "environment": environment,
            "recipe": run.recipe_file.read_text(encoding="utf-8"),
            "class names": run.classes() or tuple(map(str, range(recipe.classes))),
            "images": _folder_of_images(recipe, environment, evaluated),
        },
    )


def _predictions(run: RunFolder, written: Sequence[Row]) -> predictions.Predictions | None:
    """What the last checkpoint says of each image; not what one before a resume said."""
    found = predictions.read(run.predictions_csv)
    is_of_the_last = found and written and found.checkpoint == predictions.identity(written[-1])
    return found if is_of_the_last else None


def _folder_of_images(recipe: Recipe, environment: Row, evaluated: Sequence[Row]) -> Path | None:
    """Where the validation records were when the last checkpoint was evaluated."""
    if evaluated and evaluated[-1]["folder"]:
        return Path(evaluated[-1]["folder"])
    root = environment.get("data_dir")
    return Path(root) / recipe.evaluation.data_dir if root else None


def _whole_clock(run: RunFolder, written: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of clock.csv, or none where they do not cover the whole run."""
    rows = run.clock_rows()
    noted = {run.checkpoint_of(row): row["seconds"] for row in written}
    for row in rows:
        seconds = seconds_on("everything", row)
        expected = noted.get(run.checkpoint_of(row), seconds)
        if row["event"] == "checkpoint" and abs(seconds - expected) > 1 + 0.01 * seconds:
            return []
    return rows


def _timelines(
    times: Sequence[Row], written: Sequence[Row], windows: Sequence[Row]
) -> dict[str, Timeline]:
    """By all clocks from the rows of clock.csv; without them by those that need no buckets."""
    if not times:
        # Where both have a step, the time is the checkpoint's.
        seconds = {row["step"]: row["seconds"] for row in (*windows, *written)}
        line = sorted(seconds), [seconds[step] for step in sorted(seconds)]
        return {"everything": line, "dawnbench": line}
    # Where a phase ends at a checkpoint, the time is the checkpoint's.
    events = ("phase", "checkpoint")
    rows = {row["step"]: row for event in events for row in times if row["event"] == event}
    steps = sorted(rows)
    return {clock: (steps, [seconds_on(clock, rows[step]) for step in steps]) for clock in CLOCKS}


def _phases(
    schedule: Schedule, times: Sequence[Row], windows: Sequence[Row]
) -> Iterator[PhaseRecord]:
    """The phases, with the rate of their steps by clock.csv, else by train.csv."""
    if not times:
        traced = {stage.first for stage in schedule.stages()}
        yield from with_rates(phases_of(schedule), windows, traced)
        return
    ends = {row["step"]: (row["images"], row["steps"]) for row in times if row["event"] == "phase"}
    ends[0] = 0, 0.0
    for phase in phases_of(schedule):
        if phase.first in ends and phase.end in ends:
            images, seconds = np.subtract(ends[phase.end], ends[phase.first])
            if seconds > 0:
                phase = replace(phase, images_per_second=float(images / seconds))
        yield phase


def _evaluations(run: RunFolder) -> tuple[list[dict[str, Any]], str]:
    """The evaluation that is reported, one row a step, and its description.

    Where checkpoints were evaluated in several ways, it is one on the run's own records,
    then a plain centre crop, then the size at which most of them were evaluated.
    """
    own = run.own_data
    ways: dict[tuple[Any, ...], dict[Path, dict[str, Any]]] = {}
    for row in sorted(run.evaluation_rows(), key=lambda row: row["step"]):
        way = row["data"], row["crop"], row["image_size"]
        ways.setdefault(way, {})[run.checkpoint_of(row)] = row
    if not ways:
        return [], "none yet"
    best = max(ways, key=lambda way: (way[0] == own, way[1] == "centre", len(ways[way])))
    words = {}
    for way, rows in ways.items():
        data, crop, size = way
        on = "" if data == own else f" on {list(rows.values())[-1]['folder']} ({data})"
        words[way] = f"{size} px, {'plain centre crop' if crop == 'centre' else crop}{on}"
    others = "; ".join(words[way] for way in ways if way != best)
    found = list(ways[best].values())
    return found, words[best] + (f" (also there: {others})" if others else "")


def _remarks(
    run: RunFolder, schedule: Schedule, times: Sequence[Row], noted: Sequence[Row], evaluated: int
) -> Iterator[str]:
    written = run.noted_checkpoints()
    if not times:
        yield (
            "no clock.csv (a run of an older version): the times include writing checkpoints, so "
            "under DAWNBench's clock they are upper bounds"
        )
    if run.is_synthetic:
        yield "trained on noise (--data synthetic): its rates are those without an input pipeline"
    elif not written:
        yield "the run has no checkpoints yet, so there is nothing to evaluate"
    elif not evaluated:
        yield (
            f"no checkpoint is evaluated yet; run `python recipe.py evaluate --run_dir {run.path}`"
        )
    elif evaluated < len(written):
        yield f"{len(written) - evaluated} checkpoint(s) not evaluated yet"
    done = max(row["step"] for row in noted)
    if done < schedule.total_steps:
        yield f"the run has done {done:,} of its {schedule.total_steps:,} steps"
