"""Entries of the DAWNBench competition, ImageNet training: written, and read.

The format is that of github.com/stanford-futuredata/dawn-bench-entries: a JSON file
about the run and a TSV file of its curve, with the same name. The competition closed
in 2020; an entry can be compared with those published, but not ranked.
"""

import csv
import datetime
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.schedule import Schedule
from reports.run_record import Checkpoint, PhaseRecord, RunRecord, rate_of_windows

HEADER = ("epoch", "hours", "top1Accuracy", "top5Accuracy")
IMAGENET = 1281167


def _decimals(value: float, places: int) -> str:
    """As the published entry has them: rounded, without zeros at the end."""
    return f"{value:.{places}f}".rstrip("0").rstrip(".")


def tsv_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Epoch, hours and accuracies in percent of each checkpoint, as the entry has them.

    Epochs are images seen over images of the set, as the original logged them, but for
    the last checkpoint of a whole run: it is at the strategy's last epoch, as published.
    Of a run on sets of several lengths, they are the strategy's.
    Accuracies keep three decimals, which for 50,000 images is all there is: nothing
    rounds up to a target.
    """
    images, total = record.facts.get("images"), record.facts.get("total_steps")
    rows: list[tuple[str, ...]] = []
    for checkpoint in record.checkpoints:
        epoch = checkpoint.epoch or 0.0
        if isinstance(images, int) and checkpoint.images is not None:
            epoch = checkpoint.images / images
            if checkpoint.step == total:
                epoch = record.facts["epochs"]
        rows.append(
            (
                _decimals(epoch, 1),
                _decimals(checkpoint.seconds["dawnbench"] / 3600, 9),
                _decimals(100 * checkpoint.top1, 3),
                _decimals(100 * checkpoint.top5, 3),
            )
        )
    return rows


def entry(record: RunRecord, price: float | None = None) -> dict[str, Any]:
    """The JSON half. What only the submitter can say is there, and empty."""
    environment = record.facts.get("environment", {})
    packages = environment.get("packages", {})
    framework = f"Keras {packages.get('keras')} on TensorFlow {packages.get('tensorflow')}"
    if record.workers and record.workers > 1:
        framework += f" + Horovod {packages.get('horovod')}"
    found: dict[str, Any] = {
        "version": "v1.0",
        "author": "",
        "authorEmail": "",
        "framework": framework if packages else "",
        "codeURL": "",
        "model": record.facts.get("model", ""),
        "hardware": environment.get("machine", ""),
    }
    if price is not None:
        found["costPerHour"] = price
    started = environment.get("started", "")[:10]
    found["timestamp"] = started or datetime.datetime.now(datetime.UTC).date().isoformat()
    found["misc"] = {
        "workers": record.workers,
        "policy": environment.get("policy"),
        "evaluation": record.evaluation,
        "images": record.facts.get("images"),
        "classes": record.facts.get("classes"),
        "save_checkpoints_steps": record.facts.get("checkpoint_every"),
        "training_strategy": record.facts.get("strategy"),
    }
    return found


def write_entry(record: RunRecord, folder: Path, price: float | None = None) -> tuple[Path, Path]:
    """Writes the JSON and the TSV file; returns their paths.

    Raises:
        UserError: a run without evaluated checkpoints, or a folder that cannot be written.
    """
    if not record.checkpoints:
        raise UserError(f"{record.source}: no evaluated checkpoint, so no DAWNBench entry")
    name = re.sub(r"[^\w.-]+", "_", record.name).strip("_")
    paths = folder / f"{name}.json", folder / f"{name}.tsv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(entry(record, price), indent=2) + "\n")
        with paths[1].open("w", newline="") as file:
            # With the line ends of the published entries, which this dialect has.
            csv.writer(file, dialect="excel-tab").writerows([HEADER, *tsv_rows(record)])
    except OSError as error:
        raise UserError(f"--dawnbench {folder}: cannot be written: {error}") from None
    return paths


def read_entry(path: Path) -> RunRecord:
    """The record of a published entry: its TSV, and its JSON where that lies beside it.

    Steps and phases are known where the JSON holds the strategy and the steps between
    checkpoints, as the original's does, and the TSV's epochs agree with them.

    Raises:
        UserError: not such a file, or a row that is not four numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = [row for row in csv.reader(file, dialect="excel-tab") if row]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a DAWNBench entry is read from it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a DAWNBench entry: {error}") from None
    if tuple(cell.strip() for cell in header) != HEADER:
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
    about = _about(path.with_suffix(".json"))
    misc: dict[str, Any] = about["misc"] if isinstance(about.get("misc"), dict) else {}
    workers = misc.get("workers") or _workers_of(str(about.get("hardware", "")))
    images = misc.get("images") or IMAGENET
    schedule, steps = _steps(misc, workers, images, [row[0] for row in rows])
    seconds = [row[1] for row in rows]
    remarks = ["a DAWNBench entry: its hours count neither checkpoint writing nor evaluation"]
    if schedule is None:
        remarks.append("steps and phases are not in the entry")
    elif not misc.get("workers"):
        remarks.append(f"steps by the strategy in its JSON for {workers} workers")
    return RunRecord(
        name=path.stem,
        source=path,
        kind="DAWNBench entry",
        checkpoints=tuple(
            Checkpoint(
                step=step,
                epoch=epoch,
                images=_images_seen(schedule, step, epoch, images),
                top1=top1,
                top5=top5,
                loss=None,
                seconds={"dawnbench": time},
            )
            for step, (epoch, time, top1, top5) in zip(steps, rows, strict=True)
        ),
        phases=tuple(_phases(schedule, steps, seconds)) if schedule else (),
        schedule=schedule,
        workers=workers,
        totals={"dawnbench": seconds[-1]},
        timelines={"dawnbench": (steps, seconds)} if schedule else {},
        evaluation=misc.get("evaluation") or "not recorded",
        remarks=tuple(remarks),
        settings=("entry", path.resolve()),
        facts={"price": about.get("costPerHour"), "classes": misc.get("classes") or 1000},
    )


def _images_seen(
    schedule: Schedule | None, step: Any, epoch: float, images: int | dict[str, int]
) -> int | None:
    if schedule:
        return schedule.images_between(0, step)
    return round(epoch * images) if isinstance(images, int) else None


def _phases(schedule: Schedule, steps: list[int], seconds: list[float]) -> list[PhaseRecord]:
    """The phases, with the rate between those checkpoints that lie inside one."""
    rows = [{"step": steps[0], "seconds": seconds[0], "images_per_second": 0.0}]
    for i in range(1, len(steps)):
        images = schedule.images_between(steps[i - 1], steps[i])
        rate = images / max(seconds[i] - seconds[i - 1], 1e-9)
        rows.append({"step": steps[i], "seconds": seconds[i], "images_per_second": rate})
    return [
        PhaseRecord(
            p.first, p.end, p.phase.batch_size, p.phase.image_size[0], p.phase.epoch,
            rate_of_windows(rows, p.first, p.end, without_first=False),
        )
        for p in schedule.phases
    ]  # fmt: skip


def _about(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _workers_of(hardware: str) -> int | None:
    """The number of GPUs in a description such as "8*V100 (single p3.16xlarge)"."""
    found = re.match(r"(\d+) ?[*x]", hardware)
    return int(found[1]) if found else None


def _steps(
    misc: dict[str, Any],
    workers: int | None,
    images: int | dict[str, int],
    epochs: list[float],
) -> tuple[Schedule | None, list[Any]]:
    """The schedule and each checkpoint's step, where epochs and strategy agree to 0.1."""
    every = misc.get("save_checkpoints_steps")
    unknown = None, [None] * len(epochs)
    if not (workers and every and misc.get("training_strategy")):
        return unknown
    try:
        schedule = Schedule(misc["training_strategy"], workers, images)
    except UserError:
        return unknown
    steps = [min(i * every, schedule.total_steps) for i in range(len(epochs))]
    if isinstance(images, int):
        seen = [schedule.images_between(0, step) / images for step in steps]
    else:
        seen = [schedule.epoch(step) for step in steps]
    return (schedule, steps) if np.allclose(seen, epochs, atol=0.1) else unknown
