"""Command lines: what starts workers, and what a user types to resume or repeat a job."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from core import workers

PROJECT = Path(__file__).resolve().parent.parent
# Set by `launch` for its workers: the command line that goes on with the run.
RESUMES_WITH = "RECIPE_RESUMES_WITH"
LAUNCHERS = {
    "horovodrun": ["horovodrun"],
    "launch.horovodrun": ["python", "-m", "launch.horovodrun"],
}


def horovodrun(workers: int, options: Sequence[str]) -> list[str]:
    """The command that starts workers, by the guarded launcher; the workers' own follows."""
    return [sys.executable, "-m", "launch.horovodrun", "-np", str(workers), *options]


def environment() -> dict[str, str]:
    """This process's variables, with which that command finds the project from any folder."""
    paths = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def to_resume(run_dir: Path) -> str:
    """The command line that goes on with this process's run."""
    if RESUMES_WITH in os.environ:
        return os.environ[RESUMES_WITH]
    return _command(arguments_to_resume(run_dir))


def to_repeat() -> str:
    """The command line of this process's job, to be given once more."""
    return _command(sys.argv[1:])


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(
        [*_launcher_of_this_process(), Path(sys.executable).name, sys.argv[0], *arguments]
    )


def arguments_to_resume(run_dir: Path) -> list[str]:
    """The arguments of `recipe.py` that go on with this process's run."""
    kept = _without(sys.argv[1:], ("--run_dir",), ("--resume", "--overwrite"))
    return [*kept, "--run_dir", str(run_dir), "--resume"]


def _without(arguments: Sequence[str], valued: Sequence[str], flags: Sequence[str]) -> list[str]:
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument in valued:
            next(rest, None)
        elif argument not in flags and not argument.startswith(tuple(f"{v}=" for v in valued)):
            kept.append(argument)
    return kept


def _launcher_of_this_process() -> list[str]:
    """The part of the launcher's command line before our own; horovodrun's, if any."""
    if workers.launched_size() == 1:
        return []
    pid = os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        names = [Path(word).name for word in words]
        for name, shown in LAUNCHERS.items():
            if name in names and sys.argv[0] in words:
                begin, end = names.index(name), words.index(sys.argv[0])
                # The interpreter stands before the script.
                return [*shown, *words[begin + 1 : end - 1]]
    return ["horovodrun", "-np", str(workers.launched_size())]
