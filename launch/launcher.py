"""Launches the workers, and again after a fault.

horovodrun ends a job when one worker ends, with its own traceback, always with status
1, and does not pass a signal on. This wraps it: a signal goes to the workers, which
save and stop; the status is the workers' own; and a job that a fault has ended is
launched again and resumes, a limited number of times.
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
from typing import IO

import click

from core.signals import SIGNALS
from launch.command_line import RESUMES_WITH, environment, horovodrun
from launch.processes import below, that_work

# Statuses after which another try would end the same way, or was not wanted.
FINAL = frozenset({0, 2, 75})
EXIT_CODE = re.compile(r"Process (\d+) exit with status code (\d+)\.")
# What horovodrun says of a job that has ended, which the workers have said better.
CHATTER = re.compile(r"Process \d+ exit with status code|Terminating remaining workers")
TRACEBACK = "Traceback (most recent call last):"
ITS_LAST_LINE = "RuntimeError: Horovod detected that one or more processes exited with non-zero"
BEHIND_IT = re.compile(r"Process name: \d+$|Exit code: -?\d+$|$")
PAUSE_SECONDS = 2.0


def launch(arguments: Sequence[str], workers: int, options: Sequence[str], restarts: int) -> int:
    """Trains on several workers until the run is through, or cannot go on.

    Args:
        arguments: of `recipe.py train`; they name the `--run_dir`.
        workers: how many.
        options: more of horovodrun's own, such as `-H host1:4,host2:4`.
        restarts: how often a job that a fault has ended is launched again.

    Returns:
        The exit status of the worker that ended first.
    """
    script = [sys.executable, str(Path(sys.argv[0]))]
    first = [*script, *arguments]
    rest = [*[a for a in arguments if a not in ("--overwrite", "--resume")], "--resume"]
    again = [*script, *rest]
    hosts = options[options.index("-H") :] if "-H" in options else []
    own = ["launch", "-np", str(workers), *hosts, "--restarts", str(restarts)]
    os.environ[RESUMES_WITH] = shlex.join([Path(sys.executable).name, script[1], *own, *rest])
    run = Path(arguments[list(arguments).index("--run_dir") + 1])
    launcher = horovodrun(workers, options) if workers > 1 or options else []
    for attempt in range(restarts + 1):
        # Before it has a folder, a run begins anew.
        resumes = attempt > 0 and (run / "recipe.yaml").exists()
        job = _Job([*launcher, *(again if resumes else first)])
        status = job.wait()
        if status in FINAL or job.signalled or attempt == restarts:
            return status
        click.echo(
            f"recipe.py: the job ended with status {status}; "
            f"launching it again ({attempt + 1} of {restarts})",
            err=True,
        )
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last attempt returns")


class _Job:
    """One launch: a process group of its own, whose messages are passed on."""

    def __init__(self, command: Sequence[str]):
        self.signalled = False
        self._statuses: list[int] = []
        # A session of its own: Ctrl-C reaches us and no one else.
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment(),
        )
        self._before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        self._threads = [
            threading.Thread(target=self._show, args=pair, daemon=True)
            for pair in (
                (self._process.stdout, sys.stdout.buffer),
                (self._process.stderr, sys.stderr.buffer),
            )
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> int:
        """The status of the worker that ended first, when all have ended."""
        status = self._process.wait()
        for thread in self._threads:
            thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        status = 128 - status if status < 0 else status
        return next((s for s in self._statuses if s), status)

    def _pass_on(self, number: int, frame: object) -> None:
        """Gives a signal to the workers themselves; horovodrun would kill them."""
        self.signalled = True
        # A worker's supervisor would pass it on once more.
        for pid in that_work(below(self._process.pid), sys.argv[0]) or [self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _show(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Passes lines on, but for horovodrun's own on a job that has ended."""
        for line in without_its_own(self._noting_statuses(source)):
            target.write(line)
            target.flush()

    def _noting_statuses(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if found := EXIT_CODE.search(line.decode(errors="replace")):
                self._statuses.append(int(found[2]))
            yield line


def without_its_own(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without what horovodrun adds to a job that has ended.

    A traceback without a rank before it is horovodrun's, or that of the one worker which was
    started without horovodrun. It is held back until its last line, which shows whose it is.
    """
    held: list[bytes] = []
    behind_its_own = False
    for line in lines:
        text = line.decode(errors="replace")
        if text.startswith("["):  # a worker's, which begins with its rank: [0]<stderr>:
            yield line
            continue
        if text.startswith(TRACEBACK) or (held and text[0].isspace()):
            held.append(line)
            continue
        if held and text.startswith(ITS_LAST_LINE):
            held.clear()
            behind_its_own = True
            continue
        yield from held
        held.clear()
        behind_its_own = behind_its_own and BEHIND_IT.match(text) is not None
        if not (behind_its_own or CHATTER.match(text)):
            yield line
    yield from held
