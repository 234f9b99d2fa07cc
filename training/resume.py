"""Going on with a run: from which checkpoint, at which step, and whether it may.

The order of a resume: what was asked for is compared with what the run was started
with; the newest checkpoint that is whole and of this run is found; its weights and its
optimizer's state are loaded on every worker; the notes of later steps are dropped; and
when the first `fit` has begun, each worker gets back what was its own.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from core import checkpoints, workers
from core.checkpoints import BadCheckpoint
from core.errors import SharedUserError, UserError
from core.schedule import Schedule, images_of
from core.workers import Workers
from training.inputs import RunData
from training.recipes import Recipe
from training.run_folder import RunFolder

PROJECT = Path(__file__).resolve().parent.parent
CODE = ("recipe.py", "callbacks", "datasets", "models", "optimizers", "training")
PACKAGES = ("keras", "tensorflow", "horovod", "numpy")

# Keys of a recipe that change nothing of what the training computes.
FREE_TO_CHANGE = frozenset(
    {"name", "images", "workers", "embedded_data", "evaluation", "xla", "deterministic",
     "checkpoint_every", "skip_bad_batches", "keep_newest", "keep_every", "log_every"}
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        step: steps that are done, counted for the workers that are there now.
        saved_step, saved_workers: the same as the checkpoint counts it, which may have
            been written by another number of workers.
        checkpoint: to load; None where nothing is done yet.
        kind: of the checkpoint, `"regular"` or `"signal"`.
        seconds: that the clock shows.
        clock: its buckets.
        skipped: how many of the steps a dynamic loss scale has skipped.
        restores_workers: the checkpoint is of as many workers, so that each of them can
            be given what was its own.
        passed_over: steps whose batch made a loss that was not finite.
        remarks: lines for the user.
    """

    step: int = 0
    saved_step: int = 0
    saved_workers: int = 0
    checkpoint: Path | None = None
    kind: str = checkpoints.REGULAR
    seconds: float = 0.0
    clock: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    restores_workers: bool = False
    passed_over: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        checkpoint = str(self.checkpoint) if self.checkpoint else None
        return {**dataclasses.asdict(self), "checkpoint": checkpoint}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Start":
        checkpoint = Path(data["checkpoint"]) if data["checkpoint"] else None
        lists = {name: tuple(data[name]) for name in ("passed_over", "remarks")}
        return cls(**{**data, **lists, "checkpoint": checkpoint})


def facts(recipe: Recipe, data: RunData | None, policy: str) -> dict[str, Any]:
    """What makes a run this run, as JSON: recipe, data and policy."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            f"{folder}/{prefix}": {
                "images": records.images,
                "label_offset": records.label_offset,
                "files": f"{len(records.files)} files, {records.digest}",
            }
            for (folder, prefix), records in sorted(data.training.items() if data else ())
        },
        "policy": policy,
    }


def code_version() -> str:
    """Digest of this project's Python files, as they are on this worker's host."""
    total = hashlib.blake2b(digest_size=16)
    for name in CODE:
        path = PROJECT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            total.update(f"{file.relative_to(PROJECT)}\n".encode() + file.read_bytes())
    return total.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two `facts`, but for what is free to change."""
    found: list[str] = []
    for name in ("recipe", "data", "policy"):
        was, given = before.get(name), now.get(name)
        if name == "recipe" and isinstance(was, dict) and isinstance(given, dict):
            was = {k: v for k, v in was.items() if k not in FREE_TO_CHANGE}
            given = {k: v for k, v in given.items() if k not in FREE_TO_CHANGE}
        found += _differences(was, given, (name,))
    return found


def _differences(was: Any, given: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(given, dict):
        for key in sorted({*was, *given}):
            yield from _differences(was.get(key), given.get(key), (*path, key))
    elif (
        isinstance(was, list) and isinstance(given, list)
        and len(was) == len(given) and any(isinstance(item, dict) for item in was)
    ):  # fmt: skip
        for number, pair in enumerate(zip(was, given, strict=True), 1):
            yield from _differences(*pair, (*path[:-1], f"phase {number}"))
    elif was != given:
        yield f"{_place(path)}: was {_short(was)}, is {_short(given)}"


def _place(path: tuple[str, ...]) -> str:
    kind, *keys = path
    if kind == "policy":
        return "the policy (--policy)"
    if kind == "data":
        return f"the data in '{keys[0]}', {' '.join(keys[1:])}" if keys else "the data"
    phases = [key for key in keys if key.startswith("phase ")]
    names = [key for key in keys if not key.startswith("phase ")]
    return ", ".join([*phases, *([f"key '{'.'.join(names)}'"] if names else [])])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_other_run(run: RunFolder, asked: Mapping[str, Any]) -> None:
    """Refuses to go on with a run that was started with something else.

    Raises:
        UserError: naming what differs.
    """
    started = {"recipe": run.recipe(), **run.environment().get("facts", {})}
    known = {name: asked[name] for name in asked if name in started}
    found = differences(started, known)
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise UserError(
            f"--resume: this is not the run in {run.path}: {found[0]}{more}; its recipe is "
            f"{run.recipe_file}. Give what it was started with, or begin anew with --overwrite"
        )


def find_start(
    run: RunFolder, asked: Mapping[str, Any], recipe: Recipe, schedule: Schedule
) -> Start:
    """The newest checkpoint of a run that is whole and its own.

    Raises:
        UserError: the run is another one, or its steps cannot be recomputed for this
            number of workers.
    """
    refuse_other_run(run, asked)
    _refuse_other_counts(run, schedule)
    over = tuple(run.bad_batches(schedule.workers)[: recipe.skip_bad_batches])
    passed_over = [f"the batch of step {bad} is passed over" for bad in over]
    remarks = []
    for path in run.checkpoint_files():
        try:
            checkpoints.check(path)
            state = checkpoints.read_state(path)
            other = differences(asked, {"recipe": state.get("recipe"), "data": state.get("data"),
                                        "policy": state.get("policy")})  # fmt: skip
            if other:
                raise BadCheckpoint(f"is of another run: {other[0]}")
        except BadCheckpoint as error:
            remarks.append(f"checkpoint {path.name} {error}; passed over")
            continue
        saved, count = state["step"], state["workers"]
        step = saved
        if count != schedule.workers:
            before = recipe.schedule(count, dict(schedule.images))
            step = schedule.step_at(before.position(saved))
            remarks.append(
                f"{count} worker(s) trained so far, {schedule.workers} go on: step "
                f"{saved} of {before.total_steps} is step {step} of "
                f"{schedule.total_steps} by the images seen; the rates follow, and are not "
                "scaled to the new global batch"
            )
        return Start(
            step=step,
            saved_step=saved,
            saved_workers=count,
            checkpoint=path,
            kind=state.get("kind", checkpoints.REGULAR),
            seconds=state["seconds"],
            clock=state["clock"],
            skipped=state.get("skipped_steps", 0),  # not in checkpoints of older versions
            restores_workers=count == schedule.workers,
            passed_over=over,
            remarks=(*remarks, *passed_over),
        )
    remarks.append("no checkpoint to go on from; beginning at step 0")
    return Start(saved_workers=schedule.workers, passed_over=over, remarks=(*remarks, *passed_over))


def _refuse_other_counts(run: RunFolder, schedule: Schedule) -> None:
    """Refuses a run of when the number of one prefix stood for all of a folder."""
    counted = run.environment().get("images", schedule.images)
    for phase in schedule.phases:
        was, now = images_of(phase.phase, counted), images_of(phase.phase, schedule.images)
        if was != now:
            raise UserError(
                f"--resume: the run in {run.path} was started with {was:,} images in "
                f"'{phase.phase.records}', which holds {now:,}: its steps were of another "
                "length. Resume with the version that started it, or begin anew with --overwrite"
            )


def agree(team: Workers, asked: Mapping[str, Any], total_steps: int) -> None:
    """Compares what the workers are about to do, before the first step; a collective.

    Raises:
        SharedUserError: naming the workers that differ from worker 0, and in what.
    """
    own = {
        "recipe": asked["recipe"],
        "data": asked["data"],
        "policy": asked["policy"],
        "number of steps": total_steps,
        "version of this project's code": code_version(),
        **{f"version of {name}": metadata.version(name) for name in PACKAGES if _installed(name)},
    }
    everyone = workers.gather(own)
    for what in own:
        others = [rank for rank in range(team.size) if everyone[rank][what] != everyone[0][what]]
        if others:
            was, given = everyone[0][what], everyone[others[0]][what]
            detail = next(iter(_differences(was, given, (what,))), "")
            raise SharedUserError(
                f"the {what} of worker {', '.join(map(str, others))} is not worker 0's"
                + (f" ({detail})" if what in ("recipe", "data") else f": {was} and {given}")
                + "; give all hosts the same files"
            )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
