"""What a user types to resume a run, or to repeat a job."""

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
def test_the_command_that_goes_on(monkeypatch, tmp_path, given):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *given])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert command_line.to_resume(tmp_path / "a run") == (
        f"python recipe.py --recipe demo --run_dir '{tmp_path}/a run' --resume"
    )


def test_the_same_command_once_more(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "evaluate", "--run_dir", "a run"])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert command_line.to_repeat() == "python recipe.py evaluate --run_dir 'a run'"
