"""The start of a run: what was asked for becomes a `Run`, ready to be fitted."""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core import workers
from core.errors import UserError
from core.schedule import Schedule
from core.workers import Workers
from training.inputs import RunData, find_data, in_words, sizes_of, taken_from
from training.recipes import INITIAL, Policy, Recipe, initial_file, load_recipe
from training.run_folder import RunFolder

if TYPE_CHECKING:  # they import TensorFlow
    import keras

    from callbacks.input_balance import InputBalance
    from datasets.input.faults import Faults
    from training.resume import Start
    from training.run_log import RunLog

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """What the command line asks for; `recipe.py` says what each option means."""

    recipe_name: str
    data_dir: Path | None = None  # by default the recipe's embedded data
    run_dir: Path | None = None  # by default a new folder in runs/
    policy: Policy | None = None  # by default the recipe's
    data: Literal["records", "synthetic"] = "records"
    resume: bool = False
    overwrite: bool = False
    profile: str | None = None  # steps to trace, as in 100:110; by default none
    images: Path | None = None  # a folder of images, of which records are made
    init_from: Path | None = None  # by default the recipe's


@dataclass(frozen=True)
class Run:
    """A run that has been started."""

    team: Workers  # this worker's place among the workers
    recipe: Recipe
    data: RunData
    schedule: Schedule  # the recipe's phases in global steps
    folder: RunFolder
    threads: int  # of this worker's computation, and as many of its pipeline
    model: "keras.Model"  # compiled, with the weights of the step to start from
    start: "Start"
    log: "RunLog"
    faults: "Faults"  # where this worker's pipelines note bad records
    balance: "InputBalance"  # measures how long training waits for images
    profiled: range = range(0)  # global steps that rank 0 traces for TensorBoard


def start_run(options: Options, started: float) -> Run:
    """Starts a run on this worker; a collective.

    Args:
        options: what was asked for.
        started: the `time.monotonic()` at which this process started.

    Raises:
        SharedUserError: a mistake in the options, the recipe, the data or the folder; workers
            that do not agree; or another run than the one to resume.
    """
    team = workers.current()
    now = workers.from_first(time.strftime("%Y%m%d-%H%M%S"))
    said = make_records(options, now)
    recipe, data, schedule, folder = workers.together(lambda: find_run(options, team.size, now))

    # A mistake in the options was reported before these imports, which take seconds.
    from callbacks.input_balance import InputBalance
    from core import devices
    from training import model, resume
    from training.run_log import RunLog
    from training.stages import check_phases, faults_of, whiten_first

    threads = devices.prepare_devices(team)
    policy, remark = devices.choose_policy(recipe.policy, options.policy)
    initial = model.find_initial(recipe, folder, options.resume)
    taken = {**data.taken, **initial.taken}
    recipe = recipe.taking(initial.taken)
    devices.set_numerics(policy, recipe.seed, recipe.deterministic)
    net = workers.together(lambda: model.build(recipe, initial.architecture))
    said += workers.together(lambda: model.compile_for_training(net, recipe, policy))
    workers.together(lambda: check_phases(net, schedule))

    identity = resume.identity(recipe, data, policy, initial.digest)
    resume.agree(team, identity, schedule.total_steps)
    start = resume.choose_start(options.resume, folder, identity, recipe, schedule)
    if start.checkpoint:
        model.load_checkpoint(net, start.checkpoint)
    elif initial.digest:
        names = data.validation.classes
        said += workers.together(lambda: model.start_from(net, initial, recipe, names))
    else:
        workers.together(lambda: whiten_first(net, recipe, data, team, threads))
    log = RunLog(folder, recipe, schedule, identity, start, started, net.optimizer)
    if team.is_first:
        if options.resume:
            resume.take_up(folder, recipe, schedule, start)
        else:
            settings = {
                "workers": team.size,
                "images": schedule.images,
                "policy": policy,
                "facts": identity,
                "data_dir": str(data.root),
                "synthetic": data.synthetic,
                "validation": data.validation.name,
                "taken": taken,
            }
            folder.start(recipe, settings, options.overwrite, initial.architecture)
            said += [f"taken: {in_words(taken)}"] if taken else []
            folder.counted_by(schedule)
            folder.write_classes(data.validation.classes)
        log.open()
        log.say(
            f"{recipe.name}: {net.name}, {team.size} worker(s), {policy}, "
            f"{schedule.total_steps:,} steps into {folder.path}"
        )
        for line in filter(None, [remark, *start.remarks]):
            log.say(line)
        for line in said:
            log.note(line)
        if options.resume:
            log.say(f"resuming after step {start.step}")
    workers.gather(None)  # no worker reads or writes before the folder is there
    balance = InputBalance(log.note, schedule.total_steps, threads)
    faults = faults_of(recipe, data)
    profiled = steps_to_profile(options.profile, schedule.total_steps)
    return Run(
        *(team, recipe, data, schedule, folder, threads, net, start, log, faults, balance),
        profiled=profiled,
    )


def make_records(options: Options, now: str) -> list[str]:
    """Makes the records of `--images` on rank 0, while the others wait; a collective.

    Returns:
        Lines for the user, on every worker; an empty list for a run that is resumed.
    """
    images = options.images
    if images is None or options.resume:
        return []
    recipe, _ = workers.together(lambda: _asked(options, now))  # mistakes are reported first
    from datasets.build.own_images import prepare_images

    output, sizes = _root_of(options, recipe), sizes_of(recipe)
    return workers.by_first(lambda: prepare_images(images, output, sizes))


def find_run(
    options: Options, workers: int, now: str
) -> tuple[Recipe, RunData, Schedule, RunFolder]:
    """Reads and checks what a run needs, and creates nothing; `now` names a new folder.

    Raises:
        UserError: a mistake in the options, the recipe, the data or the folder.
    """
    recipe, folder = _asked(options, now)
    if options.resume:
        # Not anew: another number of workers, for one, would get other batches.
        recipe = recipe.taking(folder.environment().get("taken", {}))
    if options.data == "synthetic":
        from training import synthetic

        recipe = synthetic.marked(recipe)
        data = synthetic.data_for(recipe)
    else:
        root, taken = _root_of(options, recipe), {}
        if not options.resume:
            taken = taken_from(root, recipe, workers, options.images is not None)
            recipe = recipe.taking(taken)
        data = replace(find_data(root, recipe), taken=taken)
    schedule = recipe.schedule(workers, data.images)
    steps_to_profile(options.profile, schedule.total_steps)
    return recipe, data, schedule, folder


def _asked(options: Options, now: str) -> tuple[Recipe, RunFolder]:
    """The recipe and the folder of a run, before anything is made; mistakes raise `UserError`."""
    recipe = load_recipe(options.recipe_name)
    if options.init_from:
        recipe = recipe.model_copy(update={"init_from": str(options.init_from)})
    if not options.resume:
        if recipe.init_from:
            initial_file(recipe.init_from)
        elif recipe.model == INITIAL:
            raise UserError(
                f"--init_from is missing; recipe '{recipe.name}' trains the model that it names"
            )
    if options.images:
        if options.data == "synthetic":
            raise UserError("--images and --data synthetic: give one of them, not both")
        sizes_of(recipe)
    folder = RunFolder(options.run_dir or Path("runs") / f"{recipe.name}-{now}")
    folder.check_free(options.resume, options.overwrite)
    return recipe, folder


def steps_to_profile(text: str | None, total: int) -> range:
    """The global steps of `FIRST:END`, without `END`; none without a text.

    Raises:
        UserError: the text is none of these, or there are only `total` steps.
    """
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    steps = range(int(found[1]), int(found[2])) if found else range(0)
    if not steps:
        raise UserError(
            f"--profile: received {text!r}; give the first step and the one after the last, as in "
            "100:110 for ten steps"
        )
    if steps.stop > total:
        raise UserError(f"--profile: received {text!r}; the run's steps are 0 to {total - 1}")
    return steps


def _root_of(options: Options, recipe: Recipe) -> Path:
    """Where the records are, or are made."""
    if options.data_dir:
        return options.data_dir
    if options.images:
        from datasets.build.own_images import records_beside

        return records_beside(options.images)
    if recipe.embedded_data is None:
        raise UserError(
            f"--data_dir is missing; recipe '{recipe.name}' needs records on disk. Of a folder of "
            "images, --images makes them"
        )
    from datasets.build.digits import prepare_digits

    return prepare_digits(ROOT / "data" / recipe.embedded_data)
