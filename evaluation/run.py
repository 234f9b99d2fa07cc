"""Evaluation of a run's checkpoints by all workers, at its end, after it or beside it."""

import functools
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import tensorflow as tf
from pydantic import ValidationError
from tqdm.auto import tqdm

from core import devices, workers
from core.checkpoints import BadCheckpoint
from core.errors import UserError
from core.settings import Evaluation
from core.weights import load_weights
from core.workers import Workers
from datasets.input.validation import evaluation_pipeline
from datasets.records.schema import Records
from evaluation.evaluator import Evaluator
from evaluation.jobs import POLL, Checkpoint, Job, Ledger, jobs_to_come, share_out
from training import model
from training.inputs import check_classes, find_validation
from training.liveness import Pulse
from training.recipes import Recipe, load_recipe
from training.run import Run
from training.run_folder import RunFolder
from training.translated_errors import translated_errors


def evaluate_run(
    run_dir: Path, data_dir: Path | None, follow: bool, patience: float, choices: dict[str, Any]
) -> str:
    """Evaluates those checkpoints of a run that have not been evaluated so.

    Args:
        run_dir: the run's folder.
        data_dir: folder of the records; by default the run's own. Other records make other
            rows.
        follow: go on until the run has ended.
        patience: seconds without a sign of life after which a followed run is given up.
        choices: fields of `Evaluation` that differ from the recipe's.

    Returns:
        What could not be evaluated, in words; empty where all was.

    Raises:
        UserError: no run, no checkpoints, or records that are not the model's.
    """
    team = workers.join()
    run = RunFolder(run_dir)
    recipe, records = workers.together(
        lambda: _prepare(run, data_dir, patience if follow else 0.0, choices)
    )
    threads = devices.prepare_devices(team)
    trained_under = run.environment().get("policy", recipe.policy)
    policy, _ = devices.choose_policy(trained_under)
    devices.set_numerics(policy, recipe.seed, recipe.xla)
    pulse = Pulse(run, patience) if follow else None
    with translated_errors():
        return _evaluate(run, recipe, records, team, threads, pulse)


def evaluate_trained(run: Run) -> str:
    """Evaluates, by all workers, what a run that has just been trained left to evaluate.

    Returns:
        What could not be evaluated, in words; empty where all was.
    """
    log, records = run.log, run.data.validation
    log.clock.switch("evaluation")
    log.end_training()
    if run.data.synthetic:
        return ""
    if run.team.is_first:
        run.folder.note_own_data(records.name)
    problems = _evaluate(run.folder, run.recipe, records, run.team, run.threads)
    log.note_evaluations(records.name)
    return problems


def _prepare(
    run: RunFolder, data_dir: Path | None, patience: float, choices: dict[str, Any]
) -> tuple[Recipe, Records]:
    """Reads and checks what there is before anything is built."""
    until = time.monotonic() + patience
    while not run.holds_a_run and time.monotonic() < until:
        time.sleep(POLL)
    if not run.holds_a_run:
        raise UserError(f"--run_dir {run.path}: holds no run")
    if run.is_synthetic:
        raise UserError(
            f"--run_dir {run.path}: was trained on noise (--data synthetic), so there is nothing "
            "to evaluate; name a run that was trained on records"
        )
    if not (patience or run.checkpoint_rows()):
        raise UserError(
            f"--run_dir {run.path}: holds no checkpoints to evaluate; {run.checkpoints} is empty "
            f"or {run.checkpoints_csv.name} does not list what it holds"
        )
    recipe = _with_choices(load_recipe(run.recipe_file), choices)
    own = run.environment().get("data_dir")
    root = data_dir or own
    if root is None:
        raise UserError(f"--data_dir is missing; {run.environment_file} does not name the run's")
    records = find_validation(Path(root), recipe)
    check_classes(records, run.classes())
    if workers.current().is_first and own and Path(root).resolve() == Path(own).resolve():
        run.note_own_data(records.name)
    return recipe, records


def _with_choices(recipe: Recipe, choices: dict[str, Any]) -> Recipe:
    given = {name: value for name, value in choices.items() if value is not None}
    try:
        return Recipe.model_validate(
            {**recipe.model_dump(), "evaluation": {**recipe.evaluation.model_dump(), **given}}
        )
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _evaluate(
    run: RunFolder,
    recipe: Recipe,
    records: Records,
    team: Workers,
    threads: int,
    pulse: Pulse | None = None,
) -> str:
    """Evaluates what is missing; the workers meet before and after it, and not within.

    Returns:
        On every worker, what some could not evaluate, in words.
    """
    settings, folder = recipe.evaluation, str(records.files[0].parent.resolve())
    missing: list[Checkpoint] = [
        (count, row) for count, row in workers.from_first(run.to_evaluate(settings, records.name))
    ]
    jobs: Iterable[Job] = share_out(missing, team.rank, team.size)
    if pulse:
        to_come = jobs_to_come(run, settings, records.name, missing, team.rank, team.size, pulse)
        jobs = chain(jobs, to_come)
    if team.is_first:
        _say(f"evaluating {len(missing)} checkpoint(s): {_description(settings, records)}")
        if run.own_data not in ("", records.name):
            _say(f"on other records than the run's own: {folder} ({records.name})")
    began = time.monotonic()
    ledger = Ledger(run, settings, records.name, folder, _say)
    evaluator = make_evaluator(recipe, records, threads)
    problems = list(_problems(jobs, evaluator, run, ledger))
    if pulse and pulse.life == "silent":
        problems.append(pulse.epitaph())
    problems = list(dict.fromkeys(chain(*workers.gather(problems))))
    if team.is_first:
        _say(f"evaluated in {time.monotonic() - began:.1f} s; {run.evaluation_csv}")
    return "\n".join(problems)


def make_evaluator(recipe: Recipe, records: Records, threads: int) -> Evaluator:
    """An evaluator of the recipe's model on these records, under the current policy."""
    settings = recipe.evaluation
    net = model.build(recipe)
    averaged_by = model.averaging_optimizer(recipe, net) if settings.ema else None

    @functools.cache
    def batches(share: int, shares: int) -> tf.data.Dataset:
        return evaluation_pipeline(records, settings, recipe.classes, share, shares, threads)

    return Evaluator(
        net, lambda path: load_weights(net, path, averaged_by), batches, flip=settings.flip
    )


def _problems(
    jobs: Iterable[Job], evaluator: Evaluator, run: RunFolder, ledger: Ledger
) -> Iterator[str]:
    """Does the jobs, and tells of those checkpoints that cannot be evaluated."""
    for job in jobs:
        path = run.checkpoint_of(job.row)
        try:
            found = ledger.share(job) or evaluator.evaluate(path, job.share, job.shares)
        except FileNotFoundError:
            _say(f"checkpoint '{path}' has been removed since; left out")
        except BadCheckpoint as error:
            _say(f"{error}; left out")
            yield str(error)
        else:
            ledger.enter(job, *found)


def _description(settings: Evaluation, records: Records) -> str:
    return f"{settings.image_size} px, {settings.crop} crop, {records.images:,} images each"


def _say(line: str) -> None:
    tqdm.write(line)
