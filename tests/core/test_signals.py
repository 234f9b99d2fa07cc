"""The second signal, also to a process whose main thread never returns to Python."""

import signal
import subprocess
import sys

import pytest

from core.signals import SAME_SIGNAL_SECONDS
from tests.waiting import HANG_SECONDS

# It locks a mutex twice. No signal interrupts that, as no signal interrupts a wait for a dead
# disk. The process asks the test for the time, which also shows that a signal has come to it.
STUCK = """
import ctypes, sys, types
from core import signals

def ask():
    print("what time is it?", flush=True)
    return float(sys.stdin.readline())

signals.time = types.SimpleNamespace(monotonic=ask)
signals.SignalWatch().install().deferred = True
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
print("stuck", flush=True)
libc.pthread_mutex_lock(mutex)
"""


class Stuck:
    def __init__(self, root):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", STUCK], cwd=root, stdin=pipe, stdout=pipe, text=True
        )
        assert self.process.stdout.readline() == "stuck\n"

    def gets(self, number, at, asks=1):
        """Sends it a signal, and answers each time that it asks for the time."""
        self.process.send_signal(number)
        for _ in range(asks):
            assert self.process.stdout.readline() == "what time is it?\n"
            print(at, file=self.process.stdin, flush=True)


@pytest.fixture
def stuck(root):
    found = Stuck(root)
    yield found
    found.process.kill()
    found.process.communicate()


def test_the_second_signal_ends_the_process_at_once(stuck):
    stuck.gets(signal.SIGTERM, at=10, asks=2)
    stuck.gets(signal.SIGINT, at=10.1 + SAME_SIGNAL_SECONDS)
    assert stuck.process.wait(HANG_SECONDS) == 128 + signal.SIGINT


def test_two_within_a_second_are_one(stuck):
    stuck.gets(signal.SIGTERM, at=10, asks=2)
    stuck.gets(signal.SIGTERM, at=9.9 + SAME_SIGNAL_SECONDS)
    stuck.gets(signal.SIGTERM, at=9.9 + SAME_SIGNAL_SECONDS)  # it is alive, and asks again
