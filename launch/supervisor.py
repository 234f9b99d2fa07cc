"""The end of a worker: its message, its exit status, and the process beside it.

A worker that is killed, or that hangs, prints nothing. One of several workers is
therefore the child of a supervisor, which

- prints one message when the worker dies or hangs, with the command to resume the run;
- kills a worker that hangs, so that the launcher ends the others;
- says which host does not answer any more, on each side of a broken network;
- ends when the worker ends, as the worker does when it ends: no process stays behind;
- asks for a new place when another worker has ended and Horovod runs elastic;
- passes signals on. If the shell that horovodrun starts has replaced itself by the worker,
  horovodrun asks only the worker's children to end, and stops (SIGSTOP) and kills the
  worker itself.
"""

import contextlib
import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil

from core import workers
from core.board import board
from core.errors import OtherWorkerEnded, Preempted, RunError, UserError
from core.network.links import links
from core.signals import SIGNALS
from launch import command_line, elastic, environment, sagemaker

STOPPED = 75  # exit status of a run that stopped on a signal: EX_TEMPFAIL of sysexits.h
# Of a worker that has lost another one (EX_PROTOCOL), or a whole host (EX_UNAVAILABLE); its
# supervisor's is 1.
OTHER_ENDED, HOST_LOST = 76, 69

# A worker that was stopped (SIGSTOP) has this long to be continued. Horovod's Gloo gives up
# on it after 30 s, and would not say on which worker.
STOPPED_SECONDS = 25.0
# A worker that Horovod has cut off, or that leaves the message to rank 0, waits this long
# for the launcher to end it: on busy cores, another worker may need time to end.
SILENCE_SECONDS = 20.0
# The same where workers have joined by their environment, or where a host is lost: whatever
# started them may not end them, and a scheduler that has sent a signal does not wait long.
UNATTENDED_SECONDS = 5.0
LOOK_EVERY_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tell_how_to_resume(run_dir: Path) -> None:
    """From now on, error messages end with the command that resumes this run."""
    board.note(run_dir=str(run_dir), command=command_line.to_resume(run_dir))


def how_to_resume() -> str:
    """The end of a message: how to resume; empty if there is nothing to resume yet."""
    command = board.read("command")
    if not command:
        return ""
    # What started each worker is not known.
    how = "start each worker of the job again with" if joins_by_environment() else "run"
    return f"; to resume, {how}\n  {command}"


def joins_by_environment() -> bool:
    """Whether this worker joins others that nothing but its environment names."""
    return environment.JOINS_BY in os.environ


def place() -> workers.Workers:
    """This worker's place; where it has not joined the others, as its environment says it."""
    team = workers.current()
    if team.size == 1 and joins_by_environment():
        return workers.Workers(workers.launched_rank(), workers.launched_size())
    return team


def silence() -> float:
    """Seconds in which a launcher ends this process, if it does."""
    longest = UNATTENDED_SECONDS if joins_by_environment() else math.inf
    return min(SILENCE_SECONDS, longest)


def exit_status(main: click.Command) -> int:
    """Runs `main` in this process. A user's mistake becomes one message and status 2."""
    try:
        main(**sagemaker.start())
    except UserError as error:
        return speak(str(error), 2, shared=error.shared)
    except RunError as error:
        return speak(str(error) + how_to_resume(), 1, shared=True)
    except OtherWorkerEnded as error:
        if silent := links.silent_hosts():
            board.note(reason=links.report(silent))
            return HOST_LOST
        # Where nothing ends the others, they all get here: one on each host speaks.
        if not joins_by_environment() or os.environ.get("HOROVOD_LOCAL_RANK") == "0":
            board.note(reason=str(error))
        return OTHER_ENDED
    except OSError as error:  # a disk or a network file system
        where = f"'{error.filename}': " if error.filename else ""
        return speak(f"{where}{error.strerror or error}{how_to_resume()}", 1, shared=False)
    except Exception as error:
        if (stop := stopped_by(error)) is None:
            raise
        if stop.shared or place().is_first:
            speak(str(stop) + how_to_resume(), STOPPED, shared=True, kind="")
        return STOPPED
    return 0


def stopped_by(error: BaseException | None) -> Preempted | None:
    """The stop by a signal that is the reason of an error, if it is.

    A signal may come while TensorFlow traces a function, which then raises an error of its own.
    """
    while error:
        if isinstance(error, Preempted):
            return error
        error = error.__cause__ or error.__context__
    return None


def speak(message: str, status: int, shared: bool, kind: str = "error: ") -> int:
    """Prints a message once, on rank 0 for all workers or as this worker's own; returns `status`.

    Rank 0 ends first. Otherwise the launcher would end it before it has printed.
    """
    from tqdm.auto import tqdm

    team = place()
    if not shared and team.size > 1:
        message = f"worker {team.rank}: {message}"
    if not team.is_first:  # rank 0 may not have the same error, and may not end
        wait_to_be_ended(silence() if shared else 4.0, status)
    if team.is_first or not shared:
        # The bar stays above the message, which ends with what to do.
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
        print(f"recipe.py: {kind}{message}", file=sys.stderr, flush=True)
        if kind:
            sagemaker.note_failure(message)
    return status


def wait_to_be_ended(seconds: float, status: int) -> None:
    """Waits for the launcher to end this process, as it does when another worker ends.

    The process then ends with `status`. Otherwise the first 16 workers return one by one.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(status))
    # At most 16: a longer wait would look like a hang to the supervisor.
    until = time.monotonic() + seconds + min(workers.launched_rank(), 16)
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY_SECONDS)


def supervise(run: Callable[[], int]) -> int:
    """Runs `run` in a child process and watches it; the only worker runs in this process."""
    os.environ.update(environment.announced(os.environ))
    if workers.LAUNCHED_RANK not in os.environ:
        status = run()
        return 1 if status in (OTHER_ENDED, HOST_LOST) else status
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)
        return run()
    status, asked = _watch(child)
    if status not in (OTHER_ENDED, HOST_LOST):
        return status
    reason = board.read("reason")
    speaks = status == HOST_LOST and reason and not asked
    if speaks:
        _speak_for_it(reason)
    if elastic.is_elastic() and board.read("run_dir"):
        elastic.rejoin(Path(board.read("run_dir")))
    elif not (asked or speaks):
        # If another worker has ended, it has said why, and the launcher ends this process
        # during the wait. If several were cut off, rank 0 speaks and ends before the others.
        # Where a host is lost, another worker of this host speaks, or rank 0.
        seconds = silence() * (1 if workers.launched_rank() == 0 else 2)
        wait_to_be_ended(UNATTENDED_SECONDS if status == HOST_LOST else seconds, 1)
        if status == OTHER_ENDED and reason:
            _speak_for_it(f"was cut off by Horovod: {reason}")
    return 1


def _watch(child: int) -> tuple[int, bool]:
    """The child's exit status, and whether a signal had asked it to end."""
    asked: list[int] = []
    worker = psutil.Process(child)

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    stopped_since = math.inf
    while True:
        pid, wait_status = os.waitpid(child, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(wait_status)
            if status >= 0:
                return status, bool(asked)
            if not asked:  # if the launcher ends this one, another one has spoken
                name = signal.Signals(-status).name
                if name == "SIGKILL":
                    name += ", which the kernel also sends when memory runs out"
                if name == "SIGABRT":
                    name += "; the reason stands above"
                    if joins_by_environment() and not board.read("command"):
                        name += (
                            ". If the workers could not connect, set HOROVOD_GLOO_IFACE to the "
                            "network interface between them"
                        )
                _speak_for_it(f"(process {child}) was ended by {name}")
            return 128 - status, bool(asked)
        time.sleep(LOOK_EVERY_SECONDS)
        now = time.monotonic()
        step, last_beat, limit = board.last()
        is_stopped = worker.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        stopped_since = min(stopped_since, now) if is_stopped else math.inf
        if now - stopped_since > STOPPED_SECONDS:
            _speak_for_it(f"has been stopped (SIGSTOP) for {STOPPED_SECONDS:.0f} s")
        elif not is_stopped and limit and now - last_beat > limit:
            # If one worker hangs, all wait for it; Horovod's warning says for which.
            if workers.launched_rank() == 0:
                _speak_for_it(
                    f"and all others have waited for {limit:.0f} s in step {step}; Horovod's "
                    "warning above names the missing ranks"
                )
        else:
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return 1, False


def _speak_for_it(text: str) -> None:
    # The message starts on a new line: a progress bar may be in the current one.
    message = f"\nrecipe.py: error: worker {workers.launched_rank()} {text}{how_to_resume()}"
    with contextlib.suppress(OSError):  # ssh, which would carry it, may be cut off, too
        print(message, file=sys.stderr, flush=True)
