"""`launch` shows the output of a job without the lines that horovodrun adds at its end."""

import sys

import pytest

from launch import launcher
from launch.command_line import RESUMES_WITH
from launch.launcher import without_horovodruns

CRASH = """
import os
print("it begins", flush=True)
{crash}
"""
# What Horovod 0.28.1 prints when a worker has ended with status 3.
HOROVODS = """\
Process 0 exit with status code 3.
Terminating remaining workers after failure of Process 0.
Traceback (most recent call last):
  File "/lib/horovod/runner/launch.py", line 837, in <module>
    run_commandline()
  File "/lib/horovod/runner/gloo_run.py", line 302, in launch_gloo
    raise RuntimeError('Horovod detected that one or more processes exited with non-zero '
RuntimeError: Horovod detected that one or more processes exited with non-zero status, thus \
causing the job to be terminated. The first process to do so was:
Process name: 0
Exit code: 3

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


def test_an_error_of_horovodrun_before_the_start_is_shown(launched):
    status, shown = launched("", 3, "localhost:2")
    assert status == 1
    assert "it begins" not in shown
    assert "Requested more processes (3) than there are available slots (2)" in shown


def filtered(text, statuses=()):
    found = []
    left = b"".join(without_horovodruns(text.encode().splitlines(keepends=True), found))
    assert found == list(statuses)
    return left.decode()


def test_horovodruns_own_lines_are_left_out():
    assert filtered(HOROVODS, [3]) == ""
    worker = "[0]<stderr>:KeyError: 'a key'\n"
    lines = HOROVODS.splitlines(keepends=True)
    for place in range(len(lines) + 1):  # a worker's line may come at any place
        assert filtered("".join([*lines[:place], worker, *lines[place:]]), [3]) == worker
    own = "recipe.py: error: of one's own\n"
    assert filtered(HOROVODS + own, [3]) == own


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
def test_everything_else_is_passed_on_unchanged(text):
    assert filtered(text) == text
