"""The commands that resume a run or repeat a job."""

import sys

import pytest

from launch import command_line


@pytest.mark.parametrize(
    "given",
    [
        ["--recipe", "demo", "--run_dir", "old", "--resume"],
        ["--recipe", "demo", "--overwrite", "--run_dir=old"],
        ["--recipe", "demo"],
    ],
)
def test_the_command_that_resumes(monkeypatch, tmp_path, given):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *given])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert command_line.to_resume(tmp_path / "a run") == (
        f"python recipe.py --recipe demo --run_dir '{tmp_path}/a run' --resume"
    )


def test_the_same_command_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "evaluate", "--run_dir", "a run"])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert command_line.to_repeat() == "python recipe.py evaluate --run_dir 'a run'"


SHOW = "import sys; from launch import command_line; print(command_line.to_repeat())"


def test_the_launchers_part_is_shown_as_it_was_given(run_process):
    ran = run_process("-c", SHOW, "an argument", workers=2)
    assert "python -m launch.horovodrun -np 2 --gloo python -c 'an argument'" in ran.stdout


def test_horovods_own_launcher_is_shown_by_its_name(run_process, tmp_path):
    """A stand-in of its name: it starts as Horovod's does, a Python script, and launches one."""
    launcher = tmp_path / "horovodrun"
    launcher.write_text("import subprocess, sys\nsys.exit(subprocess.call(sys.argv[4:]))\n")
    command = ["-np", "2", "--gloo", sys.executable, "-c", SHOW, "an argument"]
    ran = run_process(launcher, *command, HOROVOD_SIZE="2")
    assert ran.stdout == "horovodrun -np 2 --gloo python -c 'an argument'\n"
