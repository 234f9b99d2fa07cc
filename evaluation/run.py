"""Evaluation of a run's checkpoints by all workers: at its end, later, or while it trains."""

import functools
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import tensorflow as tf
from pydantic import ValidationError
from tqdm.auto import tqdm

from core import devices, workers
from core.checkpoints import BadCheckpoint, load_weights
from core.errors import UserError
from core.settings import Evaluation
from datasets.input.validation import evaluation_pipeline
from datasets.records.schema import Records
from evaluation import predictions
from evaluation.evaluator import Evaluator
from evaluation.statistics import reestimator_of
from evaluation.tasks import POLL, Results, Task, share_out, tasks_to_come
from training import model
from training.inputs import RunData, check_classes, find_statistics, find_validation
from training.liveness import LivenessProbe
from training.recipes import Recipe, load_recipe
from training.run import Run
from training.run_folder import Row, RunFolder
from training.translated_errors import translated_errors


def evaluate_run(
    run_dir: Path, data_dir: Path | None, follow: bool, patience: float, choices: dict[str, Any]
) -> str:
    """Evaluates what has not been evaluated in this way; returns, in words, what could not be.

    Args:
        data_dir: of the records, by default the run's own. Other records make other rows.
        follow: continue until the run has ended.
        patience: seconds without a sign of life after which a followed run is given up.
        choices: fields of `Evaluation` that differ from the recipe's; None: the recipe's.
    """
    team = workers.join()
    run = RunFolder(run_dir)
    recipe, data = workers.together(
        lambda: _prepare(run, data_dir, patience if follow else 0.0, choices)
    )
    threads = devices.prepare_devices(team)
    policy, _ = devices.choose_policy(run.environment().get("policy", recipe.policy))
    devices.set_numerics(policy, recipe.seed)
    probe = LivenessProbe(run, patience) if follow else None
    with translated_errors():
        return _evaluate(run, recipe, data, threads, probe)


def evaluate_trained(run: Run) -> str:
    """Does the same, by all workers, for a run that has just been trained."""
    log, data = run.log, run.data
    log.clock.switch("evaluation")
    log.end_training()
    if data.synthetic:
        return ""
    if run.team.is_first:
        run.folder.note_own_data(data.validation.name)
    problems = _evaluate(run.folder, run.recipe, data, run.threads)
    log.note_evaluations(data.validation.name)
    return problems


def _prepare(
    run: RunFolder, data_dir: Path | None, patience: float, choices: dict[str, Any]
) -> tuple[Recipe, RunData]:
    """Reads and checks the run and its records before anything is built."""
    until = time.monotonic() + patience
    while not run.holds_a_run and time.monotonic() < until:
        time.sleep(POLL)
    where = f"--run_dir {run.path}"
    if not run.holds_a_run:
        raise UserError(f"{where}: holds no run")
    if run.is_synthetic:
        raise UserError(
            f"{where}: was trained on noise (--data synthetic), so there is nothing to evaluate; "
            "name a run that was trained on records"
        )
    if not (patience or run.checkpoint_rows()):
        raise UserError(
            f"{where}: holds no checkpoints to evaluate; {run.checkpoints} is empty "
            f"or {run.checkpoints_csv.name} does not list its files"
        )
    recipe = load_recipe(run.recipe_file)
    given = {name: value for name, value in choices.items() if value is not None}
    evaluation = recipe.evaluation.model_dump() | given
    try:
        recipe = Recipe.model_validate(recipe.model_dump() | {"evaluation": evaluation})
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    own = run.environment().get("data_dir")
    root = data_dir or own
    if root is None:
        raise UserError(f"--data_dir is missing; {run.environment_file} does not name the run's")
    records = find_validation(Path(root), recipe)
    check_classes(records, run.classes())
    if workers.current().is_first and own and Path(root).resolve() == Path(own).resolve():
        run.note_own_data(records.name)
    return recipe, RunData({}, records, statistics=find_statistics(Path(root), recipe))


def _evaluate(
    run: RunFolder,
    recipe: Recipe,
    data: RunData,
    threads: int,
    probe: LivenessProbe | None = None,
) -> str:
    """Evaluates what is missing; returns, on every worker, what any of them could not evaluate.

    The workers wait for each other only before and after it.
    """
    team = workers.current()
    settings, records = recipe.evaluation, data.validation
    folder = str(records.files[0].parent.resolve())
    results = Results(run, settings, records.name, folder, tqdm.write)
    missing = workers.from_first(results.missing())
    tasks: Iterable[Task] = share_out(missing, team.rank, team.size)
    if probe:
        tasks = chain(tasks, tasks_to_come(results, missing, team.rank, team.size, probe))
    if team.is_first:
        tqdm.write(
            f"evaluating {len(missing)} checkpoint(s): {settings.image_size} px, {settings.crop} "
            f"crop, {records.images:,} images each"
        )
        if run.own_data not in ("", records.name):
            tqdm.write(f"on other records than the run's own: {folder} ({records.name})")
    began = time.monotonic()
    evaluator, problems = make_evaluator(recipe, data, threads, run.architecture()), []
    for task in tasks:
        path = run.checkpoint_of(task.row)
        try:
            found = results.share(task) or evaluator.evaluate(path, task.share, task.shares)
        except FileNotFoundError:
            tqdm.write(f"checkpoint '{path}' was removed in the meantime; skipped")
        except BadCheckpoint as error:
            tqdm.write(f"{error}; skipped")
            problems.append(str(error))
        else:
            results.add(task, *found)
    if probe and probe.life == "silent":
        problems.append(probe.describe_silence())
    problems += _keep_predictions(run, settings, records, evaluator)
    problems = list(dict.fromkeys(chain(*workers.gather(problems))))
    if team.is_first:
        tqdm.write(f"evaluated in {time.monotonic() - began:.1f} s; {run.evaluation_csv}")
    return "\n".join(problems)


def _keep_predictions(
    run: RunFolder, settings: Evaluation, records: Records, evaluator: Evaluator
) -> list[str]:
    """Keeps what the run's result says of each image, once; a collective.

    All workers share the images. It is one more evaluation of one checkpoint, in the same trace.

    Returns:
        What this worker could not do.
    """
    team = workers.current()
    row = workers.from_first(_result_to_predict(run, settings, records.name))
    if row is None:
        return []
    began, own, problems = time.monotonic(), None, []
    try:
        own = evaluator.predict(run.checkpoint_of(row), team.rank, team.size)
    except FileNotFoundError:
        pass  # it was removed in the meantime
    except BadCheckpoint as error:
        problems.append(str(error))
    shares = workers.gather(own)
    if team.is_first and None not in shares:
        predictions.write(run.predictions_csv, row, records, chain(*shares))
        seconds = time.monotonic() - began
        tqdm.write(f"predicted the last checkpoint's {records.images:,} images in {seconds:.1f} s")
    return problems


def _result_to_predict(run: RunFolder, settings: Evaluation, data: str) -> Row | None:
    """The last checkpoint of a run that has ended, where its predictions are not there yet.

    They are kept for the evaluation of the run's own recipe, on its own records.
    """
    own = load_recipe(run.recipe_file).evaluation
    rows = run.checkpoint_rows()
    is_own = (settings.image_size, settings.crop, data) == (own.image_size, own.crop, run.own_data)
    if not (rows and is_own) or run.state().get("state") == "training":
        return None
    known = predictions.noted_checkpoint(run.predictions_csv)
    return None if known == predictions.identity(rows[-1]) else rows[-1]


def make_evaluator(
    recipe: Recipe, data: RunData, threads: int, architecture: str | None = None
) -> Evaluator:
    """An evaluator of the recipe's model on these data, under the current policy."""
    settings = recipe.evaluation
    net = model.build(recipe, architecture)
    averaged_by = model.averaging_optimizer(recipe, net) if settings.ema else None

    @functools.cache
    def batches(share: int, shares: int, placed: bool = False) -> tf.data.Dataset:
        return evaluation_pipeline(
            data.validation, settings, recipe.classes, share, shares, threads, placed
        )

    reestimate = reestimator_of(net, recipe, data.statistics, threads)

    def load(path: Path) -> None:
        load_weights(net, path, averaged_by)
        reestimate()

    return Evaluator(net, load, batches, settings.flip, settings.shift, recipe.classes_apart)
