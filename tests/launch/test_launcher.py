"""`launch` shows the output of a job without the lines that horovodrun adds at its end."""

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

    def launch(crash, workers, hosts=None):
        script = tmp_path / "worker.py"
        script.write_text(CRASH.format(crash=crash))
        monkeypatch.setattr(sys, "argv", [str(script)])
        monkeypatch.setenv(RESUMES_WITH, "")  # so that it is restored afterwards
        with pytest.raises(SystemExit) as ended:
            launcher.launch.callback(workers, hosts, 0, "demo", tmp_path / "run", ())
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
    assert "[1]<stderr>:KeyError: 'a key'\n" in shown
    assert shown.count("Traceback (most recent call last):") == 1
    assert all(line.startswith("[") for line in shown.splitlines())  # the rank of a worker


def test_the_status_is_that_of_the_worker_that_ended_first(launched):
    status, shown = launched("os._exit(3 if os.environ['HOROVOD_RANK'] == '1' else 0)", 2)
    assert status == 3
    assert "[1]<stdout>:it begins\n" in shown
    assert all(line.startswith("[") for line in shown.splitlines())  # the rank of a worker


def test_horovodrun_itself_ends_with_one_line_and_no_traceback(run_process):
    command = ["-np", "1", "--gloo", sys.executable, "-c", "import sys; sys.exit(3)"]
    ran = run_process("-m", "launch.horovodrun", *command)
    assert ran.returncode == 1
    assert "Process 0 exit with status code 3." in ran.stdout
    assert ran.stderr == ""


def test_an_error_of_horovodrun_before_the_start_is_shown(launched):
    status, shown = launched("", 3, "localhost:2")
    assert status == 1
    assert "it begins" not in shown
    assert "Requested more processes (3) than there are available slots (2)" in shown


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
