"""Signals, statuses and messages of our launcher, with real processes that cost little."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core.signals import SIGNALS
from launch import horovodrun
from launch.command_line import horovodrun as launcher
from launch.launcher import below
from tests.waiting import HANG_SECONDS

# Says which signal it got. Rank 0 speaks last.
WORKER = """
import os, signal, sys, time
rank = os.environ["HOROVOD_RANK"]
def stop(number, frame):
    print("stopped by", signal.Signals(number).name, file=sys.stderr)
    if rank == "0":
        print("last line")
    sys.exit(75)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("ready", os.path.sameopenfile(1, 2))
while True:
    time.sleep(0.05)
"""


def test_a_signal_goes_to_the_workers_and_their_status_comes_back(tmp_path, root):
    """Below a shell, too, which does not pass it on. Ctrl-C reaches the launcher alone."""
    (tmp_path / "worker.py").write_text(WORKER)
    script = f"'{sys.executable}' '{tmp_path}/worker.py'; exit $?"
    command = [*launcher(2), "sh", "-c", script]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    job = subprocess.Popen(command, cwd=root, start_new_session=True, **output)
    try:
        said = [job.stdout.readline(), job.stdout.readline()]
        # Its output and its error are one pipe here, so that a worker's lines keep their order.
        assert sorted(said) == ["[1] ready True\n", "ready True\n"]
        job.send_signal(signal.SIGINT)
        rest, _ = job.communicate(timeout=HANG_SECONDS)
    finally:
        for process in below(job.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert job.returncode == 75
    lines = rest.splitlines()
    assert sorted(lines) == ["[1] stopped by SIGINT", "last line", "stopped by SIGINT"]
    assert lines.index("stopped by SIGINT") < lines.index("last line")


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Worker:
    def __init__(self):
        self.got = []

    def send_signal(self, number):
        self.got.append(number)


def test_the_second_signal_ends_all_workers(handlers, monkeypatch):
    worker, now = Worker(), [100.0]
    monkeypatch.setattr(horovodrun, "workers_here", lambda: [worker])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    end = horovodrun.passes_signals_on()
    signal.raise_signal(signal.SIGTERM)
    now[0] += 0.5  # a scheduler's, to the process and to its group
    signal.raise_signal(signal.SIGTERM)
    assert (worker.got, end.is_set()) == ([signal.SIGTERM], False)
    now[0] += 1.0
    signal.raise_signal(signal.SIGINT)
    assert (worker.got, end.is_set()) == ([signal.SIGTERM], True)


def test_a_signal_that_finds_no_worker_here_ends_the_job(handlers, monkeypatch):
    monkeypatch.setattr(horovodrun, "workers_here", list)
    end = horovodrun.passes_signals_on()
    signal.raise_signal(signal.SIGINT)
    assert end.is_set()


def run(*arguments, root):
    command = [sys.executable, "-m", "launch.horovodrun", *arguments]
    variables = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)


def test_an_error_of_horovod_itself_is_one_line(root):
    ran = run("-np", "3", "-H", "localhost:2", "true", root=root)
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("horovodrun: error: Requested more processes (3) than there are")


@pytest.mark.parametrize(
    ("words", "asks"),
    [(["-np", "2"], False), (["--check-build"], True), (["-np", "2", "--mpi"], True)],
)
def test_horovod_is_asked_how_it_was_built_only_if_that_matters(monkeypatch, words, asks):
    """Otherwise `--check-build` would show what was never built."""
    from types import SimpleNamespace

    from horovod.runner.common.util import network
    from horovod.runner.elastic import rendezvous
    from horovod.runner.http import http_server

    for module, name in ((http_server, "find_port"), (network, "find_port"), (rendezvous, "codec")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    launch = SimpleNamespace(gloo_built="asks", mpi_built="asks")
    horovodrun._guard(launch, set(words))
    assert (launch.gloo_built == "asks", launch.mpi_built == "asks") == (asks, asks)
    if not asks:
        assert launch.gloo_built(verbose=True)
        assert not launch.mpi_built()
