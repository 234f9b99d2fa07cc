"""A process beside each worker, that speaks for it when it cannot.

A worker that is killed, or hangs, says nothing. Under horovodrun each worker is
therefore the child of a small process of its own, which

- says with one message that the worker died or hangs, and how to go on with the run;
- ends a worker that hangs, so that the launcher ends the others;
- dies with it, and it with the launcher: no process stays behind;
- asks, where Horovod runs elastic, for a new place when another worker has ended;
- passes signals on. Where the shell that horovodrun starts has replaced itself by the
  worker, horovodrun asks only the worker's children to end, and stops (SIGSTOP) and
  kills the worker itself.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core import workers
from core.board import board
from core.signals import SIGNALS
from launch import command_line, elastic

# Exit status of a run that was asked to stop and did: sysexits.h, EX_TEMPFAIL.
STOPPED = 75
# Of a worker that another one has left alone (EX_PROTOCOL); its supervisor's is 1.
OTHER_ENDED = 76

# A worker that the kernel has stopped (SIGSTOP) gets so long to be continued. Horovod's
# Gloo gives up on it after 30 s, and would not say on whom.
STOPPED_SECONDS = 25.0
# A worker that Horovod has left, or that leaves it to rank 0 to speak, waits so long for the
# launcher to end it: where the cores are busy, another worker may take its time to end.
SILENCE_SECONDS = 20.0
LOOK_EVERY_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tell_how_to_resume(run_dir: Path) -> None:
    """Notes how to go on with the run, for whoever has to say so."""
    board.tell(run_dir, command_line.to_resume(run_dir))


@contextlib.contextmanager
def done_by_the_same_command() -> Iterator[None]:
    """Within it, what a fault breaks off is gone on with by the command that began it."""
    board.tell(None, command_line.to_repeat())
    yield
    board.tell(None, "")


def how_to_resume() -> str:
    """The end of a message: how to go on with the run; empty before there is one."""
    return f"; go on with\n  {board.command}" if board.command else ""


def supervise(run: Callable[[], int]) -> int:
    """Runs `run` in a child process, watches it and returns its exit status.

    A process that horovodrun has not launched runs it itself.
    """
    if workers.LAUNCHED_RANK not in os.environ:
        status = run()
        return 1 if status == OTHER_ENDED else status
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        return run()
    status, asked = _watch(child)
    if status != OTHER_ENDED:
        return status
    if elastic.is_elastic() and board.run_dir:
        elastic.go_on(board.run_dir)
    elif not asked:
        _tell_what_nobody_tells()
    return 1


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


def _tell_what_nobody_tells() -> None:
    """Says why Horovod broke off, unless the launcher ends this process before.

    It does where another worker has ended, which has told why.
    """
    # Where several were left, rank 0 speaks and ends before the others do.
    wait_to_be_ended(SILENCE_SECONDS * (1 if _rank() == 0 else 2), 1)
    _speak(f"was left by Horovod: {board.reason}")


def wait_to_be_ended(seconds: float, status: int) -> None:
    """Waits for the launcher to end this process, as it does when another worker ends.

    The process ends with `status` then. The first 16 workers return one after the other.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(status))
    # None waits so long that its supervisor takes it for one that hangs.
    until = time.monotonic() + seconds + min(_rank(), 16)
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY_SECONDS)


def _watch(child: int) -> tuple[int, bool]:
    """The child's exit status, and whether a signal had asked it to end."""
    passed_on: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        passed_on.append(number)
        _send(child, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    stopped_since: float | None = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            asked = bool(passed_on)
            return _ended(child, os.waitstatus_to_exitcode(status), asked), asked
        time.sleep(LOOK_EVERY_SECONDS)
        now = time.monotonic()
        step, beaten, longest = board.last()
        if _is_stopped(child):
            stopped_since = stopped_since or now
            if now - stopped_since > STOPPED_SECONDS:
                _speak(f"has been stopped (SIGSTOP) for {STOPPED_SECONDS:.0f} s")
                return _kill(child), False
        else:
            stopped_since = None
            if longest and now - beaten > longest:
                # Where one worker hangs, all of them wait; Horovod's warning tells which.
                if _rank() == 0:
                    _speak(
                        f"and all others wait for {longest:.0f} s in step {step}; Horovod's "
                        "warning above names the ranks that are missing"
                    )
                return _kill(child), False


def _ended(child: int, code: int, asked: bool) -> int:
    if code >= 0:
        return code
    number = -code
    if not asked:  # the launcher ends those that are left, when one has spoken
        hint = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
        _speak(f"(process {child}) was ended by {signal.Signals(number).name}{hint}")
    return 128 + number


def _kill(child: int) -> int:
    _send(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def _send(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _rank() -> int:
    return int(os.environ.get(workers.LAUNCHED_RANK, "0"))


def _speak(text: str) -> None:
    # A progress bar may stand in the line.
    message = f"\nrecipe.py: error: worker {_rank()} {text}{how_to_resume()}"
    print(message, file=sys.stderr, flush=True)
