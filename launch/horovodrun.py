"""Horovod's launcher, guarded: `horovodrun -np 2 python ...` after `make setup`.

`python -m launch.horovodrun` is the same, `python -m horovod.runner.launch` is Horovod's own.
Four things differ:

- Whatever its options, Horovod 0.28 itself listens on all interfaces, and its elastic driver
  unpickles what is sent to it there (CVE-2024-10190). This one listens on the loopback
  interface unless hosts are given. It refuses such messages; nothing here sends them.
- The output can be read: `launch/output.py`.
- A signal goes to the workers, which save and stop in their own time; Horovod kills them after
  5 s. The exit status is that of the worker that ended first; Horovod's is 1.
- ssh notices within a minute that the other host is gone.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from core.environment import settings
from core.signals import SAME_SIGNAL_SECONDS, SIGNALS
from core.workers import LAUNCHED_RANK
from launch.output import Screen, go_to_one_place

# Options of horovodrun with which workers may be on other hosts.
HOSTS_ELSEWHERE = frozenset({"-H", "--hosts", "-hostfile", "--hostfile", "--host-discovery-script"})
# ssh ends within a minute when the other host is gone. The workers notice it sooner, and say it.
SSH_NOTICES = " -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
OTHER_CONTROLLERS = frozenset({"--mpi", "--jsrun"})
CHECK_BUILD = frozenset({"-cb", "--check-build"})
# What Horovod says of a job that has ended; the workers have said it better.
CHATTER = re.compile(r"Process \d+ exit with status code|Terminating remaining workers")
EXIT_CODE = re.compile(r"^Exit code: (\d+)$", re.MULTILINE)
SHELLS = frozenset({"sh", "bash", "dash", "zsh"})


def main() -> int:
    """Runs horovodrun's command line behind the guards; returns the exit status."""
    from horovod.runner import launch

    given = {word.partition("=")[0] for word in sys.argv[1:]}
    _guard(launch, given)
    _let_read("--verbose" in given)
    try:
        launch.run_commandline()
    except KeyboardInterrupt:  # before there are workers
        return 128 + signal.SIGINT
    except (RuntimeError, ValueError, OSError) as error:
        if found := EXIT_CODE.search(str(error)):
            return int(found[1])  # the worker has said why
        if "--verbose" in given:
            raise
        print(f"horovodrun: error: {error}", file=sys.stderr)
        return 1
    return 0


def _guard(launch: Any, given: set[str]) -> None:
    """Closes CVE-2024-10190, for a command line with the words `given`."""
    from horovod.runner.common.util import network
    from horovod.runner.elastic import rendezvous
    from horovod.runner.http import http_server
    from horovod.runner.util import remote

    find_port = http_server.find_port

    def find_port_here(make_server: Callable[[tuple[str, int]], Any]) -> Any:
        return find_port(lambda address: make_server(("127.0.0.1", address[1])))

    def refuse(encoded: bytes) -> None:
        raise PermissionError("Horovod's rendezvous was sent a pickle and refused it")

    if not HOSTS_ELSEWHERE & given:
        http_server.find_port = network.find_port = find_port_here
        # Of these workers it is known that they have no GPU, where that is so.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", settings()["TF_CPP_MIN_LOG_LEVEL"])
    remote.SSH_COMMAND_PREFIX += SSH_NOTICES
    rendezvous.codec = SimpleNamespace(loads_base64=refuse)
    # Horovod imports TensorFlow to find out. Gloo is what `make setup` builds.
    if not (CHECK_BUILD | OTHER_CONTROLLERS) & given:
        launch.gloo_built = lambda verbose=False: True
        launch.mpi_built = lambda verbose=False: False


def _let_read(verbose: bool) -> None:
    """Makes Horovod pass output and signals on in our way. `verbose`: it also says who ended."""
    from horovod.runner import gloo_run
    from horovod.runner.common.util import safe_shell_exec

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    screen = Screen(sys.stderr)
    in_one = go_to_one_place(sys.stdout, sys.stderr)
    execute, prefix = safe_shell_exec.execute, safe_shell_exec.prefix_connection

    def execute_in_one(command: str, *args: Any, stdout: Any = None, **options: Any) -> int:
        # Through two pipes, the worker's lines and its messages could change places.
        if in_one and stdout is None and options.get("index") is not None:
            command += " 2>&1"
        return execute(command, *args, stdout=stdout, **options)

    def pass_on(source: Any, stream: Any, name: str, rank: int | None, with_time: bool) -> None:
        if rank is None or with_time:
            prefix(source, stream, name, rank, with_time)
        else:
            screen.pass_on(source, stream, rank)

    def say(*words: Any) -> None:
        if verbose or not CHATTER.match(str(words[0])):
            print(*words)

    os.environ.update(screen.variables())
    safe_shell_exec.execute = execute_in_one
    safe_shell_exec.prefix_connection = pass_on
    gloo_run.print = say
    gloo_run.register_shutdown_event = passes_signals_on


def passes_signals_on() -> threading.Event:
    """From now on, passes a signal on to the workers of this host.

    Returns:
        The event at which Horovod ends all workers: at a second signal, and if the first one
        finds no worker here.
    """
    event = threading.Event()
    first: list[float] = []

    def pass_on(number: int, frame: object) -> None:
        now = time.monotonic()
        if first and now - first[0] < SAME_SIGNAL_SECONDS:
            return
        local = [] if first else workers_here()
        first.append(now)
        for process in local:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if not local:
            event.set()

    for number in SIGNALS:
        signal.signal(number, pass_on)
    return event


def workers_here() -> list[psutil.Process]:
    """The workers below this process; not the processes below them, and not ssh.

    A worker that was started by a shell's script is the script's command, since a shell waits
    for its command and does not pass signals on.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            is_shell = Path(process.name()).name in SHELLS
            if LAUNCHED_RANK in process.environ() and not is_shell:
                found[process.pid] = process
    return [p for p in found.values() if not any(above.pid in found for above in _above(p))]


def _above(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.parents()
    return []


if __name__ == "__main__":
    sys.exit(main())
