"""Amazon SageMaker: the one place that reads its variables. No TensorFlow.

    python -m launch.sagemaker metric_definitions

prints the regular expressions by which SageMaker's console plots the log's figures.

SageMaker's training toolkit, and the drivers of its Python SDK, start `recipe.py` with
the job's hyperparameters as arguments and its folders as variables. Their list is
https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from core.environment import for_modules
from core.errors import UserError
from core.workers import launched_size
from launch.command_line import horovodrun
from training.log_format import EVALUATION, TRAIN, TRAIN_FIELDS
from training.run_folder import RunFolder

CHANNEL = "SM_CHANNEL_"
# The SDK adds these channels when it uploads the source.
NOT_DATA = (f"{CHANNEL}CODE", f"{CHANNEL}SM_DRIVERS")
# The SDK's TensorFlow estimator adds `model_dir` to the hyperparameters of every job.
NOT_OPTIONS = ("workers", "model_dir")


class SageMakerJob:
    """What SageMaker says of the job and of this host."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # By name, with their JSON types.
        self.hyperparameters: dict[str, Any] = _json(environ, "SM_HPS", {})
        self.data_dir = _data_dir(environ)
        self.model_dir = Path(environ["SM_MODEL_DIR"])  # becomes the job's model artifact
        # Beside it: SageMaker keeps a copy of `/opt/ml/checkpoints`, and restores it after it
        # has taken a spot instance away.
        self.run_dir = self.model_dir.parent / "checkpoints" / "run"
        output = self.model_dir.parent / "output"
        # Becomes the job's other output.
        self.output_dir = Path(environ.get("SM_OUTPUT_DATA_DIR", output / "data"))
        # Its text becomes the reason of a failed job.
        self.failure_file = Path(environ.get("SM_OUTPUT_DIR", output)) / "failure"
        self.gpus: int = _json(environ, "SM_NUM_GPUS", 0)  # on this host
        self.host = environ.get("SM_CURRENT_HOST", "localhost")
        self.hosts: list[str] = _json(environ, "SM_HOSTS", [self.host])  # all of the job


def read_job(environ: Mapping[str, str]) -> SageMakerJob | None:
    """The job that these variables describe; None if they are not SageMaker's."""
    return SageMakerJob(environ) if "SM_MODEL_DIR" in environ else None


def _data_dir(environ: Mapping[str, str]) -> Path | None:
    """The channel `training`, or the only one, or the folder that holds them all.

    The last is for channels that are named like the recipe's folders, such as `160` and
    `320`, so that each can have its own data source.
    """
    if f"{CHANNEL}TRAINING" in environ:
        return Path(environ[f"{CHANNEL}TRAINING"])
    names = [name for name in environ if name.startswith(CHANNEL) and name not in NOT_DATA]
    folders = {Path(environ[name]) for name in names}
    if len(folders) > 1:
        folders = {folder.parent for folder in folders}
    return folders.pop() if len(folders) == 1 else None


def _json(environ: Mapping[str, str], name: str, default: Any) -> Any:
    """The value of a variable in JSON, which must have the type of its default."""
    if name not in environ:
        return default
    found = None
    with suppress(json.JSONDecodeError):
        found = json.loads(environ[name])
    if type(found) is not type(default):
        kind = {dict: "an object", list: "a list", int: "a whole number"}[type(default)]
        raise UserError(f"{name}: received {environ[name]!r}; it should be {kind} in JSON")
    return found


def for_click(given: Sequence[str], job: SageMakerJob | None) -> dict[str, Any]:
    """`args` and `default_map` for `click.Command.main`: the job's settings are the defaults."""
    if job is None:
        return {"args": list(given), "default_map": {}}
    options = {k: v for k, v in job.hyperparameters.items() if k not in NOT_OPTIONS}
    run_dir = options.get("run_dir", job.run_dir)
    # An interrupted job starts again with the folder that it left.
    left_behind = RunFolder(run_dir).holds_a_run and not options.get("overwrite")
    defaults = {
        "recipe_name": options.get("recipe"),
        "data_dir": options.get("data_dir", job.data_dir),
        "run_dir": run_dir,
        "policy": options.get("policy"),
        "resume": options.get("resume", left_behind),
    }
    args = list(given)
    if sorted(args[::2]) == sorted(f"--{name}" for name in job.hyperparameters):
        args = ["train"]
        for name, value in options.items():
            if value is not False:
                args.append(f"--{name}")
            # SageMaker gives a flag a value, as in `--resume True`; click refuses that.
            if not isinstance(value, bool):
                args.append(str(value))
    return {"args": args, "default_map": {"train": defaults}}


def launcher(job: SageMakerJob | None, args: Sequence[str]) -> list[str] | None:
    """The command that starts this host's workers; None if this process is to be a worker."""
    if job is None or launched_size() > 1:
        return None
    if len(job.hosts) > 1:
        raise UserError(
            f"SM_HOSTS: {len(job.hosts)} hosts, and the process on {job.host} knows nothing of the "
            "others; launch the job with MPI, or on one host (docs/sagemaker.md)"
        )
    count = job.hyperparameters.get("workers", job.gpus or 1)
    if type(count) is not int or count < 1:
        message = f"received {count!r}; give a whole number above 0"
        raise UserError(f"hyperparameter 'workers': {message}")
    return [*horovodrun(count), sys.executable, sys.argv[0], *args] if count > 1 else None


def start() -> dict[str, Any]:
    """Becomes the launcher of this host's workers, or returns what `for_click` finds."""
    job = read_job(os.environ)
    found = for_click(sys.argv[1:], job)
    if command := launcher(job, found["args"]):
        os.execve(command[0], command, for_modules())
    return found


def deliver_at_end(run: RunFolder) -> None:
    """Delivers the run when the command ends, however it ends."""
    if job := read_job(os.environ):
        click.get_current_context().call_on_close(lambda: deliver(run, job))


def deliver(run: RunFolder, job: SageMakerJob) -> None:
    """Copies `model.keras` to the job's model artifact; log, tables, pictures to its output."""
    job.model_dir.mkdir(parents=True, exist_ok=True)
    if run.model.exists():
        shutil.copy2(run.model, job.model_dir)
    if run.holds_a_run:
        apart = shutil.ignore_patterns(run.model.name, run.checkpoints.name, ".*")
        shutil.copytree(
            *(run.path, job.output_dir),
            ignore=apart,
            ignore_dangling_symlinks=True,  # in `tracking`: a link to a log of W&B's in the home
            dirs_exist_ok=True,
        )


def note_failure(message: str) -> None:
    """Makes `message` the reason that SageMaker shows for the failed job."""
    with suppress(UserError):  # the message may be about the job's variables
        if job := read_job(os.environ):
            job.failure_file.parent.mkdir(parents=True, exist_ok=True)
            job.failure_file.write_text(message + "\n")


def metric_definitions() -> list[dict[str, str]]:
    """SageMaker's `MetricDefinitions` for the lines of a log, each `Regex` with one group."""
    fields = [(TRAIN, key, f"train:{name}") for key, name in TRAIN_FIELDS.items() if key != "steps"]
    fields += [(EVALUATION, key, f"validation:{key}") for key in ("top1", "top5", "loss")]
    number = r"([-+]?[0-9]+\.?[0-9]*)"
    return [{"Name": name, "Regex": f"{line}.* {key}@ *{number}"} for line, key, name in fields]


@click.command()
@click.argument("what", type=click.Choice(["metric_definitions"]))
def main(what: str) -> None:
    """Prints SageMaker's `MetricDefinitions` as JSON, for the console or the SDK."""
    click.echo(json.dumps(metric_definitions(), indent=2))


if __name__ == "__main__":
    main()
