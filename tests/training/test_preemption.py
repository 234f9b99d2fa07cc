"""The second signal, also to a process whose main thread never comes back to Python."""

import signal
import subprocess
import sys
import time

import pytest

# A mutex that is locked twice: no signal interrupts that, as none does a dead disk.
STUCK = """
import ctypes
from training.preemption import SignalWatch
SignalWatch().install().deferred = True
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
print("stuck", flush=True)
libc.pthread_mutex_lock(mutex)
"""


@pytest.fixture
def stuck(root):
    process = subprocess.Popen([sys.executable, "-c", STUCK], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"stuck\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_signal_ends_the_process_at_once(stuck):
    stuck.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert stuck.poll() is None
    stuck.send_signal(signal.SIGINT)
    assert stuck.wait(timeout=5) == 128 + signal.SIGINT


def test_two_within_a_second_are_one(stuck):
    stuck.send_signal(signal.SIGTERM)
    stuck.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert stuck.poll() is None
