"""Which run goes on, and where."""

import json
import zipfile

import pytest

from core import checkpoints
from core.checkpoints import Snapshot
from core.errors import UserError
from datasets.records.schema import Records
from training import resume
from training.inputs import RunData
from training.recipes import Recipe, load_recipe
from training.run_folder import RunFolder
from training.run_log import RunLog

PHASES = [
    {
        "epoch": [0, 1],
        "lr": [0.1, 0.1],
        "lr_method": "linear",
        "batch_size": 10,
        "image_size": 20,
        "data_dir": "20",
    },
    {
        "epoch": [1, 2],
        "lr": [0.1, 0.01],
        "lr_method": "linear",
        "batch_size": 5,
        "image_size": 28,
        "data_dir": "20",
    },
]


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
    return resume.identity(recipe(), data, "float32")


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
        state = {**asked, "kind": "regular", "workers": 2, "seconds": step / 10, "clock": {}}
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
def test_a_bad_checkpoint_is_named_and_skipped(run, asked, damage, reason):
    damage(run.checkpoint(30))
    found = start(run, asked)
    assert found.step == 20
    (remark,) = found.remarks
    assert remark.startswith(f"checkpoint step-00000030-workers-2.keras {reason}")
    assert remark.endswith("skipped")


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
        (
            {"training_strategy": [PHASES[0], {**PHASES[1], "freeze": ["stem_*"]}]},
            "phase 2, key 'freeze': was [], is ['stem_*']",
        ),
        (
            {"training_strategy": [{**PHASES[0], "augmentation": {"flip": False}}, PHASES[1]]},
            "phase 1, key 'augmentation.flip': was None, is False",
        ),
    ],
)
def test_another_recipe_is_refused_by_what_differs(run, data, changes, place):
    other = Recipe(**{"training_strategy": PHASES, **changes})
    with pytest.raises(UserError) as error:
        start(run, resume.identity(other, data, "float32"))
    assert place.replace("training_strategy.", "") in str(error.value)
    assert "--overwrite" in str(error.value)


def test_a_run_of_a_version_that_knew_fewer_keys_is_the_same_run(run, asked):
    """Its recipe and its checkpoints lack them; what they stand for is the default."""
    old = json.loads(json.dumps(asked))
    for phase in old["recipe"]["training_strategy"]:
        for key in ("power", "momentum", "augmentation", "freeze"):
            del phase[key]
    run.recipe_file.write_text(json.dumps(old["recipe"]))
    noted(run, facts=old)
    written(run, old, 40, "regular")
    assert start(run, asked).step == 40


def noted(run, **changes):
    run.environment_file.write_text(json.dumps(run.environment() | changes))


@pytest.mark.parametrize("images", [{"20": 400}, {"20/train": 400}])
def test_images_may_be_noted_by_folder_as_before(run, asked, images):
    noted(run, images=images)
    assert start(run, asked).step == 30


def test_a_run_whose_images_were_counted_otherwise_is_refused(run, asked):
    """As before, where the number of one prefix stood for all of a folder."""
    noted(run, images={"20": 4000})
    with pytest.raises(UserError, match="4,000 images in '20/train', which holds 400"):
        start(run, asked)


def test_other_data_and_another_policy_are_refused(run, data, asked):
    with pytest.raises(UserError, match=r"--policy.*was 'float32', is 'bfloat16'"):
        start(run, {**asked, "policy": "bfloat16"})
    data.training["20", "train"].files[0].write_bytes(b"123456")
    with pytest.raises(UserError, match="the data in '20/train', files"):
        start(run, resume.identity(recipe(), data, "float32"))


@pytest.mark.parametrize("changes", [{"log_every": 7}, {"keep_newest": 2}, {"name": "x"}])
def test_what_changes_nothing_may_be_changed(run, data, changes):
    found = start(run, resume.identity(recipe(**changes), data, "float32"))
    assert found.step == 30


def test_another_number_of_workers_is_said_and_takes_the_same_images(run, asked):
    found = start(run, asked, workers=1)
    assert (found.step, found.restores_workers) == (60, False)
    assert "step 30 of 60 is step 60 of 120" in found.remarks[0]


def names(run):
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_what_is_written_stays_so_for_another_number_of_workers(run):
    run.write_line("Log @train: steps@10 epoch@0.5")
    run.write_line("Log @eval: count@    1 step@   20 top1@1")
    before = names(run)
    run.take_up(30, workers=2, now=1)
    assert names(run) == before
    rows = run.checkpoint_rows()
    assert [row["step"] for row in rows] == [0, 20, 40, 60]
    assert [run.checkpoint_of(row).name for row in rows] == before
    assert run.environment()["workers"] == 1
    assert run.log.read_text().splitlines()[1:] == [
        "Log @eval: count@    1 step@   20 top1@1",
        "Log @workers: from@2 to@1 steps@60",
    ]
    run.take_up(30, workers=2, now=2)
    assert [row["step"] for row in run.checkpoint_rows()] == [0, 10, 20, 30]


def test_taking_up_a_run_twice_is_taking_it_up_once(run):
    run.write_line("Log @train: steps@10 epoch@0.5")
    files = (run.log, run.checkpoints_csv, run.environment_file)
    run.take_up(20, workers=2, now=1)
    once = [path.read_bytes() for path in files]
    run.take_up(20, workers=2, now=1)
    assert [path.read_bytes() for path in files] == once


def test_a_run_comes_back_to_its_number_of_workers_without_a_checkpoint_between(run, asked):
    written(run, asked, 33, "regular")
    there = start(run, asked, workers=4)
    assert there.step == 16  # 130 images into phase 2 are 6.5 steps of 4 workers
    run.take_up(there.saved_step, there.saved_workers, now=4)
    back = start(run, asked, workers=2)
    assert (back.step, back.checkpoint) == (33, run.checkpoint(33, 2))
    assert back.checkpoint.exists()
    assert back.restores_workers


def test_only_what_was_done_after_the_checkpoint_is_forgotten(run):
    run.take_up(30, workers=2, now=1)  # step 60 of 120
    for step in (61, 62):
        run.write_line(f"Log @train: steps@{step} epoch@1.5")
        run.write_checkpoint_row(step, 1.5, 3.1, 610)
    run.write_line("Log @train: steps@63 epoch@1.5")
    # Step 62 of one worker is step 31 of two, and so is step 63, which is done again.
    run.take_up(62, workers=1, now=2)
    assert [row["written_step"] for row in run.noted_checkpoints()] == [0, 10, 20, 30, 61, 62]
    assert [row["step"] for row in run.noted_checkpoints()] == [0, 10, 20, 30, 30, 31]
    assert [line.split()[2] for line in run.log.read_text().splitlines()] == [
        "steps@61",
        "steps@62",
        "from@1",
    ]


def test_checkpoints_of_an_earlier_version_are_refused(run, asked):
    run.checkpoint(30).rename(run.checkpoints / "step-00000030.keras")
    with pytest.raises(UserError, match=r"step-00000030.keras: its name .* earlier version"):
        start(run, asked)


def written(run, asked, step, kind, workers=2):
    """A checkpoint as a run of `asked` writes and notes it."""
    log = log_of(run, Recipe.model_validate(asked["recipe"]), workers)
    state = {**asked, "kind": kind, "workers": workers, "seconds": 1.0, "clock": {}}
    path = run.checkpoint(step, workers)
    checkpoints.write(Saved(), Snapshot(step, (), state, [[]] * workers), path)
    log.saved(step, path, state)


def log_of(run, recipe, workers):
    schedule = recipe.schedule(workers, {"20": 400})
    return RunLog(run, recipe, schedule, {}, resume.Start(), 0.0, None)


@pytest.mark.parametrize(
    ("now", "every", "step"),
    [
        (1, 10, 70),
        (4, 10, 20),  # the others are at 2.5, 5, 7.5, ... steps of this many workers
        (2, 25, 50),  # another `checkpoint_every`, of which they are no multiples
    ],
)
def test_regular_checkpoints_stay_whatever_their_steps_are_now(run, data, now, every, step):
    before = names(run)
    run.take_up(30, workers=2, now=now)
    changed = resume.identity(recipe(checkpoint_every=every), data, "float32")
    written(run, changed, step, "regular", workers=now)
    assert names(run) == sorted([*before, run.checkpoint(step, now).name])


def test_8_workers_go_on_as_7_and_all_of_the_originals_checkpoints_stay(tmp_path):
    run, original = RunFolder(tmp_path / "run"), load_recipe("imagenet104")
    run.start(original, {"workers": 8})
    for step in range(0, 6251, 625):
        run.checkpoint(step).touch()
        run.write_checkpoint_row(step, 0.0, 0.0, 0)
    run.take_up(6250, workers=8, now=7)
    # 625 * 8 / 7 = 714.3; 7 workers have 247 steps an epoch in the first 21 epochs, and
    # 5187 + (6250 - 4536) * 8 / 7 = 7145.9.
    assert [row["step"] for row in run.checkpoint_rows()][1::9] == [714, 7145]
    log = RunLog(run, original, original.schedule(7), {}, resume.Start(), 0.0, None)
    run.checkpoint(7500).touch()
    facts = {"kind": "regular", "seconds": 1.0, "clock": {}}
    log.saved(7500, run.checkpoint(7500), facts)
    assert len(run.checkpoint_rows()) == 12


def test_a_signals_checkpoint_goes_when_the_next_is_there(run, asked):
    written(run, asked, 33, "signal")
    assert run.checkpoint(33).exists()
    written(run, asked, 35, "signal")
    assert not run.checkpoint(33).exists()
    written(run, asked, 40, "regular")
    assert names(run) == [run.checkpoint(step).name for step in (0, 10, 20, 30, 40)]


def test_a_signals_checkpoint_stays_where_a_damaged_one_lies_behind_it(run, asked):
    written(run, asked, 40, "regular")
    cut_short(run.checkpoint(40))
    assert start(run, asked).step == 30
    run.take_up(30, workers=2, now=2)
    written(run, asked, 33, "signal")
    assert start(run, asked).step == 33
    written(run, asked, 50, "regular")
    assert run.checkpoint(40).exists()  # what is damaged may still be of use to somebody


def test_the_newest_and_every_so_many_stay_as_the_recipe_says(run, data):
    changed = recipe(checkpoint_every=10, keep_newest=1, keep_every=2)
    for step in (40, 50):
        written(run, resume.identity(changed, data, "float32"), step, "regular")
    assert names(run) == [run.checkpoint(step).name for step in (0, 20, 40, 50)]


def test_the_log_drops_what_is_done_again(run):
    for step in (10, 20, 21, 30):
        run.write_line(f"Log @train: steps@{step} epoch@0.5")
    run.take_up(20, workers=2, now=2)
    assert [line.split()[2] for line in run.log.read_text().splitlines()] == [
        "steps@10",
        "steps@20",
    ]
