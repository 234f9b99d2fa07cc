"""The processes of a job, some of which end; with real processes, three levels deep."""

import subprocess
import sys

import psutil
import pytest

from benchmarks.chaos import runs
from launch.launcher import below, that_work
from tests.waiting import HANG_SECONDS, until

WORD = "a-word-of-nobody-else"
# Like horovodrun, it starts a shell that runs the given command, and waits for it.
LAUNCHER = """
import subprocess, sys
command = sys.argv[2:]
subprocess.run(["/bin/sh", "-c", '"$@"; true', "shell", *command] if command else ["sleep", "1h"])
"""


@pytest.fixture
def job():
    """A launcher with the word, below it a shell, a second with the word, and its worker."""
    python = [sys.executable, "-c", LAUNCHER, WORD]
    worker = [sys.executable, "-c", f"import time; time.sleep({HANG_SECONDS})", WORD]
    process = subprocess.Popen([*python, *python, *worker])
    until(lambda: len(below(process.pid)) == 5)  # launcher, shell, launcher, shell, worker
    yield process
    for each in below(process.pid):
        each.kill()
    process.wait()


def test_the_worker_is_the_one_that_starts_no_other(job):
    processes = below(job.pid)
    assert processes[0].pid == job.pid
    last = next(p for p in processes if not p.children())
    assert that_work(processes, WORD) == [last.pid]
    assert that_work(processes, "another word") == []


def test_one_that_has_ended_is_skipped(job):
    processes = below(job.pid)
    worker = psutil.Process(that_work(processes, WORD)[0])
    assert runs(worker)
    worker.kill()
    job.wait(HANG_SECONDS)  # all processes above it end, too
    assert not any(map(runs, processes))
    assert that_work(processes, WORD) == []
    assert below(job.pid) == []


def test_a_zombie_does_not_run():
    process = subprocess.Popen([sys.executable, "-c", ""])
    seen = psutil.Process(process.pid)
    until(lambda: seen.status() == psutil.STATUS_ZOMBIE)
    assert seen.is_running()  # in psutil's sense
    assert not runs(seen)
    process.wait()
    assert not runs(seen)
