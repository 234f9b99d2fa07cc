"""Logs in the original's format, of this project or of the original itself."""

import ast
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from reports.run_record import Checkpoint, PhaseRecord, RunRecord, rate_of_windows
from training import log_format


def read_log(path: Path) -> RunRecord:
    """The record that a log's `Log @train` and `Log @eval` lines tell.

    A checkpoint's time is the `tm` of the train line of its step, on a line between
    two train lines where there is none, and after the last of them the time at which
    the log says `Finished`. Where a run was resumed, later lines replace earlier ones.

    Raises:
        UserError: not a text file, a line cut short, or no such lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a log: {error}") from None
    train: dict[int, dict[str, Any]] = {}
    evaluated: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if row := log_format.read_train_line(line):
                train = {s: r for s, r in train.items() if s < row["step"]} | {row["step"]: row}
            elif row := log_format.read_evaluation_line(line):
                evaluated[row["step"]] = row
        except ValueError:
            raise UserError(
                f"{path}, line {number}: not a whole log line: {line.strip()!r}"
            ) from None
    if not train:
        raise UserError(f"{path}: no `Log @train:` line; name a run folder, a log or a .tsv")
    windows = [train[step] for step in sorted(train)]
    steps, seconds = [row["step"] for row in windows], [row["seconds"] for row in windows]
    strategy = _strategy(text)
    finished = log_format.FINISHED.search(text)
    last = max([*steps, *evaluated])
    if finished and last > steps[-1]:
        steps, seconds = (
            [*steps, last],
            [*seconds, round(float(finished[1]), 2)],
        )  # as the lines have it
    size = log_format.HOROVOD_SIZE.search(text)
    workers = int(size[1]) if size else None
    remarks = [
        "times as logged: everything until then, so under DAWNBench's clock at most those shown"
    ]
    between = [step for step in evaluated if step not in steps]
    if between:
        remarks.append(
            f"the times of {len(between)} checkpoint(s) lie on a line between two train lines"
        )
    if not evaluated:
        remarks.append("no `Log @eval:` lines: no checkpoint is evaluated yet")
    epochs = {row["step"]: row.get("epoch") for row in windows}
    if strategy and last not in epochs:
        epochs[last] = strategy[-1].epoch[1]  # type: ignore[index]
    phases = strategy or _phases_of(windows)
    return RunRecord(
        name=path.stem if path.parent.name in ("", ".") else f"{path.parent.name}/{path.stem}",
        source=path,
        kind="log",
        checkpoints=tuple(
            Checkpoint(
                step=step,
                epoch=epochs.get(step, float(np.interp(step, *_known(epochs)))),
                images=_images(phases, step, workers),
                top1=row["top1"],
                top5=row["top5"],
                loss=row.get("loss"),
                seconds=dict.fromkeys(
                    ("everything", "dawnbench"), float(np.interp(step, steps, seconds))
                ),
            )
            for step, row in sorted(evaluated.items())
        ),
        windows=tuple(windows),
        phases=tuple(
            PhaseRecord(
                p.first, p.end, p.batch_size, p.image_size, p.epoch,
                rate_of_windows(windows, p.first, p.end, i == 0 or _changes(phases[i - 1], p)),
            )
            for i, p in enumerate(phases)
        ),
        workers=workers,
        at_most=frozenset({"dawnbench"}),
        totals=dict.fromkeys(("everything", "dawnbench"), seconds[-1]),
        timelines=dict.fromkeys(("everything", "dawnbench"), (steps, seconds)),
        remarks=tuple(remarks),
        settings=("log", path.resolve()),
    )  # fmt: skip


def _known(epochs: dict[int, Any]) -> tuple[list[int], list[float]]:
    steps = [step for step in sorted(epochs) if epochs[step] is not None]
    return steps, [epochs[step] for step in steps]


def _changes(before: PhaseRecord, phase: PhaseRecord) -> bool:
    return (before.batch_size, before.image_size) != (phase.batch_size, phase.image_size)


def _images(phases: list[PhaseRecord], step: int, workers: int | None) -> int | None:
    if workers is None:
        return None
    done = (max(0, min(step, p.end) - p.first) * p.batch_size for p in phases)
    return workers * sum(done)


def _strategy(text: str) -> list[PhaseRecord]:
    """The phases that the original's log tells at its head; none where it does not."""
    data = log_format.DATA_STRATEGY.search(text)
    rates = log_format.RATE_STRATEGY.search(text)
    if not data or not rates:
        return []
    try:
        blocks, phases = ast.literal_eval(data[1]), ast.literal_eval(rates[1])
        ends = np.cumsum([block["epoch"] for block in blocks])
        found = []
        for phase in phases:
            block = blocks[int(np.searchsorted(ends, phase["epoch"][0], side="right"))]
            found.append(
                PhaseRecord(
                    phase["steps"][0],
                    phase["steps"][1],
                    block["batch_size"],
                    block["image_size"][0],
                    tuple(phase["epoch"]),
                )
            )
        return found
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError):
        return []


def _phases_of(windows: list[dict[str, Any]]) -> list[PhaseRecord]:
    """Runs of train lines with the same batch and size; a change shows at the next line."""
    found: list[PhaseRecord] = []
    before = 0
    for row in windows:
        now = PhaseRecord(before, row["step"], row["batch_size"], row["image_size"])
        if found and not _changes(found[-1], now):
            now = PhaseRecord(found.pop().first, now.end, now.batch_size, now.image_size)
        found.append(now)
        before = row["step"]
    return found
