"""`launch` shows the output of a job, and nothing of the launcher's own at its end."""

import sys

import pytest

from launch import launcher
from launch.command_line import RESUMES_WITH

CRASH = """
import os
print("it begins", flush=True)
{crash}
"""


@pytest.fixture
def launched(tmp_path, monkeypatch, capfdbinary):
    """Launches workers that run the code `crash`; returns the status and the output."""

    def launch(crash, workers):
        script = tmp_path / "worker.py"
        script.write_text(CRASH.format(crash=crash))
        monkeypatch.setattr(sys, "argv", [str(script)])
        monkeypatch.setenv(RESUMES_WITH, "")  # so that it is restored afterwards
        with pytest.raises(SystemExit) as ended:
            launcher.launch.callback(workers, None, 0, "demo", tmp_path / "run", ())
        out, err = capfdbinary.readouterr()
        return ended.value.code, (out + err).decode()

    return launch


def test_a_crash_of_the_only_worker_is_shown(launched):
    status, shown = launched("{}['a key']", 1)
    assert status == 1
    assert shown.startswith("it begins\nTraceback (most recent call last):\n  File ")
    assert shown.endswith("\nKeyError: 'a key'\n")


def test_a_crash_of_one_of_two_workers_is_shown_without_that_of_horovodrun(launched):
    status, shown = launched("if os.environ['HOROVOD_RANK'] == '1': {}['a key']", 2)
    assert status == 1
    assert "[1] KeyError: 'a key'\n" in shown
    assert shown.count("Traceback (most recent call last):") == 1
    own = [line for line in shown.splitlines() if not line.startswith("[1] ")]
    assert own in (["it begins"], [])  # worker 0 may be ended before


def test_the_status_is_that_of_the_worker_that_ended_first(launched):
    crash = "os._exit(3 if os.environ['HOROVOD_RANK'] == '1' else 0)"
    status, shown = launched(crash, 2)
    assert status == 3
    assert sorted(shown.splitlines()) == ["[1] it begins", "it begins"]


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):\n  File 'a'\n    b()\nKeyError: 'c'\nand more\n\n",
        "Traceback (most recent call last):\n  File 'a'\nKeyError: 'c'\n\nDuring handling of the "
        "above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
        "  File 'd'\nValueError\n",
        "Traceback (most recent call last):\n  File 'a'\n",  # killed while it wrote
        "one line\n\nExit code: 3\nProcess name: 1\n",
    ],
)
def test_everything_else_is_passed_on_unchanged(launched, text):
    assert launched(f"print({text!r}, end='')", 1) == (0, f"it begins\n{text}")
