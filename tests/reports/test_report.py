"""`recipe.py report`: the published record, and runs as a user has them."""

import csv
import itertools
import json
import re
import resource
from types import SimpleNamespace

import numpy as np
import pytest

from core import workers
from core.errors import UserError
from core.schedule import Schedule
from launch import commands
from reports.conclude import conclude
from reports.console import target_words, time_words
from reports.dawnbench import entry, tsv_rows, write_entry
from reports.pictures import draw_schedule
from reports.reader import read_record
from reports.report import report
from reports.run_record import RunRecord, phases_of
from reports.time_to_accuracy import choose_clock, parse_target, repeats, summarize, time_to
from tests.training import published
from training import model
from training.recipes import load_recipe
from training.run_folder import RunFolder

BUCKETS = ("start_up", "data", "tracing", "steps", "checkpoints", "evaluation")


@pytest.fixture(scope="session")
def curve(root):
    """The original's entry as published: epoch, hours, top-1, top-5 of 33 checkpoints."""
    return root / "benchmarks" / "published" / "gehc_resnet50.tsv"


def write_run(path, checkpoints, recipe="imagenet104", workers=8, evaluated=True, seed=0):
    """A run folder with (step, seconds, top-1 %, top-5 %), without the checkpoints."""
    run = RunFolder(path)
    run.start(load_recipe(recipe).model_copy(update={"seed": seed}), {"workers": workers})
    for count, (step, seconds, top1, top5) in enumerate(checkpoints):
        run.write_checkpoint_row(step, 0.0, seconds, 0)
        if evaluated:
            row = {"step": step, "epoch": 0.0, "seconds": seconds, "loss": 1.0, "images": 50000}
            row |= {"top1": top1 / 100, "top5": top5 / 100, "image_size": 288, "crop": "centre"}
            row |= {"data": "", "folder": "", "images_per_second": 100.0, "time": "then"}
            run.write_evaluation_row(count, row)
    return run


@pytest.fixture
def original(curve, tmp_path):
    """The published record as a run folder of ours: steps, seconds and fractions."""
    lines = list(csv.reader(curve.open(newline=""), dialect="excel-tab"))[1:]
    steps = [*range(0, 19683, 625), 19683]
    return write_run(
        tmp_path / "original",
        [
            (step, round(float(hours) * 3600, 2), float(top1), float(top5))
            for step, (_, hours, top1, top5) in zip(steps, lines, strict=True)
        ],
    )


def test_the_first_crossing_is_the_one_read_by_hand(curve, run_command):
    ran = run_command("report", curve, "--target", "top5=93", "--price", 24.48, "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["runs"][0]["target"]
    assert found["step"] == 15000
    assert found["top5"] == pytest.approx(0.9311)
    assert found["hours"] == pytest.approx(1.7426, abs=5e-5)
    assert found["epoch"] == 36.2
    assert found["images"] == 4536 * 5920 + 6875 * 2048 + 3268 * 1568 + 321 * 1024
    assert found["cost"] == pytest.approx(1.742588889 * 24.48, abs=1e-3)
    assert found["stayed_above"]
    assert found["lowest_after"] == pytest.approx(0.93)


def test_a_run_folder_gives_the_published_entry_to_the_byte(original, curve, tmp_path):
    about, tsv = write_entry(read_record(original.path), tmp_path / "out", price=24.48)
    assert tsv.read_bytes() == curve.read_bytes()
    found = json.loads(about.read_text())
    assert found["version"] == "v1.0"
    assert found["costPerHour"] == 24.48
    assert found["misc"]["training_strategy"][2]["batch_size"] == 256
    assert found["misc"]["save_checkpoints_steps"] == 625
    assert "TensorFlow 2." in found["framework"]


def test_an_entry_read_back_is_the_run(original, tmp_path):
    record = read_record(original.path)
    again = read_record(write_entry(record, tmp_path)[1])
    assert [c.step for c in again.checkpoints] == [c.step for c in record.checkpoints]
    assert tsv_rows(again) == tsv_rows(record)
    assert [p.first for p in again.phases] == [0, 1296, 4536, 11411, 14679]


def test_the_entry_of_a_run_on_sets_of_several_lengths(tmp_path):
    """80 steps an epoch up to epoch 9, at step 720; from there on 10 steps an epoch."""
    points = [(step, 1.0 + step, 50.0, 90.0) for step in (*range(0, 810, 60), 810)]
    run = write_run(tmp_path / "r", points, "demo", workers=1)
    images = {"20/train": 4000, "28/train": 400}
    run.environment_file.write_text(json.dumps(run.environment() | {"images": images}))
    record = read_record(run.path)
    assert [row[0] for row in tsv_rows(record)[-3:]] == ["9", "15", "18"]
    about, curve = write_entry(record, tmp_path)
    assert json.loads(about.read_text())["misc"]["images"] == images
    again = read_record(curve)
    assert [c.step for c in again.checkpoints] == [c.step for c in record.checkpoints]
    assert [c.images for c in again.checkpoints] == [c.images for c in record.checkpoints]
    about.write_text(about.read_text().replace("28/train", "29/train"))
    assert {c.images for c in read_record(curve).checkpoints} == {None}


def test_nothing_rounds_up_to_the_target(tmp_path):
    run = write_run(tmp_path / "near", [(0, 1.0, 70.0, 0.0), (625, 20.0, 75.0, 92.998)])
    record = read_record(run.path)
    assert tsv_rows(record)[1][3] == "92.998"
    assert not time_to(parse_target("top5=93"), record.checkpoints, "everything")["reached"]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "hvd_train.txt"
    path.write_text(published.LOG)
    return read_record(path)


def test_the_originals_log_gives_its_entry(log):
    found = [tuple(map(float, row)) for row in tsv_rows(log)]
    assert found == published.LOG_TSV


def test_the_originals_log_tells_steps_phases_and_images(log):
    assert log.workers == 8
    assert [(p.first, p.end, p.batch_size, p.image_size) for p in log.phases] == [
        (0, 1296, 740, 128),
        (1296, 4536, 740, 128),
        (4536, 11411, 256, 224),
        (11411, 14679, 196, 224),
        (14679, 19683, 128, 288),
    ]
    at = {c.step: c for c in log.checkpoints}
    assert at[1250].images == 1250 * 740 * 8
    assert at[15000].seconds["everything"] == 6138.70
    # (1250 - 625) * 5920 images in 527.88 - 275.59 s; the log's own rate of that window.
    assert log.phases[0].images_per_second == pytest.approx(14671.39, rel=1e-4)
    crossing = time_to(parse_target("top5=93"), log.checkpoints, "dawnbench", 24.48)
    assert (crossing["step"], crossing["seconds"]) == (19375, 7820.92)


def test_a_log_of_ours_is_read(tmp_path):
    run = RunFolder(tmp_path)
    for step in (20, 40):
        row = {"step": step, "epoch": step / 40, "images_per_second": 100.0, "loss": 1.0}
        row |= {"total_loss": 2.0, "learning_rate": 0.1, "batch_size": 50, "image_size": 20}
        run.write_train_row(row | {"top5": 0.5, "seconds": step * 1.0})
    row = {"step": 30, "top1": 0.5, "top5": 0.9, "loss": 1.0, "time": "now"}
    run.write_evaluation_row(0, row | {"image_size": 28, "crop": "centre", "data": ""})
    record = read_record(run.log)
    (checkpoint,) = record.checkpoints
    assert (checkpoint.step, checkpoint.epoch, checkpoint.top5) == (30, 0.75, 0.9)
    assert checkpoint.seconds["everything"] == 30  # half-way between the two lines
    assert any("between those of two train lines" in remark for remark in record.remarks)


POINTS = [
    (0, 10.0, 1.0, 5.0),
    (625, 100.0, 60.0, 93.5),
    (1250, 200.0, 61.0, 92.0),
    (1875, 300.0, 62.0, 94.0),
]


def test_a_target_that_was_lost_again_says_so(tmp_path):
    record = read_record(write_run(tmp_path / "r", POINTS).path)
    found = time_to(parse_target("top5=93"), record.checkpoints, "everything")
    assert (found["step"], found["seconds"]) == (625, 100)
    assert not found["stayed_above"]
    assert found["lowest_after"] == 0.92
    assert "did not stay above (lowest after it 92.00%)" in target_words(found)


def test_a_target_never_reached_is_said_and_is_no_error(tmp_path, run_command):
    run = write_run(tmp_path / "r", POINTS)
    ran = run_command("report", run.path, "--target", "top1=75")
    assert ran.returncode == 0, ran.stderr
    assert "top-1 75 %: not reached; the best checkpoint has 62.00%" in ran.stdout
    # It has no clock.csv, and says so in place of figures that it cannot know.
    assert "no clock.csv" in ran.stdout
    assert "at most" in ran.stdout


@pytest.fixture
def clocked(tmp_path):
    """Three checkpoints, and the seconds in each bucket at each of them."""
    points = [(0, 9.0, 1.0, 5.0), (625, 63.0, 50.0, 93.0), (1250, 116.0, 60.0, 95.0)]
    run = write_run(tmp_path / "clocked", points)
    for step, event, seconds in (
        (0, "checkpoint", (4, 1, 2, 0, 2, 0)),
        (625, "checkpoint", (4, 1, 4, 50, 4, 0)),
        (1250, "checkpoint", (4, 1, 4, 101, 6, 0)),
        (1250, "end", (4, 1, 4, 101, 8, 30)),
    ):
        run.write_clock_row(step, event, 5920 * step, dict(zip(BUCKETS, seconds, strict=True)))
    return run


@pytest.mark.parametrize(
    ("clock", "crossing", "total"),
    [("training", 50, 101), ("dawnbench", 59, 110), ("everything", 63, 148)],
)
def test_each_clock_counts_its_buckets(clocked, clock, crossing, total):
    summary = summarize(read_record(clocked.path), clock, parse_target("top5=93"), price=36)
    assert summary["target"]["seconds"] == crossing
    assert summary["target"]["cost"] == pytest.approx(crossing / 100)
    assert summary["total"]["seconds"] == total
    assert not summary["at_most"]
    assert summary["buckets"]["evaluation"] == 30


@pytest.mark.parametrize("order", itertools.permutations(("phase", "checkpoint", "end")))
def test_of_several_events_at_one_step_each_has_its_use(tmp_path, order):
    """Phase 1 ends at step 1296, where a checkpoint is written, and here the run, too."""
    run = write_run(tmp_path / "r", [(0, 10.0, 1.0, 5.0), (1296, 180.0, 50.0, 93.0)])
    at = {
        "phase": (4, 1, 5, 100, 2, 0),
        "checkpoint": (4, 1, 5, 160, 10, 0),
        "end": (4, 1, 5, 160, 15, 30),
    }
    run.write_clock_row(0, "checkpoint", 0, dict(zip(BUCKETS, (4, 1, 3, 0, 2, 0), strict=True)))
    for event in order:
        buckets = dict(zip(BUCKETS, at[event], strict=True))
        run.write_clock_row(1296, event, 1296 * 5920, buckets)
    record = read_record(run.path)
    # The checkpoint's time is its own row's; with the start-up, data and tracing of 10 s.
    seconds = {"training": 160, "dawnbench": 170, "everything": 180}
    assert record.checkpoints[-1].seconds == seconds
    assert {clock: record.seconds_at(1296, clock) for clock in seconds} == seconds
    # The phase's rate is of its steps until its own end: 740 x 8 images each, in 100 s.
    assert record.phases[0].images_per_second == pytest.approx(1296 * 5920 / 100)
    # The whole run is until its end: the checkpoint's 180 s, 5 more of writing, 30 of evaluation.
    assert record.totals == {"training": 160, "dawnbench": 170, "everything": 215}
    assert record.buckets == dict(zip(BUCKETS, at["end"], strict=True))


def test_a_clock_that_misses_the_start_of_a_run_is_not_believed(clocked):
    text = clocked.clock_csv.read_text().replace(
        "625,checkpoint,3700000,4,1,4,50", "625,checkpoint,3700000,4,1,4,5"
    )
    clocked.clock_csv.write_text(text)
    record = read_record(clocked.path)
    assert record.buckets is None
    assert record.clocks == ("dawnbench", "everything")


def test_runs_are_compared_by_one_clock(clocked, curve, tmp_path):
    old = write_run(tmp_path / "old", POINTS)
    ours, entry_, before = (read_record(p) for p in (clocked.path, curve, old.path))
    assert choose_clock([ours, before, entry_], None) == "dawnbench"
    with pytest.raises(UserError, match="old: its times are known by the clock dawnbench or every"):
        choose_clock([ours, before], "training")
    with pytest.raises(UserError, match="dawnbench only, not by everything"):
        choose_clock([entry_], "everything")


def test_repeats_have_a_median_and_a_range(tmp_path):
    runs = [
        write_run(tmp_path / f"r{i}", [(0, 1.0, 1.0, 2.0), (625, seconds, 70.0 + i, top5)], seed=i)
        for i, (seconds, top5) in enumerate([(30.0, 93.0), (10.0, 94.0), (20.0, 92.0)])
    ]
    other = write_run(tmp_path / "other", POINTS, workers=4)
    records = [read_record(run.path) for run in (*runs, other)]
    target = parse_target("top5=93")
    (group,) = repeats(records, [summarize(r, "everything", target) for r in records])
    assert len(group["runs"]) == 3
    assert group["total"] == {"median": 20, "min": 10, "max": 30}
    assert group["top1"] == {"median": 0.71, "min": 0.70, "max": 0.72}
    assert (group["reached"], group["seconds"]) == (2, {"median": 20, "min": 10, "max": 30})


def test_runs_on_other_validation_records_are_no_repeats(tmp_path):
    records = []
    for name in "abb":
        run = write_run(tmp_path / f"r{len(records)}", POINTS, evaluated=False)
        run.note_own_data(f"records-{name}")
        records.append(read_record(run.path))
    (group,) = repeats(records, [summarize(r, "everything") for r in records])
    assert group["runs"] == [record.name for record in records[1:]]


def test_a_report_is_saved_with_its_pictures(clocked, tmp_path):
    _, _, saved = report([clocked.path], parse_target("top5=93"))
    assert {p.parent for p in saved} == {clocked.path}
    for name in ("accuracy_vs_time", "schedule_vs_steps", "time_buckets"):
        assert (clocked.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (clocked.path / f"{name}.svg").read_text()
    assert json.loads((clocked.path / "report.json").read_text())["target"] == "top-5 93 %"
    other = write_run(tmp_path / "other", POINTS)
    _, _, saved = report([clocked.path, other.path])
    assert saved == []  # a comparison is nobody's own
    _, _, saved = report([clocked.path, other.path], output=tmp_path / "both")
    assert (tmp_path / "both" / "accuracy_vs_time.svg") in saved


def test_the_picture_of_a_schedule_follows_its_curves(tmp_path):
    """A momentum has a panel where a run has one. By hand: half way a cosine is at the middle."""
    phase = {"lr_method": "cosine", "batch_size": 4, "image_size": 8, "data_dir": "d"}
    parts = [
        phase | {"epoch": [0, 1], "lr": [0.0, 1.0], "momentum": [0.96, 0.9]},
        phase | {"epoch": [1, 2], "lr": [1.0, 0.0], "momentum": [0.9, 0.8], "image_size": 12},
    ]
    plain = [{key: value for key, value in part.items() if key != "momentum"} for part in parts]
    moving, still = (
        RunRecord("r", tmp_path, "log", (), (), tuple(phases_of(schedule)), schedule)
        for schedule in (Schedule(p, workers=1, images=4000) for p in (parts, plain))
    )
    panels = {axes.get_ylabel(): axes for axes in draw_schedule([moving, still]).axes}
    for name, values in {
        "learning rate": [0.5, 1.0, 0.5, 0.0],
        "momentum": [0.93, 0.9, 0.85, 0.8],
    }.items():
        steps, drawn = panels[name].get_lines()[0].get_data()
        found = np.interp([500, 1000, 1500, 2000], steps, np.array(drawn, float))
        assert found == pytest.approx(values, abs=0.01)
    assert len(panels["learning rate"].get_lines()) == 2
    assert len(panels["momentum"].get_lines()) == 1
    assert "momentum" not in [axes.get_ylabel() for axes in draw_schedule([still]).axes]


def test_the_end_of_a_run_says_what_it_reached_and_where_everything_is(
    clocked, tmp_path, monkeypatch
):
    monkeypatch.setattr(model, "save_result", lambda *arguments: None)
    said = []

    def end(folder):
        for row in folder.noted_checkpoints():
            folder.checkpoint_of(row).touch()
        last = (folder.clock_rows() or [{}])[-1]
        buckets = {name: last.get(name) for name in BUCKETS}
        log = SimpleNamespace(
            clock=SimpleNamespace(switch=lambda bucket: None, state=lambda: buckets),
            note_time=lambda step, event: None,
            settle=lambda: "",
            evaluated=lambda data: folder.evaluation_rows(),
            say=said.append,
        )
        recipe, validation = load_recipe("imagenet104"), SimpleNamespace(name="")
        data = SimpleNamespace(synthetic=False, validation=validation)
        parts = {"recipe": recipe, "schedule": recipe.schedule(8), "folder": folder}
        conclude(SimpleNamespace(team=workers.current(), data=data, log=log, **parts))

    end(clocked)
    (text,) = said
    assert text.splitlines()[:2] == [
        "60.00% top-1, 95.00% top-5 after 116 s of training",
        "  time     start-up 4.0 s, data 1.0 s, tracing 4.0 s, steps 1 min 41 s, "
        "checkpoints 8.0 s, evaluation 30.0 s",
    ]
    assert str(clocked.model) in text
    assert clocked.picture.exists()
    end(write_run(tmp_path / "bare", POINTS, evaluated=False))
    assert len(said) == 1  # no checkpoint could be read


def test_the_plain_centre_crop_is_the_one_reported(clocked):
    with clocked.evaluation_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with clocked.evaluation_csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "crop": "centre"})
            writer.writerow({**row, "crop": "centre+flip", "top1": 0.99})
    record = read_record(clocked.path)
    assert [c.top1 for c in record.checkpoints] == [0.01, 0.5, 0.6]
    assert record.evaluation == "288 px, plain centre crop (also there: 288 px, centre+flip)"


@pytest.mark.parametrize("crop", ["centre", "centre+flip"])
def test_the_runs_own_validation_records_are_those_reported(clocked, crop):
    rows = clocked.evaluation_rows()
    clocked.evaluation_csv.unlink()
    clocked.note_own_data("records-own")
    for number, row in enumerate(rows[:2]):
        clocked.write_evaluation_row(number, {**row, "crop": crop, "data": "records-own"})
    for number, row in enumerate(rows):
        other = {"top1": 0.99, "data": "records-1e0", "folder": "/other/320"}
        clocked.write_evaluation_row(number, {**row, **other})
    record = read_record(clocked.path)
    assert [(c.step, c.top1) for c in record.checkpoints] == [(0, 0.01), (625, 0.5)]
    words = {"centre": "plain centre crop"}.get(crop, crop)
    assert record.evaluation == (
        f"288 px, {words} (also there: 288 px, plain centre crop on /other/320 (records-1e0))"
    )
    assert "1 checkpoint(s) not evaluated yet" in record.remarks


def test_other_records_are_named_where_the_runs_own_were_never_evaluated(clocked):
    clocked.note_own_data("records-own")
    rows = [
        {**row, "data": f"records-{name}", "folder": f"/{name}", "top1": top1}
        for name, top1, count in (("a", 0.1, 3), ("b", 0.2, 1))
        for row in clocked.evaluation_rows()[:count]
    ]
    clocked.evaluation_csv.unlink()
    for row in rows:
        clocked.write_evaluation_row(0, row)
    record = read_record(clocked.path)
    assert [c.top1 for c in record.checkpoints] == [0.1] * 3
    assert record.evaluation == (
        "288 px, plain centre crop on /a (records-a) "
        "(also there: 288 px, plain centre crop on /b (records-b))"
    )


def no_run(tmp_path):
    return [tmp_path], "holds no run (there is no recipe.yaml)"


def nothing_there(tmp_path):
    return [tmp_path / "nowhere"], "nowhere: no such file or folder"


def no_checkpoints(tmp_path):
    return [write_run(tmp_path / "r", []).path], "r: nothing to report; the run has no checkpoints"


def damaged(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    run.environment_file.write_text("{")
    return [run.path], "r: a file of this run is damaged (JSONDecodeError"


def not_a_log(tmp_path):
    (tmp_path / "notes.txt").write_text("Log of my holidays\n")
    return [tmp_path / "notes.txt"], "notes.txt: no `Log @train:` line"


def log_cut_short(tmp_path):
    (tmp_path / "a.log").write_text("Log @train: steps@0 epoch@0.0 im/s@356.66 lo")
    return [tmp_path / "a.log"], "a.log, line 1: not a whole log line"


def other_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text("epoch\thours\n0\t1\n")
    return [tmp_path / "a.tsv"], "a.tsv: the first line is not epoch hours"


def fraction(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    return [run.path, "--target", "top5=0.93"], "--target: received 'top5=0.93'; give top1 or top5"


def other_metric(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    return [run.path, "--target", "loss=1"], "--target: received 'loss=1'"


def clock_not_known(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    return [run.path, "--clock", "training"], "only, not by training"


def twice(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    return [run.path, run.path], "named twice"


def cannot_be_saved(tmp_path):
    run = write_run(tmp_path / "r", POINTS)
    (tmp_path / "file").touch()
    return [run.path, "--output", tmp_path / "file"], "file: the report cannot be saved"


@pytest.mark.parametrize(
    "mistake",
    [
        no_run,
        nothing_there,
        no_checkpoints,
        damaged,
        not_a_log,
        log_cut_short,
        other_tsv,
        fraction,
        other_metric,
        clock_not_known,
        twice,
        cannot_be_saved,
    ],
)
def test_a_mistake_is_one_message(tmp_path, mistake):
    arguments, message = mistake(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        commands.report.main([str(argument) for argument in arguments], standalone_mode=False)


def test_a_mistake_gets_a_line_and_a_status(tmp_path, run_process):
    ran = run_process("recipe.py", "report", tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        f"recipe.py: error: {tmp_path}: holds no run (there is no recipe.yaml)"
    ]


def test_a_run_that_is_not_evaluated_yet_reports_what_there_is(tmp_path, run_command):
    run = write_run(tmp_path / "r", POINTS, evaluated=False)
    ran = run_command("report", run.path, "--target", "top5=93")
    assert ran.returncode == 0, ran.stderr
    assert "no checkpoint is evaluated yet" in ran.stdout
    assert "1,875 of its 19,683 steps" in ran.stdout
    with pytest.raises(UserError, match="no evaluated checkpoint, so no DAWNBench entry"):
        write_entry(read_record(run.path), tmp_path)


def test_it_needs_no_tensorflow_and_under_three_seconds(clocked, run_process):
    code = (
        "import sys\n"
        f"sys.argv = ['recipe.py', 'report', {str(clocked.path)!r}]\n"
        "import recipe\n"
        "recipe.main(standalone_mode=False)\n"
        "assert not {'tensorflow', 'keras', 'horovod', 'pandas'} & set(sys.modules)\n"
    )

    def seconds_of(code):
        """Of the processor, since a test may share it."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = run_process("-c", code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ran.returncode == 0, ran.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # On a slow processor, less than a few times what importing Matplotlib alone takes.
    spent = seconds_of(code)
    assert spent < 3 or spent < 5 * seconds_of("import matplotlib.pyplot")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(41.23, "41.2 s"), (6273.32, "104 min 33 s"), (599.6, "10 min 00 s"), (36000, "10 h 00 min")],
)
def test_times_in_words(seconds, words):
    assert time_words(seconds) == words


def test_the_entry_leaves_to_the_submitter_what_is_his(original):
    found = entry(read_record(original.path))
    assert [found[key] for key in ("author", "authorEmail", "codeURL")] == ["", "", ""]
    assert "costPerHour" not in found
