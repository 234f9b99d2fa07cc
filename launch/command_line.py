"""Command lines: the one that starts workers, and those that resume or repeat a job."""

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from core.workers import launched_size
from launch.environment import JOINS_BY

# `launch` sets it for its workers: the command line that resumes the run.
RESUMES_WITH = "RECIPE_RESUMES_WITH"
# How a launcher is shown, by the name in its command line.
LAUNCHERS = {
    "horovodrun": "horovodrun",
    "launch.horovodrun": "python -m launch.horovodrun",
    "horovod.runner.launch": "python -m horovod.runner.launch",
}


def horovodrun(workers: int, hosts: str | None = None) -> list[str]:
    """The guarded launcher's part of a command line; `hosts` as in `-H`, by default this host."""
    command = [sys.executable, "-m", "launch.horovodrun", "-np", str(workers), "--gloo"]
    return [*command, "-H", hosts] if hosts else command


def to_resume(run_dir: Path) -> str:
    """The command line that resumes the run of this process."""
    return os.environ.get(RESUMES_WITH) or to_repeat(resuming(sys.argv[1:], run_dir))


def to_repeat(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process's job, or the same with other arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return shlex.join([*_launcher(), Path(sys.executable).name, sys.argv[0], *arguments])


def resuming(arguments: Sequence[str], run_dir: Path) -> list[str]:
    """The arguments of `train`, changed so that they resume the run in `run_dir`."""
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--run_dir":
            next(rest, None)
        elif argument not in ("--resume", "--overwrite") and not argument.startswith("--run_dir="):
            kept.append(argument)
    return [*kept, "--run_dir", str(run_dir), "--resume"]


def _launcher() -> list[str]:
    """The launcher's part of this job's command line; empty if there is no launcher."""
    if launched_size() == 1 or JOINS_BY in os.environ:
        return []
    import psutil

    with contextlib.suppress(psutil.Error):  # a process above this one may end meanwhile
        for process in psutil.Process().parents():
            words = process.cmdline()
            names = [Path(word).name for word in words]
            for name, shown in LAUNCHERS.items():
                if name in names and sys.argv[0] in words:
                    begin, end = names.index(name), words.index(sys.argv[0])
                    # The interpreter stands before the script.
                    return [*shown.split(), *words[begin + 1 : end - 1]]
    return ["horovodrun", "-np", str(launched_size())]
