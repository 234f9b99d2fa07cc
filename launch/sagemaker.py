"""Amazon SageMaker: the one place that reads its variables. No TensorFlow.

    python -m launch.sagemaker metric_definitions

prints the regular expressions that draw the log's figures in SageMaker's console.

SageMaker's training toolkit, and the drivers of its Python SDK, start `recipe.py` with
the job's hyperparameters as arguments and its folders as variables; their list is
https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from core import workers
from core.errors import UserError
from launch.launcher import environment, horovodrun
from training.log_format import EVALUATION, TRAIN, TRAIN_FIELDS
from training.run_folder import RunFolder

CHANNEL = "SM_CHANNEL_"
# Channels that the SDK adds where it uploads the source.
NOT_DATA = ("code", "sm_drivers")
# The SDK's TensorFlow estimator adds it to the hyperparameters of every job.
NOT_OURS = ("model_dir",)

_NUMBER = r"([-+]?[0-9]+\.?[0-9]*)"
# As the log lines name them, and as the console should.
_TRAIN = {field: name for field, name in TRAIN_FIELDS.items() if field != "steps"}
_EVAL = ("top1", "top5", "loss")


@dataclass(frozen=True)
class Job:
    """What SageMaker says of the job and of this host.

    Attributes:
        hyperparameters: by name, with their JSON types.
        channels: the folder of each input channel that the user named.
        model_dir: what is in here becomes the job's model artifact.
        output_dir: what is in here becomes the job's other output.
        failure_file: its text becomes the failed job's reason.
        gpus: GPUs of this host.
        hosts: names of all hosts of the job.
        host: this one's name.
    """

    hyperparameters: dict[str, Any]
    channels: dict[str, Path]
    model_dir: Path
    output_dir: Path
    failure_file: Path
    gpus: int
    hosts: list[str]
    host: str

    @property
    def data_dir(self) -> Path | None:
        """The channel `training`, or the only one, or the folder that holds them all.

        The last is for channels that are named after the recipe's folders, as `160` and
        `320`, so that each can have a data source of its own.
        """
        if "training" in self.channels:
            return self.channels["training"]
        folders = set(self.channels.values())
        if len(folders) > 1:
            folders = {folder.parent for folder in folders}
        return folders.pop() if len(folders) == 1 else None

    @property
    def run_dir(self) -> Path:
        """In the folder that SageMaker keeps a copy of, and restores when a spot
        instance was taken away: `/opt/ml/checkpoints`, beside `/opt/ml/model`."""
        return self.model_dir.parent / "checkpoints" / "run"

    @property
    def workers(self) -> int:
        """Workers for this host: the hyperparameter `workers`, or one for each GPU.

        Raises:
            UserError: not a whole number above 0.
        """
        found = self.hyperparameters.get("workers", self.gpus or 1)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise UserError(
                f"hyperparameter 'workers': received {found!r}; give a whole number above 0"
            )
        return found


def read_job(environ: Mapping[str, str]) -> Job | None:
    """The job that these variables tell of; None where they are not SageMaker's.

    Raises:
        UserError: a variable that is not what SageMaker makes it.
    """
    if "SM_MODEL_DIR" not in environ:
        return None
    model_dir = Path(environ["SM_MODEL_DIR"])
    output = model_dir.parent / "output"
    host = environ.get("SM_CURRENT_HOST", "localhost")
    return Job(
        hyperparameters=_json(environ, "SM_HPS", {}),
        channels={
            name: Path(folder)
            for variable, folder in sorted(environ.items())
            if variable.startswith(CHANNEL)
            and (name := variable.removeprefix(CHANNEL).lower()) not in NOT_DATA
        },
        model_dir=model_dir,
        output_dir=Path(environ.get("SM_OUTPUT_DATA_DIR", output / "data")),
        failure_file=Path(environ.get("SM_OUTPUT_DIR", output)) / "failure",
        gpus=_json(environ, "SM_NUM_GPUS", 0),
        hosts=_json(environ, "SM_HOSTS", [host]),
        host=host,
    )


def _json(environ: Mapping[str, str], name: str, default: Any) -> Any:
    """A variable's JSON, of its default's type."""
    if name not in environ:
        return default
    found = None
    with suppress(json.JSONDecodeError):
        found = json.loads(environ[name])
    if type(found) is not type(default):
        kind = {dict: "an object", list: "a list", int: "a whole number"}[type(default)]
        raise UserError(f"{name}: received {environ[name]!r}; it should be {kind} in JSON")
    return found


def command_line(given: Sequence[str], job: Job | None) -> dict[str, Any]:
    """What `recipe.py` hands to click: the arguments, and defaults for what they leave out.

    Args:
        given: the command line without the program's name.
        job: SageMaker's, if any; without one the command line stays as it is.

    Returns:
        `args` and `default_map`, as `click.Command.main` takes them.
    """
    if job is None:
        return {"args": list(given), "default_map": {}}
    settings = {k: v for k, v in job.hyperparameters.items() if k not in ("workers", *NOT_OURS)}
    run_dir = settings.get("run_dir", job.run_dir)
    left_behind = RunFolder(run_dir).holds_a_run
    defaults = {
        "recipe_name": settings.get("recipe"),
        "data_dir": settings.get("data_dir", job.data_dir),
        "run_dir": run_dir,
        "policy": settings.get("policy"),
        # A job that was interrupted starts again with the folder that it left.
        "resume": settings.get("resume", left_behind and not settings.get("overwrite")),
    }
    args = list(given)
    if sorted(args[::2]) == sorted(f"--{name}" for name in job.hyperparameters):
        args = ["train", *_as_arguments(settings)]
    return {"args": args, "default_map": {"train": defaults}}


def _as_arguments(hyperparameters: Mapping[str, Any]) -> Iterator[str]:
    """SageMaker gives a flag a value, as in `--resume True`, which click does not take."""
    for name, value in hyperparameters.items():
        if value is not False:
            yield f"--{name}"
        if not isinstance(value, bool):
            yield str(value)


def launcher(job: Job | None, args: Sequence[str]) -> list[str] | None:
    """The command that starts this host's workers, where one process stands for them all.

    Args:
        job: SageMaker's, if any.
        args: those of `recipe.py`.

    Returns:
        A command line for `exec`, or None where this process is a worker already.

    Raises:
        UserError: several hosts, which only a launcher across hosts can bring together.
    """
    if job is None or workers.launched_size() > 1:
        return None
    if len(job.hosts) > 1:
        raise UserError(
            f"SM_HOSTS: {len(job.hosts)} hosts, and the process on {job.host} knows nothing of the "
            "others; launch the job with MPI, or on one host (docs/sagemaker.md)"
        )
    if job.workers == 1:
        return None
    return [*horovodrun(job.workers, ["--gloo"]), sys.executable, sys.argv[0], *args]


def start() -> dict[str, Any]:
    """Starts this host's workers where SageMaker wants several, and does not come back;
    otherwise returns what `command_line` finds for this process."""
    job = read_job(os.environ)
    found = command_line(sys.argv[1:], job)
    command = launcher(job, found["args"])
    if command:
        os.execve(command[0], command, environment())
    return found


def deliver(run: RunFolder, job: Job | None) -> None:
    """Copies what a run has made to where SageMaker collects it.

    `model.keras` becomes the model artifact; the log, the tables and the pictures go
    with the output, the checkpoints with neither.
    """
    if job is None:
        return
    job.model_dir.mkdir(parents=True, exist_ok=True)
    if run.model.exists():
        shutil.copy2(run.model, job.model_dir)
    if run.holds_a_run:
        apart = shutil.ignore_patterns(run.model.name, run.checkpoints.name, ".*")
        shutil.copytree(run.path, job.output_dir, ignore=apart, dirs_exist_ok=True)


def deliver_at_end(run: RunFolder) -> None:
    """Has the run delivered when the command ends, however it ends."""
    job = read_job(os.environ)
    if job is not None:
        click.get_current_context().call_on_close(lambda: deliver(run, job))


def note_failure(message: str) -> None:
    """Makes `message` the reason that SageMaker shows for the failed job."""
    job = None
    with suppress(UserError):  # it may be what the message is about
        job = read_job(os.environ)
    if job is not None:
        job.failure_file.parent.mkdir(parents=True, exist_ok=True)
        job.failure_file.write_text(message + "\n")


def metric_definitions() -> list[dict[str, str]]:
    """SageMaker's `MetricDefinitions` for the lines of `training/log_format.py`.

    Each is a `Name` and a `Regex` with one group.
    """
    return [
        {"Name": f"train:{name}", "Regex": f"{TRAIN}.* {key}@ *{_NUMBER}"}
        for key, name in _TRAIN.items()
    ] + [
        {"Name": f"validation:{name}", "Regex": f"{EVALUATION}.* {name}@ *{_NUMBER}"}
        for name in _EVAL
    ]


@click.group()
def main() -> None:
    """What SageMaker has to be told of a run."""


@main.command("metric_definitions")
def _print_metric_definitions() -> None:
    """Prints the metric definitions as JSON, for the console or the SDK."""
    click.echo(json.dumps(metric_definitions(), indent=2))


if __name__ == "__main__":
    main()
