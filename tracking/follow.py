"""Sends a run to a tracker: once, or again and again until the run has ended.

    python -m tracking.follow RUN mlflow

is what a run starts beside itself (`tracking/beside.py`). It ends when its standard input does,
which is when the run's process ends, however that happens. It prints a line when something
changes; what packages print goes to `RUN/tracking/mlflow.log`.
"""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import filelock

from core.errors import RunError, UserError
from core.signals import SIGNALS
from tracking.news import (
    News,
    Sent,
    end_of,
    news,
    read_sent,
    started_at,
    with_point,
    write_sent,
)
from tracking.trackers import About, check_installed, make
from training.run_folder import RunFolder

LOOK_EVERY = 5.0  # seconds
LONGEST_PAUSE = 60.0
# A look at long tables takes time: of a core, following a run takes at most this share.
SHARE = 0.05
PATIENCE = "RECIPE_TRACK_SECONDS"  # how long a tracker may take when the run has ended
AT_ONCE = 500  # points; less is lost when a process ends between two of them


class Session:
    """A run that is open at a tracker; `sent` is kept in the run folder at each step.

    Raises:
        Exception: whatever the tracker's package raises, from the start and from every method.
    """

    def __init__(self, folder: RunFolder, name: str, live: bool):
        self.folder = folder
        self.name = name
        self.sent = read_sent(folder, name) or Sent(key=uuid4().hex, workers=folder.workers)
        self._keep()
        self.tracker = make(name)
        place = self.tracker.place
        nothing = Sent(key=self.sent.key, place=place, workers=folder.workers)
        if self.sent.place != place:
            self.sent = nothing
        path = folder.path.resolve()
        about = About(path.name, started_at(folder), folder.tracking.resolve(), live)
        if self.tracker.open(about, self.sent):
            self.sent = nothing
        self._keep(closed=False, leftovers=self.tracker.leftovers)

    def send(self, with_files: bool) -> News:
        """Sends what the tracker does not have; returns what that was."""
        found = news(self.folder, self.sent, with_files)
        if found.settings:
            facts = self.folder.environment()
            # The recipe stands there a second time, to compare it at a resume.
            facts["facts"] = {k: v for k, v in facts.get("facts", {}).items() if k != "recipe"}
            self.tracker.send_settings(self.folder.recipe(), facts)
            self._keep(settings=True)
        for begin in range(0, len(found.points), AT_ONCE):
            points = found.points[begin : begin + AT_ONCE]
            self.tracker.send_points(points)
            self.sent = functools.reduce(with_point, points, self.sent)
            self._keep(rows=self.tracker.rows)
        for path, digest in found.files:
            self.tracker.send_file(path)
            self._keep(files={**self.sent.files, path.name: digest}, rows=self.tracker.rows)
        return found

    def close(self) -> None:
        self.tracker.close(*end_of(self.folder))
        self._keep(closed=True)

    def _keep(self, **changes: Any) -> None:
        self.sent = self.sent.changed(**changes)
        write_sent(self.folder, self.name, self.sent)


def lock_of(folder: RunFolder, name: str) -> filelock.FileLock:
    """Held by the process that sends the run to a tracker; one that dies releases it."""
    folder.tracking.mkdir(exist_ok=True)
    return filelock.FileLock(folder.tracking / f".{name}.lock")


def send_once(folder: RunFolder, name: str) -> str:
    """Sends what the tracker does not have; returns, in words, what that was and where it is.

    Raises:
        UserError: there is no run, its package is not installed, or it is being sent now.
        RunError: the tracker does not take it.
    """
    if not folder.holds_a_run:
        raise UserError(f"{folder.path}: holds no run")
    check_installed([name])
    try:
        with lock_of(folder, name).acquire(timeout=0):
            session = Session(folder, name, live=False)
            found = session.send(with_files=True)
            address = session.tracker.address()
            session.close()
    except filelock.Timeout:
        raise UserError(
            f"{folder.path}: another process is sending this run to {name}; when it has ended, "
            "run this again, if anything is missing"
        ) from None
    except UserError:
        raise
    except Exception as error:  # of any kind: they come from the tracker's package
        raise RunError(f"{name}: {reason(error)}; run the same command to try again") from None
    return f"{name}: sent {str(found) or 'nothing new'}; {address}"


def reason(error: Exception, most: int = 300) -> str:
    """The first line of an error, cut short."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= most else f"{text[:most]} ..."


def follow(
    folder: RunFolder, name: str, ended: threading.Event, say: Callable[[str], None]
) -> bool:
    """Sends until the run has ended, once more then; returns whether the tracker has it all."""
    session: Session | None = None
    fails = False
    while True:
        is_last = ended.is_set()  # before the look, so that the last rows are found
        began = time.monotonic()
        try:
            if session is None:
                session = Session(folder, name, live=True)
                say(f"{name}: {session.tracker.address()}")
            session.send(with_files=is_last)
            if is_last:
                session.close()
        except Exception as error:  # of any kind: they come from the tracker's package
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            if not (fails or is_last):
                say(f"{name}: {reason(error)}; the run continues, and this is tried again")
            fails = True
        else:
            if fails and not is_last:
                say(f"{name}: it works again")
            fails = False
        if is_last:
            if session and not fails:
                say(f"{name} has all of the run: {session.tracker.address()}")
            return not fails
        pause = (time.monotonic() - began) * (1 / SHARE - 1)
        ended.wait(min(max(pause, LOOK_EVERY), LONGEST_PAUSE))


def patience() -> float:
    """Seconds that a tracker may take when the run has ended; raises `UserError`."""
    text = os.environ.get(PATIENCE, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{PATIENCE}: received {text!r}; give a number of seconds")
    return seconds


def main() -> int:
    os.nice(19)
    # The run answers the signals, and the end of the run ends this process.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    run_dir, name = sys.argv[1:]
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    run = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    ended = threading.Event()

    def end_with_the_run() -> None:
        run.read()  # until the other end is closed
        ended.set()
        time.sleep(patience())
        print(f"{name}: not done after {patience():g} s; ended", file=sys.stderr, flush=True)
        os._exit(1)

    def say(line: str) -> None:
        with suppress(BrokenPipeError):
            print(line, file=lines, flush=True)

    # A thread: the tracker's package may be waiting for an answer that never comes.
    threading.Thread(target=end_with_the_run, name="end with the run", daemon=True).start()
    folder = RunFolder(run_dir)
    with lock_of(folder, name):
        return 0 if follow(folder, name, ended, say) else 1


if __name__ == "__main__":
    sys.exit(main())
