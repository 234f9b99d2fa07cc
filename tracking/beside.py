"""The processes beside a run that send it to trackers; nothing here can stop or slow the run."""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

from core import workers
from core.environment import for_modules
from core.errors import UserError
from tracking.follow import patience
from tracking.news import Sent, news, read_sent
from tracking.trackers import check_installed
from training.run_folder import RunFolder

# A process that is to end by itself has so many seconds more, then it is ended.
GRACE = 5.0


class Followers:
    """One process for each tracker, started by rank 0; it reads the run folder until the run ends.

    Its standard input is a pipe from this process. The operating system closes it when this
    process ends, however that happens; so no follower outlives its run for long.

    Args:
        names: of the trackers.

    Raises:
        SharedUserError: a tracker's package is missing on rank 0; a collective.
    """

    def __init__(self, names: Iterable[str]):
        self.names = tuple(dict.fromkeys(names))
        self._running: dict[str, tuple[Popen[str], threading.Thread]] = {}
        if self.names:
            workers.together(self._check)

    def _check(self) -> None:
        if workers.current().is_first:
            patience()
            check_installed(self.names)

    def start(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        """Starts the processes, on rank 0; `say` gets a line when something changes."""
        self.folder, self.say = folder, lambda line: say(f"tracking: {line}")
        for name in self.names:
            try:
                process = self._start(name)
            except OSError as error:  # of the log, or no process can be started
                self.say(f"{name} cannot be started ({error}); the run continues")
                continue
            thread = threading.Thread(target=self._pass_on, args=(process,), daemon=True)
            thread.start()
            self._running[name] = process, thread

    def _start(self, name: str) -> Popen[str]:
        self.folder.tracking.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tracking.follow", str(self.folder.path), name]
        # A session of its own: Ctrl-C is for the run. No pipe of the launcher's: it would wait.
        with (self.folder.tracking / f"{name}.log").open("a") as log:
            return Popen(
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                text=True,
                env=for_modules(),
                start_new_session=True,
            )

    def _pass_on(self, process: Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.say(line.rstrip("\n"))

    def finish(self) -> None:
        """Waits until the trackers have everything, but not for long; says what they do not have.

        Call it when everything is in the run folder. A run that ends without it leaves the
        followers to themselves: they end soon, too.
        """
        for process, _ in self._running.values():
            assert process.stdin
            with suppress(OSError):
                process.stdin.close()
        until = time.monotonic() + patience() + GRACE
        for name, (process, thread) in self._running.items():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:  # it was stopped, or waits for a disk
                process.kill()
            thread.join(GRACE)  # it passes the last lines on
            if process.wait() and (problem := missing(self.folder, name)):
                self.say(problem)
        self._running.clear()


def missing(folder: RunFolder, name: str) -> str:
    """What a tracker lacks of a run that has ended, and what to do; empty where that is nothing."""
    try:
        sent = read_sent(folder, name) or Sent(key="")
        rest = str(news(folder, sent, with_files=True))
    except (UserError, OSError) as error:
        return f"{name}: {error}"
    if not rest and sent.closed:
        return ""
    if not rest and sent.leftovers:
        return f"{name} has not sent all that it was given; `{sent.leftovers}` sends the rest"
    words = [Path(sys.executable).name, sys.argv[0], "track", os.fspath(folder.path), "--to", name]
    return (
        f"{name} lacks {rest or 'the end of the run'}; `{shlex.join(words)}` sends it; "
        f"{folder.tracking / name}.log says why"
    )
