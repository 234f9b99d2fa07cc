"""Which run goes on, and where."""

import sys
import zipfile

import pytest

from training import checkpoints, resume
from training.checkpoints import Snapshot
from training.data import Records, RunData
from training.errors import UserError
from training.recipes import Recipe
from training.run_folder import RunFolder

PHASES = [
    {"epoch": [0, 1], "lr": [0.1, 0.1], "lr_method": "linear", "batch_size": 10,
     "image_size": 20, "data_dir": "20"},
    {"epoch": [1, 2], "lr": [0.1, 0.01], "lr_method": "linear", "batch_size": 5,
     "image_size": 28, "data_dir": "20"},
]  # fmt: skip


def recipe(**changes):
    return Recipe(training_strategy=PHASES, **changes)


@pytest.fixture
def data(tmp_path):
    shard = tmp_path / "train-0"
    shard.write_bytes(b"12345")
    records = Records((shard,), 400, 1)
    return RunData({("20", "train"): records}, records)


@pytest.fixture
def asked(data):
    return resume.facts(recipe(), data, "float32")


class Saved:
    """Something that saves as `keras.Model.save` does: a zip archive."""

    def save(self, path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")


@pytest.fixture
def run(tmp_path, asked):
    """A run of 2 workers, 20 + 40 steps, with checkpoints of steps 0, 10, 20, 30."""
    run = RunFolder(tmp_path / "run")
    run.start(recipe(), {"workers": 2, "facts": asked})
    for step in (0, 10, 20, 30):
        state = {**asked, "workers": 2, "seconds": step / 10, "clock": {}}
        checkpoints.write(Saved(), Snapshot(step, (), state, [[], []]), run.checkpoint(step))
        run.write_checkpoint_row(step, 0.0, step / 10, 0)
    return run


def start(run, asked, workers=2):
    return resume.find_start(run, asked, recipe(), recipe().schedule(workers, {"20": 400}))


def test_the_newest_checkpoint_is_taken(run, asked):
    found = start(run, asked)
    assert (found.step, found.checkpoint, found.seconds) == (30, run.checkpoint(30), 3.0)
    assert found.restores_workers
    assert found.remarks == ()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


def altered(path):
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def of_another_run(path):
    state = {**checkpoints.read_state(path), "policy": "bfloat16"}
    checkpoints.write(Saved(), Snapshot(30, (), state, [[], []]), path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(cut_short, "is cut short"), (altered, "was altered"), (of_another_run, "is of another run")],
)
def test_a_bad_checkpoint_is_named_and_passed_over(run, asked, damage, reason):
    damage(run.checkpoint(30))
    found = start(run, asked)
    assert found.step == 20
    (remark,) = found.remarks
    assert remark.startswith(f"checkpoint step-00000030.keras {reason}")
    assert remark.endswith("passed over")


def test_without_a_good_checkpoint_it_begins_at_0(run, asked):
    for path in run.checkpoint_files():
        cut_short(path)
    found = start(run, asked)
    assert (found.step, found.checkpoint, len(found.remarks)) == (0, None, 5)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"seed": 1}, "key 'seed': was 0, is 1"),
        ({"l2": 1e-3}, "key 'l2': was 0.0002, is 0.001"),
        ({"augmentation": {"flip": False}}, "key 'augmentation.flip': was True, is False"),
        (
            {"training_strategy": [PHASES[0], {**PHASES[1], "batch_size": 8}]},
            "phase 2, key 'training_strategy.batch_size': was 5, is 8",
        ),
    ],
)
def test_another_recipe_is_refused_by_what_differs(run, data, changes, place):
    other = Recipe(**{"training_strategy": PHASES, **changes})
    with pytest.raises(UserError) as error:
        start(run, resume.facts(other, data, "float32"))
    assert place.replace("training_strategy.", "") in str(error.value)
    assert "--overwrite" in str(error.value)


def test_other_data_and_another_policy_are_refused(run, data, asked):
    with pytest.raises(UserError, match=r"--policy.*was 'float32', is 'bfloat16'"):
        start(run, {**asked, "policy": "bfloat16"})
    data.training["20", "train"].files[0].write_bytes(b"123456")
    with pytest.raises(UserError, match="the data in '20/train', files"):
        start(run, resume.facts(recipe(), data, "float32"))


@pytest.mark.parametrize("changes", [{"log_every": 7}, {"keep_newest": 2}, {"name": "x"}])
def test_what_changes_nothing_may_be_changed(run, data, changes):
    found = start(run, resume.facts(recipe(**changes), data, "float32"))
    assert found.step == 30


@pytest.mark.parametrize(
    ("step", "workers", "expected"),
    [
        (10, 1, 20),  # 10 steps of 20 images are 20 of 10
        (10, 4, 5),
        (20, 1, 40),  # the boundary: 400 images
        (30, 1, 60),  # 10 steps of 10 images into phase 2
        (30, 4, 15),  # 100 images into phase 2, from step 10 on, are 5 of 20
        (33, 4, 16),  # 130 images are 6.5 steps
        (60, 1, 120),
        (60, 4, 30),
    ],
)
def test_steps_are_recomputed_from_the_images_seen(step, workers, expected):
    before = recipe().schedule(2, {"20": 400})
    assert resume.step_for(step, before, recipe().schedule(workers, {"20": 400})) == expected


def test_another_number_of_workers_is_said_and_takes_the_same_images(run, asked):
    found = start(run, asked, workers=1)
    assert (found.step, found.restores_workers) == (60, False)
    assert "step 30 of 60 is step 60 of 120" in found.remarks[0]


def test_the_folder_counts_anew_for_another_number_of_workers(run):
    run.write_line("Log @train: steps@10 epoch@0.5")
    run.write_line("Log @eval: count@    1 step@   20 top1@1")
    before, now = (recipe().schedule(n, {"20": 400}) for n in (2, 1))
    run.renumber(lambda step: resume.step_for(step, before, now), workers=1)
    assert run.checkpoint_steps() == [60, 40, 20, 0]
    assert [row["step"] for row in run.checkpoint_rows()] == [0, 20, 40, 60]
    assert run.environment()["workers"] == 1
    assert "steps@20 " in run.log.read_text()
    assert "step@   40 " in run.log.read_text()
    run.renumber(lambda step: resume.step_for(step, now, before), workers=2)
    assert run.checkpoint_steps() == [30, 20, 10, 0]
    assert checkpoints.read_state(run.checkpoint(30))["step"] == 30


def test_the_log_drops_what_is_done_again(run):
    for step in (10, 20, 21, 30):
        run.write_line(f"Log @train: steps@{step} epoch@0.5")
    run.drop_after(20)
    assert [line.split()[2] for line in run.log.read_text().splitlines()] == [
        "steps@10", "steps@20",
    ]  # fmt: skip


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
    assert resume.command(tmp_path / "a run") == (
        f"python recipe.py --recipe demo --run_dir '{tmp_path}/a run' --resume"
    )


def test_the_same_command_once_more(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "evaluate", "--run_dir", "a run"])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert resume.same_command() == "python recipe.py evaluate --run_dir 'a run'"
