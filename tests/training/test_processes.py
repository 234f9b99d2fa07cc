"""Processes of a job: real ones, three deep, of which some end."""

import subprocess
import sys
import time

import psutil
import pytest

from training.processes import below, runs, that_work

WORD = "a-word-of-nobody-else"
# Starts a shell that starts what is given, and waits: horovodrun's way.
LAUNCHER = """
import subprocess, sys
command = sys.argv[2:]
subprocess.run(["/bin/sh", "-c", '"$@"; true', "shell", *command] if command else ["sleep", "60"])
"""


@pytest.fixture
def job():
    """A launcher with the word, below it a shell, a second with the word, and its worker."""
    python = [sys.executable, "-c", LAUNCHER, WORD]
    worker = [sys.executable, "-c", "import time; time.sleep(60)", WORD]
    process = subprocess.Popen([*python, *python, *worker])
    until = time.monotonic() + 30
    while len(below(process.pid)) < 5:  # launcher, shell, launcher, shell, worker
        assert time.monotonic() < until
        time.sleep(0.05)
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


def test_one_that_has_ended_is_passed_over(job):
    processes = below(job.pid)
    worker = psutil.Process(that_work(processes, WORD)[0])
    assert runs(worker)
    worker.kill()
    while job.poll() is None:  # all above it end with it
        time.sleep(0.01)
    assert not any(map(runs, processes))
    assert that_work(processes, WORD) == []
    assert below(job.pid) == []


def test_one_that_nobody_has_waited_for_does_not_run():
    process = subprocess.Popen([sys.executable, "-c", ""])
    seen = psutil.Process(process.pid)
    until = time.monotonic() + 30
    while seen.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert seen.is_running()  # as psutil has it
    assert not runs(seen)
    process.wait()
    assert not runs(seen)
