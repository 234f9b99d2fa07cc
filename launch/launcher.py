"""Starts the workers, and starts them again after a fault.

horovodrun ends a job when one worker ends, with its own traceback and always with status
1, and does not pass a signal on. This wraps it: a signal goes to the workers, which save
and stop; the status is the workers' own; and a job that a fault has ended is started
again and resumes, up to a maximum number of times.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import IO

import click

from core.signals import SIGNALS
from launch.command_line import RESUMES_WITH, environment, horovodrun, resuming
from launch.processes import below, that_work
from training.run_folder import RunFolder

# Statuses after which another attempt would end in the same way, or is not wanted.
FINAL = frozenset({0, 2, 75})
EXIT_CODE = re.compile(r"Process \d+ exit with status code (\d+)\.")
# What horovodrun says of a job that has ended; the workers have said it better.
CHATTER = re.compile(r"Process \d+ exit with status code|Terminating remaining workers")
TRACEBACK = "Traceback (most recent call last):"
ITS_LAST_LINE = "RuntimeError: Horovod detected that one or more processes exited with non-zero"
BEHIND_IT = re.compile(r"Process name: \d+$|Exit code: -?\d+$|$")
PAUSE_SECONDS = 2.0


def launch(
    arguments: Sequence[str], run_dir: Path, workers: int, hosts: str | None, restarts: int
) -> int:
    """Trains on several workers until the run is complete, or cannot continue.

    Args:
        arguments: of `recipe.py train`, without `--run_dir`.
        run_dir: folder of the run.
        workers: how many.
        hosts: as in horovodrun's `-H`; by default this host alone.
        restarts: maximum number of times that a job is started again after a fault.

    Returns:
        The exit status of the worker that ended first.
    """
    python, script = sys.executable, sys.argv[0]
    launcher = horovodrun(workers, hosts) if workers > 1 or hosts else []
    first = [*arguments, "--run_dir", str(run_dir)]
    resume = resuming(arguments, run_dir)
    own = ["launch", "-np", str(workers), *(["-H", hosts] if hosts else [])]
    own += ["--restarts", str(restarts)]
    os.environ[RESUMES_WITH] = shlex.join([Path(python).name, script, *own, *resume])
    for attempt in range(restarts + 1):
        # Until its folder holds a run, there is nothing to resume.
        resumes = attempt > 0 and RunFolder(run_dir).holds_a_run
        status, signalled = _run([*launcher, python, script, *(resume if resumes else first)])
        if status in FINAL or signalled or attempt == restarts:
            break
        click.echo(
            f"recipe.py: the job ended with status {status}; "
            f"starting it again ({attempt + 1} of {restarts})",
            err=True,
        )
        time.sleep(PAUSE_SECONDS)
    return status


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Runs one job and passes its output on.

    Returns:
        The status of the worker that ended first, and whether a signal came.
    """
    signals: list[int] = []
    statuses: list[int] = []
    # A session of its own, so that Ctrl-C reaches this process alone.
    job = subprocess.Popen(
        command, stdout=PIPE, stderr=PIPE, start_new_session=True, env=environment()
    )

    def pass_on(number: int, frame: object) -> None:
        """To the workers alone: horovodrun would kill them, and their supervisors would pass
        the signal on once more."""
        signals.append(number)
        for pid in that_work(below(job.pid), sys.argv[0]) or [job.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def show(source: IO[bytes], target: IO[bytes]) -> None:
        for line in without_horovodruns(noting_statuses(source)):
            target.write(line)
            target.flush()

    def noting_statuses(lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if found := EXIT_CODE.search(line.decode(errors="replace")):
                statuses.append(int(found[1]))
            yield line

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    streams = (job.stdout, sys.stdout.buffer), (job.stderr, sys.stderr.buffer)
    threads = [threading.Thread(target=show, args=pair, daemon=True) for pair in streams]
    for thread in threads:
        thread.start()
    status = job.wait()
    for thread in threads:
        thread.join()
    for number, handler in before.items():
        signal.signal(number, handler)
    status = 128 - status if status < 0 else status
    return next((s for s in statuses if s), status), bool(signals)


def without_horovodruns(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without those that horovodrun adds when a job has ended.

    A traceback without a rank before it is horovodrun's, or is that of a single worker that
    was started without horovodrun. Its last line shows which; until then it is held back.
    """
    held: list[bytes] = []
    behind_its_own = False
    for line in lines:
        text = line.decode(errors="replace")
        if text.startswith("["):  # a worker's line begins with its rank: [0]<stderr>:
            yield line
        elif text.startswith(TRACEBACK) or (held and text[0].isspace()):
            held.append(line)
        elif held and text.startswith(ITS_LAST_LINE):
            held.clear()
            behind_its_own = True
        else:
            yield from held
            held.clear()
            behind_its_own = behind_its_own and BEHIND_IT.match(text) is not None
            if not (behind_its_own or CHATTER.match(text)):
                yield line
    yield from held
