"""The run folder's files."""

import resource

import pytest

from core.errors import UserError
from training.recipes import load_recipe
from training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def started(run):
    run.start(load_recipe("demo"), {"workers": 1})
    return run


def test_a_started_run_holds_recipe_versions_and_command(started):
    assert started.holds_a_run
    assert started.recipe()["name"] == "demo"
    text = started.environment_file.read_text()
    assert '"keras": "3.' in text
    assert '"command"' in text


def test_rows_come_back_as_they_were_written(started):
    started.write_checkpoint_row(40, 1.0, 12.5, 4000)
    assert started.checkpoint_rows() == []  # the checkpoint itself is not there
    started.checkpoint(40).touch()
    (row,) = started.checkpoint_rows()
    assert (row["step"], row["epoch"], row["seconds"], row["images"]) == (40, 1, 12.5, 4000)


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(started):
    for step in (0, 40, 80):
        started.checkpoint(step).touch()
        started.write_checkpoint_row(step, 0.0, 1.0, 0)
    started.take_up(40, workers=1, now=1)
    assert [row["step"] for row in started.checkpoint_rows()] == [0, 40]


def test_a_free_folder_is_taken(run):
    run.check_free(resume=False, overwrite=False)
    run.path.mkdir()
    run.check_free(resume=False, overwrite=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((False, False), "already holds a run; --resume resumes it, --overwrite deletes it"),
        ((True, True), "give one of them"),
    ],
)
def test_a_run_is_not_run_over(started, flags, message):
    with pytest.raises(UserError, match=message):
        started.check_free(*flags)


def test_there_has_to_be_a_run_to_resume(run):
    with pytest.raises(UserError, match="holds no run to resume"):
        run.check_free(resume=True, overwrite=False)


def test_other_files_are_not_touched(run):
    run.path.mkdir()
    (run.path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="files that are not a run's"):
            run.check_free(resume=False, overwrite=overwrite)


def test_overwriting_starts_from_nothing(started):
    started.checkpoint(40).touch()
    started.start(load_recipe("demo"), {}, overwrite=True)
    assert list(started.checkpoints.iterdir()) == []


def test_a_row_that_the_disk_has_only_half_room_for_is_not_there_at_all(tmp_path):
    run = RunFolder(tmp_path)
    run.write_line("a line that was there")
    run.write_checkpoint_row(100, 1.0, 2.0, 300)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write in (
        lambda: run.write_line("x" * 100),
        lambda: run.write_checkpoint_row(200, 2.0, 4.0, 600),
    ):
        room = max(map(len, before.values())) + 10  # writes beyond it are cut, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match=r"No space|too large"):
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
