"""Entries of the DAWNBench competition, ImageNet training: written and read. No TensorFlow.

The format is that of github.com/stanford-futuredata/dawn-bench-entries: a JSON file about
the run and a TSV file of its curve, with the same name. The competition closed in 2020; an
entry can be compared with the published ones, but not ranked.
"""

import csv
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.schedule import Schedule
from reports.run_record import EvaluatedCheckpoint, RunRecord, phases_of, with_rates

HEADER = ["epoch", "hours", "top1Accuracy", "top5Accuracy"]
IMAGENET = 1281167

Images = int | dict[str, int]  # of the training set, or of each of its sets


def _decimals(value: float, places: int) -> str:
    """As the published entry has them: rounded, without zeros at the end."""
    return f"{value:.{places}f}".rstrip("0").rstrip(".")


def _own_schedule(record: RunRecord) -> Schedule | None:
    """The schedule by which the run counted; the epochs of an entry are already an entry's."""
    return record.schedule if record.kind == "run folder" else None


def tsv_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Epoch, hours and accuracies in percent of each checkpoint, as the entry has them.

    The epochs are images seen over images of the set, as the original logged them, with two
    exceptions: the last checkpoint of a whole run is at the strategy's last epoch, as
    published, and a run on sets of several lengths has the strategy's epochs. Accuracies keep
    three decimals, which is exact for 50,000 images: nothing rounds up to a target.
    """
    schedule = _own_schedule(record)
    rows: list[tuple[str, ...]] = []
    for checkpoint in record.checkpoints:
        epoch = checkpoint.epoch or 0.0
        if schedule and isinstance(schedule.images_in_short, int):
            epoch = (checkpoint.images or 0) / schedule.images_in_short
            if checkpoint.step == schedule.total_steps:
                epoch = schedule.phases[-1].phase.epoch[1]
        hours = checkpoint.seconds["dawnbench"] / 3600
        percents = (_decimals(100 * value, 3) for value in (checkpoint.top1, checkpoint.top5))
        rows.append((_decimals(epoch, 1), _decimals(hours, 9), *percents))
    return rows


def entry(record: RunRecord, price: float | None = None) -> dict[str, Any]:
    """The JSON half. The fields that only the submitter knows are there, and empty."""
    environment = record.facts.get("environment", {})
    packages = environment.get("packages", {})
    framework = f"Keras {packages.get('keras')} on TensorFlow {packages.get('tensorflow')}"
    if record.workers and record.workers > 1:
        framework += f" + Horovod {packages.get('horovod')}"
    started = environment.get("started", "")[:10]
    schedule = _own_schedule(record)
    return {
        "version": "v1.0",
        "author": "",
        "authorEmail": "",
        "framework": framework if packages else "",
        "codeURL": "",
        "model": record.facts.get("model", ""),
        "hardware": environment.get("machine", ""),
        **({} if price is None else {"costPerHour": price}),
        "timestamp": started or datetime.datetime.now(datetime.UTC).date().isoformat(),
        "misc": {
            "workers": record.workers,
            "policy": environment.get("policy"),
            "evaluation": record.evaluation,
            "images": schedule and schedule.images_in_short,
            "classes": record.facts.get("classes"),
            "save_checkpoints_steps": record.facts.get("checkpoint_every"),
            "training_strategy": schedule
            and [phase.phase.model_dump(mode="json") for phase in schedule.phases],
        },
    }


def write_entry(record: RunRecord, folder: Path, price: float | None = None) -> tuple[Path, Path]:
    """Writes the JSON and the TSV file; returns their paths."""
    if not record.checkpoints:
        raise UserError(f"{record.source}: no evaluated checkpoint, so no DAWNBench entry")
    name = re.sub(r"[^\w.-]+", "_", record.name).strip("_")
    about, curve = folder / f"{name}.json", folder / f"{name}.tsv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps(entry(record, price), indent=2) + "\n")
        with curve.open("w", newline="") as file:
            # This dialect has the line ends of the published entries.
            csv.writer(file, dialect="excel-tab").writerows([HEADER, *tsv_rows(record)])
    except OSError as error:
        raise UserError(f"--dawnbench {folder}: cannot be written: {error}") from None
    return about, curve


def read_entry(path: Path) -> RunRecord:
    """The record of a published entry: its TSV, and its JSON where that lies beside it.

    Steps and phases are known where the JSON holds the strategy and the steps between
    checkpoints, as the original's does, and the TSV's epochs agree with them.
    """
    curve = _read_curve(path)
    epochs, seconds = [row[0] for row in curve], [row[1] for row in curve]
    about = _read_about(path.with_suffix(".json"))
    misc: dict[str, Any] = about["misc"] if isinstance(about.get("misc"), dict) else {}
    gpus = re.match(r"(\d+) ?[*x]", str(about.get("hardware", "")))  # 8*V100 (single p3.16xlarge)
    workers = misc.get("workers") or (int(gpus[1]) if gpus else None)
    images: Images = misc.get("images") or IMAGENET
    remarks = ["a DAWNBench entry: its hours count neither checkpoint writing nor evaluation"]
    seen: list[Any]
    if found := _schedule(misc, workers, images, epochs):
        schedule, steps = found
        seen = [schedule.images_between(0, step) for step in steps]
        rates = np.diff(seen, prepend=0) / np.maximum(np.diff(seconds, prepend=0), 1e-9)
        windows = [
            {"step": step, "seconds": second, "images_per_second": rate}
            for step, second, rate in zip(steps, seconds, rates.tolist(), strict=True)
        ]
        known: dict[str, Any] = {
            "schedule": schedule,
            "phases": tuple(with_rates(phases_of(schedule), windows, traced=())),
            "timelines": {"dawnbench": (steps, seconds)},
        }
        if not misc.get("workers"):
            remarks.append(f"steps by the strategy in its JSON for {workers} workers")
    else:
        steps, known = [None] * len(curve), {}
        seen = [round(epoch * images) if isinstance(images, int) else None for epoch in epochs]
        remarks.append("steps and phases are not in the entry")
    return RunRecord(
        name=path.stem,
        source=path,
        kind="DAWNBench entry",
        checkpoints=tuple(
            EvaluatedCheckpoint(step, epoch, count, top1, top5, None, {"dawnbench": time})
            for step, count, (epoch, time, top1, top5) in zip(steps, seen, curve, strict=True)
        ),
        workers=workers,
        totals={"dawnbench": seconds[-1]},
        evaluation=misc.get("evaluation") or "not recorded",
        remarks=tuple(remarks),
        settings=("entry", path.resolve()),
        facts={
            "price": about.get("costPerHour"),
            "classes": misc.get("classes") or 1000,
            "label": misc.get("label"),
        },
        **known,
    )


def _read_curve(path: Path) -> list[tuple[float, float, float, float]]:
    """Epoch, seconds, and top-1 and top-5 as fractions, of each checkpoint."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = [row for row in csv.reader(file, dialect="excel-tab") if row]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a DAWNBench entry is read from it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a DAWNBench entry: {error}") from None
    if [cell.strip() for cell in header] != HEADER:
        raise UserError(f"{path}: the first line is not {' '.join(HEADER)}, but {header!r}")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            epoch, hours, top1, top5 = map(float, line)
        except ValueError:
            raise UserError(f"{path}, line {number}: not four numbers: {line!r}") from None
        rows.append((epoch, round(hours * 3600, 2), top1 / 100, top5 / 100))
    if not rows:
        raise UserError(f"{path}: holds no checkpoints")
    return rows


def _read_about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _schedule(
    misc: Mapping[str, Any], workers: int | None, images: Images, epochs: Sequence[float]
) -> tuple[Schedule, list[Any]] | None:
    """The schedule and each checkpoint's step, where epochs and strategy agree to 0.1."""
    every = misc.get("save_checkpoints_steps")
    if not (workers and every and misc.get("training_strategy")):
        return None
    try:
        schedule = Schedule(misc["training_strategy"], workers, images)
    except UserError:
        return None
    steps = [min(i * every, schedule.total_steps) for i in range(len(epochs))]
    if isinstance(images, int):
        seen = [schedule.images_between(0, step) / images for step in steps]
    else:
        seen = [schedule.epoch(step) for step in steps]
    return (schedule, steps) if np.allclose(seen, epochs, atol=0.1) else None
