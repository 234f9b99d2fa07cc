"""Logs in the original's format, of this project or of the original itself. No TensorFlow."""

import ast
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from reports.run_record import EvaluatedCheckpoint, PhaseRecord, RunRecord, with_rates
from training import log_format


def read_log(path: Path) -> RunRecord:
    """The record in a log's `Log @train` and `Log @eval` lines.

    A checkpoint's time is the `tm` of the train line of its step. Without such a line it is
    interpolated between two train lines; after the last of them it is the time at which the
    log says `Finished`. Where a run was resumed, later lines replace earlier ones.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a log: {error}") from None
    windows, evaluated = _lines(path, text)
    if not windows:
        raise UserError(f"{path}: no `Log @train:` line; name a run folder, a log or a .tsv")
    steps, seconds = ([row[name] for row in windows] for name in ("step", "seconds"))
    epochs = {row["step"]: row["epoch"] for row in windows if "epoch" in row}
    strategy = _strategy(text)
    phases = strategy or _phases_of(windows)
    last = max([*steps, *evaluated])
    if strategy and strategy[-1].epoch:
        epochs.setdefault(last, strategy[-1].epoch[1])
    finished = log_format.FINISHED.search(text)
    if finished and last > steps[-1]:
        steps.append(last)
        seconds.append(round(float(finished[1]), 2))  # with the decimals of the lines
    size = log_format.HOROVOD_SIZE.search(text)
    workers = int(size[1]) if size else None
    remarks = ["the times count everything, so under DAWNBench's clock they are upper bounds"]
    if between := len(evaluated.keys() - set(steps)):
        remarks.append(f"the times of {between} checkpoint(s) are between those of two train lines")
    if not evaluated:
        remarks.append("no `Log @eval:` lines: no checkpoint is evaluated yet")
    clocks = ("everything", "dawnbench")

    def checkpoint(step: int, row: Mapping[str, Any]) -> EvaluatedCheckpoint:
        epoch = float(np.interp(step, list(epochs), list(epochs.values())))
        images = sum(max(0, min(step, p.end) - p.first) * p.batch_size for p in phases)
        times = dict.fromkeys(clocks, float(np.interp(step, steps, seconds)))
        figures = row["top1"], row["top5"], row.get("loss")
        return EvaluatedCheckpoint(step, epoch, workers and workers * images, *figures, times)

    traced = [next(group).first for _, group in groupby(phases, lambda phase: phase.shape)]
    return RunRecord(
        name=path.stem if path.parent.name in ("", ".") else f"{path.parent.name}/{path.stem}",
        source=path,
        kind="log",
        checkpoints=tuple(checkpoint(*found) for found in sorted(evaluated.items())),
        windows=tuple(windows),
        phases=tuple(with_rates(phases, windows, traced)),
        workers=workers,
        at_most=frozenset({"dawnbench"}),
        totals=dict.fromkeys(clocks, seconds[-1]),
        timelines=dict.fromkeys(clocks, (steps, seconds)),
        remarks=tuple(remarks),
        settings=("log", path.resolve()),
    )


def _lines(path: Path, text: str) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """The rows of the train lines, and those of the evaluation lines by step."""
    windows: list[dict[str, Any]] = []
    evaluated: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if row := log_format.read_train_line(line):
                while windows and windows[-1]["step"] >= row["step"]:
                    windows.pop()  # the run was resumed
                windows.append(row)
            elif row := log_format.read_evaluation_line(line):
                evaluated[row["step"]] = row
        except ValueError:
            message = f"{path}, line {number}: not a whole log line: {line.strip()!r}"
            raise UserError(message) from None
    return windows, evaluated


def _strategy(text: str) -> list[PhaseRecord]:
    """The phases at the head of the original's log; none where the log does not have them."""
    data, rates = log_format.DATA_STRATEGY.search(text), log_format.RATE_STRATEGY.search(text)
    if not data or not rates:
        return []
    try:
        blocks = ast.literal_eval(data[1])
        ends = np.cumsum([block["epoch"] for block in blocks])
        found = []
        for phase in ast.literal_eval(rates[1]):
            block = blocks[int(np.searchsorted(ends, phase["epoch"][0], side="right"))]
            (first, end), epoch = phase["steps"], tuple(phase["epoch"])
            size = block["image_size"][0]
            found.append(PhaseRecord(first, end, block["batch_size"], size, epoch))
        return found
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError):
        return []


def _phases_of(windows: Sequence[Mapping[str, Any]]) -> list[PhaseRecord]:
    """Train lines in a row with the same batch and size; a change shows at the next line."""
    found: list[PhaseRecord] = []
    for shape, rows in groupby(windows, lambda row: (row["batch_size"], row["image_size"])):
        first = found[-1].end if found else 0
        found.append(PhaseRecord(first, list(rows)[-1]["step"], *shape))
    return found
