"""The start of a resumed run: from which checkpoint, at which step, and whether it may.

1. What was asked for is compared with what the run was started with (`find_start`).
2. The newest checkpoint that is whole and of this run is found (`find_start`).
3. Its weights and its optimizer's state are loaded on every worker (`training/run.py`).
4. Rows and log lines of later steps are dropped (`take_up`).
5. When the first `fit` has begun, each worker gets its own state back (`StepCheckpoint`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core import checkpoints, workers
from core.checkpoints import BadCheckpoint
from core.errors import SharedUserError, UserError
from core.schedule import Schedule, images_of
from core.settings import Settings
from core.workers import Workers
from training.inputs import RunData
from training.recipes import Recipe
from training.run_folder import RunFolder, versions

PROJECT = Path(__file__).resolve().parent.parent
# What a worker runs: the same on every host.
CODE = (
    "recipe.py",
    *("core", "models", "optimizers", "datasets", "callbacks"),
    *("training", "evaluation", "reports", "deploy", "tracking", "launch"),
)
PACKAGES = ("keras", "tensorflow", "horovod", "numpy")

# Keys of a recipe that do not change what the training computes.
FREE_TO_CHANGE = frozenset(
    (
        *("name", "images", "workers", "embedded_data", "evaluation"),
        *("xla", "batch_norm", "deterministic"),
        *("checkpoint_every", "skip_bad_batches", "keep_newest", "keep_every", "log_every"),
        "init_from",  # its weights count, wherever they are
    )
)
# What two starts of a run must have in common; also the keys of `identity`.
IDENTITY = ("recipe", "data", "policy", "initial")


class Start(Settings):
    """Where a run starts.

    Attributes:
        step: steps that are done, as the present number of workers counts them.
        saved_step, saved_workers: the same as the workers of the checkpoint counted them.
        checkpoint: to load, of `kind` `"regular"` or `"signal"`; None at step 0.
        seconds, clock: on the run's clock, and in its buckets.
        skipped_steps: how many of the steps a dynamic loss scale has skipped.
        restores_workers: the number of workers is the same; each gets its own state back.
        skipped_batches: steps whose batch is skipped, since its loss was not finite.
        remarks: lines for the user.
    """

    step: int = 0
    saved_step: int = 0
    saved_workers: int = 0
    checkpoint: Path | None = None
    kind: str = checkpoints.REGULAR
    seconds: float = 0.0
    clock: dict[str, float] = {}
    skipped_steps: int = 0
    restores_workers: bool = False
    skipped_batches: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()


def identity(
    recipe: Recipe, data: RunData, policy: str, initial: str | None = None
) -> dict[str, Any]:
    """What makes a run this run, as JSON: recipe, data, policy, and the digest of `init_from`."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            f"{folder}/{prefix}": {
                "images": records.images,
                "label_offset": records.label_offset,
                "files": f"{len(records.files)} files, {records.digest}",
            }
            for (folder, prefix), records in sorted(data.training.items())
        },
        "policy": policy,
        **({"initial": initial} if initial else {}),
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
    """What differs between two identities, without the keys that are free to change."""
    before, now = _with_defaults(before), _with_defaults(now)
    return [
        line
        for name in IDENTITY
        for line in _differences(before.get(name), now.get(name), (name,), FREE_TO_CHANGE)
    ]


def _with_defaults(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """An identity whose recipe has the keys that its version did not know, with their defaults."""
    try:
        recipe = Recipe.model_validate(identity.get("recipe"))
    except ValidationError:
        return identity  # of a later version, or none of ours; compared as it stands
    return {**identity, "recipe": recipe.model_dump(mode="json")}


def _differences(
    was: Any, given: Any, path: tuple[str, ...], free: frozenset[str] = frozenset()
) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(given, dict):
        for key in sorted({*was, *given} - free):
            yield from _differences(was.get(key), given.get(key), (*path, key))
    elif path[-1] == "training_strategy" and was and given and len(was) == len(given):
        for number, pair in enumerate(zip(was, given, strict=True), 1):
            yield from _differences(*pair, (*path[:-1], f"phase {number}"))
    elif was != given:
        yield f"{_place(path)}: was {_short(was)}, is {_short(given)}"


def _place(path: tuple[str, ...]) -> str:
    kind, *keys = path
    if kind == "policy":
        return "the policy (--policy)"
    if kind == "initial":
        return "the initial weights (--init_from), by their digest"
    if kind == "data":
        return f"the data in '{keys[0]}', {' '.join(keys[1:])}" if keys else "the data"
    phases = [key for key in keys if key.startswith("phase ")]
    names = [key for key in keys if not key.startswith("phase ")]
    return ", ".join([*phases, *([f"key '{'.'.join(names)}'"] if names else [])])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def choose_start(
    resume: bool, run: RunFolder, asked: Mapping[str, Any], recipe: Recipe, schedule: Schedule
) -> Start:
    """Where a run starts; rank 0 looks, and all workers get its answer; a collective."""
    look = resume and workers.current().is_first
    start = workers.together(lambda: find_start(run, asked, recipe, schedule) if look else Start())
    return Start.model_validate(workers.from_first(start.model_dump(mode="json")))


def find_start(
    run: RunFolder, asked: Mapping[str, Any], recipe: Recipe, schedule: Schedule
) -> Start:
    """The newest checkpoint that is whole and of this run; raises `UserError` for another run."""
    _refuse_other_run(run, asked)
    _refuse_other_counts(run, schedule)
    batches = tuple(run.bad_batches(schedule.workers)[: recipe.skip_bad_batches])
    over = [f"the batch of step {step} is skipped" for step in batches]
    remarks = []
    for path in run.checkpoint_files():
        try:
            checkpoints.check(path)
            state = checkpoints.read_state(path)
            if other := differences(asked, {name: state.get(name) for name in IDENTITY}):
                raise BadCheckpoint(f"is of another run: {other[0]}")
        except BadCheckpoint as error:
            remarks.append(f"checkpoint {path.name} {error}; skipped")
            continue
        saved, count = state["step"], state["workers"]
        step = saved
        if count != schedule.workers:
            before = recipe.schedule(count, dict(schedule.images))
            step = schedule.step_at(before.position(saved))
            remarks.append(
                f"{count} worker(s) trained so far, {schedule.workers} resume: step {saved} of "
                f"{before.total_steps} is step {step} of {schedule.total_steps} by the images "
                "seen; the learning rates follow, and are not scaled to the new global batch"
            )
        return Start(
            step=step,
            saved_step=saved,
            saved_workers=count,
            checkpoint=path,
            kind=state.get("kind", checkpoints.REGULAR),
            seconds=state["seconds"],
            clock=state["clock"],
            skipped_steps=state.get("skipped_steps", 0),  # absent in older checkpoints
            restores_workers=count == schedule.workers,
            skipped_batches=batches,
            remarks=(*remarks, *over),
        )
    remarks.append("no checkpoint to resume from; starting at step 0")
    return Start(saved_workers=schedule.workers, skipped_batches=batches, remarks=(*remarks, *over))


def _refuse_other_run(run: RunFolder, asked: Mapping[str, Any]) -> None:
    """Refuses to resume a run that was started with something else."""
    started = {"recipe": run.recipe(), "initial": None, **run.environment().get("facts", {})}
    found = differences(started, {name: asked.get(name) for name in started})
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise UserError(
            f"--resume: this is not the run in {run.path}: {found[0]}{more}; its recipe is "
            f"{run.recipe_file}. Give what it was started with, or start anew with --overwrite"
        )


def _refuse_other_counts(run: RunFolder, schedule: Schedule) -> None:
    """Refuses a run of a version that counted the images of all prefixes of a folder."""
    counted = run.environment().get("images", schedule.images)
    for phase in schedule.phases:
        was, now = images_of(phase.phase, counted), images_of(phase.phase, schedule.images)
        if was != now:
            raise UserError(
                f"--resume: the run in {run.path} was started with {was:,} images in "
                f"'{phase.phase.records}', which holds {now:,}: its steps were of another "
                "length. Resume with the version that started it, or start anew with --overwrite"
            )


def take_up(run: RunFolder, recipe: Recipe, schedule: Schedule, start: Start) -> None:
    """Brings a run folder to the state of the checkpoint that the run starts from."""
    run.take_up(start.saved_step, start.saved_workers, schedule.workers)
    run.counted_by(schedule)
    # A run that was killed may have written the checkpoint, but not yet its row.
    noted = map(run.checkpoint_of, run.noted_checkpoints())
    if start.kind == checkpoints.REGULAR and start.checkpoint not in (None, *noted):
        before = recipe.schedule(start.saved_workers, dict(schedule.images))
        run.note_checkpoint(before, start.saved_step, start.seconds, start.clock)


def agree(team: Workers, asked: Mapping[str, Any], total_steps: int) -> None:
    """Raises where workers are about to do something else than worker 0; a collective."""
    own = {
        **asked,
        "number of steps": total_steps,
        "version of this project's code": code_version(),
        **{f"version of {name}": version for name, version in versions(PACKAGES).items()},
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
