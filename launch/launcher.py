"""The command `launch`: starts the workers, and starts them again after a fault.

It starts horovodrun. A signal goes to the workers, which save and stop; the status is that of
the worker that ended first; and a job that a fault has ended is started again and resumes, up
to a maximum number of times.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import psutil

from core.environment import for_modules
from core.signals import SIGNALS
from launch.command_line import RESUMES_WITH, horovodrun, resuming
from launch.commands import RECIPE
from training.run_folder import RunFolder

# Statuses after which another attempt would end in the same way, or is not wanted.
FINAL = frozenset({0, 2, 75})
PAUSE_SECONDS = 2.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-np", "--workers", "count", type=click.IntRange(1), default=1, show_default=True)
@click.option("-H", "--hosts", metavar="HOST:N,...", help="As for horovodrun; default: this host.")
@click.option(
    "--restarts", type=click.IntRange(0), default=0, help="Maximum number of restarts; default: 0."
)
@RECIPE
@click.option("--run_dir", type=Path, help="Folder for the run; by default a new one in runs/.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(
    count: int,
    hosts: str | None,
    restarts: int,
    recipe_name: str,
    run_dir: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Runs `train` under horovodrun, passes signals on, and restarts and resumes after faults.

    ARGUMENTS are more options of `train`.
    """
    if run_dir is None:
        run_dir = Path("runs") / f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    python, script = sys.executable, sys.argv[0]
    launcher = horovodrun(count, hosts) if count > 1 or hosts else []
    given = [*arguments, "--recipe", recipe_name]
    first, resume = [*given, "--run_dir", str(run_dir)], resuming(given, run_dir)
    own = ["-np", str(count), *(["-H", hosts] if hosts else []), "--restarts", str(restarts)]
    os.environ[RESUMES_WITH] = shlex.join([Path(python).name, script, "launch", *own, *resume])
    for attempt in range(restarts + 1):
        # Until its folder holds a run, there is nothing to resume.
        resumes = attempt > 0 and RunFolder(run_dir).holds_a_run
        status, signalled = _run([*launcher, python, script, *(resume if resumes else first)])
        if status in FINAL or signalled or attempt == restarts:
            sys.exit(status)
        message = f"the job ended with status {status}; starting it again"
        click.echo(f"recipe.py: {message} ({attempt + 1} of {restarts})", err=True)
        time.sleep(PAUSE_SECONDS)


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """The status of a job, which is that of a worker, and whether a signal came."""
    signals: list[int] = []
    # A session of its own, so that Ctrl-C reaches this process alone.
    job = subprocess.Popen(command, start_new_session=True, env=for_modules())

    def pass_on(number: int, frame: object) -> None:
        # To the workers alone: their supervisors would pass the signal on once more.
        signals.append(number)
        for pid in that_work(below(job.pid), sys.argv[0]) or [job.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    status = job.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    return 128 - status if status < 0 else status, bool(signals)


def below(pid: int) -> list[psutil.Process]:
    """The process and all its descendants; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def that_work(processes: Iterable[psutil.Process], argument: str) -> list[int]:
    """Ids of the processes of a job that are workers: their command line has `argument`.

    horovodrun and a worker's supervisor have the worker's command line, too. The worker
    descends from both, so it is the one with no such process below it.
    """
    found: set[int] = set()
    above: set[int] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):  # any of them may end meanwhile
            if argument in process.cmdline()[1:]:
                above.update(parent.pid for parent in process.parents())
                found.add(process.pid)
    return sorted(found - above)
