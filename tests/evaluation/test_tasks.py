"""Who evaluates what, and rows that are whole, there once, and added up from shares."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.settings import Evaluation
from evaluation import tasks as evaluation_tasks
from evaluation.evaluator import Counts
from evaluation.tasks import Results, Task, share_out, tasks_to_come
from tests.waiting import HANG_SECONDS
from training.liveness import LivenessProbe
from training.recipes import load_recipe
from training.run_folder import RunFolder

PLAIN = Evaluation(image_size=28)
OWN, OTHER = "records-own", "records-other"


@pytest.fixture
def run(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start(load_recipe("demo"), {"validation": OWN})
    return found


def add_checkpoint(run, step):
    run.checkpoint(step).touch()
    run.write_checkpoint_row(step, step / 10, 1.5 * step, 100 * step)


def checkpoints(count):
    return [(i, {"step": 10 * i, "time": "then"}) for i in range(count)]


def test_checkpoint_i_is_evaluated_by_worker_i_mod_8():
    # The original's 33 checkpoints on its 8 workers: four each, and one that all share.
    for rank in range(8):
        tasks = share_out(checkpoints(33), rank, 8)
        own = [(rank + 8 * i, 0, 1) for i in range(4)]
        assert [(t.number, t.share, t.shares) for t in tasks] == [*own, (32, rank, 8)]


@given(st.integers(0, 40), st.integers(1, 9))
def test_all_shares_of_all_checkpoints_are_somebodys_and_the_load_is_even(count, workers):
    seen, load = [], []
    for rank in range(workers):
        tasks = share_out(checkpoints(count), rank, workers)
        seen += [(t.number, t.share, t.shares) for t in tasks]
        load.append(sum(1 / t.shares for t in tasks))
    assert len(set(seen)) == len(seen)
    covered = dict.fromkeys(range(count), 0.0)
    for number, _, shares in seen:
        covered[number] += 1 / shares
    assert all(value == pytest.approx(1) for value in covered.values())
    assert max(load) == pytest.approx(min(load))


def task(run, step, share=0, shares=1):
    (row,) = [row for row in run.noted_checkpoints() if row["step"] == step]
    return Task(step // 10, row, share, shares)


def results(run, settings=PLAIN, data=OWN):
    lines = []
    return Results(run, settings, data, f"/data/{data}", lines.append), lines


def test_a_result_is_a_row_and_a_line_once(run):
    add_checkpoint(run, 30)
    book, lines = results(run)
    for _ in range(2):
        book.add(task(run, 30), Counts(1000, 900, 990, 2**23 * 500), 4.0)
    (row,) = run.evaluation_rows()
    assert (row["step"], row["seconds"], row["top1"], row["top5"]) == (30, 45, 0.9, 0.99)
    assert (row["loss"], row["images"], row["images_per_second"]) == (0.5, 1000, 250)
    assert (row["image_size"], row["crop"]) == (28, "centre")
    assert (row["data"], row["folder"]) == (OWN, "/data/records-own")
    (line,) = lines
    assert line.startswith("Log @eval: count@    3 step@   30 top1@90.000 top5@ 99.00")
    assert run.log.read_text() == line + "\n"


def test_other_choices_are_other_rows(run):
    add_checkpoint(run, 0)
    mirrored = PLAIN.model_copy(update={"flip": True, "shift": 1})
    results(run)[0].add(task(run, 0), Counts(10, 1, 5), 1.0)
    assert run.to_evaluate(PLAIN, OWN) == []
    assert [count for count, _ in run.to_evaluate(mirrored, OWN)] == [0]
    results(run, mirrored)[0].add(task(run, 0), Counts(10, 2, 6), 1.0)
    assert [r["crop"] for r in run.evaluation_rows()] == ["centre", "centre+flip+shift1"]


def test_other_records_are_other_rows_and_not_in_the_log(run):
    for step in (0, 10):
        add_checkpoint(run, step)
    results(run)[0].add(task(run, 0), Counts(10, 1, 5), 1.0)
    logged = run.log.read_text()
    assert [row["step"] for _, row in run.to_evaluate(PLAIN, OTHER)] == [0, 10]
    book, lines = results(run, data=OTHER)
    for _ in range(2):
        book.add(task(run, 0), Counts(10, 9, 10), 1.0)
    assert [(r["data"], r["top1"]) for r in run.evaluation_rows()] == [(OWN, 0.1), (OTHER, 0.9)]
    assert [row["step"] for _, row in run.to_evaluate(PLAIN, OTHER)] == [10]
    (line,) = lines
    assert "top1@90.000" in line
    assert run.log.read_text() == logged


def test_two_evaluations_at_once_share_on_records_of_their_own(run):
    add_checkpoint(run, 10)
    ours, theirs = results(run)[0], results(run, data=OTHER)[0]
    for share in (0, 1):
        for book, hits in ((ours, 1), (theirs, 4)):
            book.add(task(run, 10, share, 2), Counts(10, hits, 5), 1.0)
    found = [(r["data"], r["images"], r["top1"]) for r in run.evaluation_rows()]
    assert found == [(OWN, 20, 0.1), (OTHER, 20, 0.4)]


def test_shares_become_a_row_with_the_last_of_them(run):
    add_checkpoint(run, 10)
    book, lines = results(run)
    for share in (2, 0):
        book.add(task(run, 10, share, 3), Counts(10, share, 5), 1.0)
    assert run.evaluation_rows() == lines == []
    # A second start asks for what is there, and does the rest.
    again, _ = results(run)
    assert again.share(task(run, 10, 1, 3)) is None
    assert again.share(task(run, 10, 2, 3)) == (Counts(10, 2, 5), 1.0)
    again.add(task(run, 10, 1, 3), Counts(10, 1, 5), 1.0)
    (row,) = run.evaluation_rows()
    assert (row["images"], row["top1"], row["top5"]) == (30, 0.1, 0.5)
    assert list(run.evaluation_shares.iterdir()) == []


def test_shares_of_other_records_or_of_a_checkpoint_written_anew_are_not_mixed_in(run):
    add_checkpoint(run, 10)
    results(run)[0].add(task(run, 10, 0, 2), Counts(10, 1, 5), 1.0)
    assert results(run, data=OTHER)[0].share(task(run, 10, 0, 2)) is None
    newer = Task(1, {**task(run, 10).row, "time": "later"}, 0, 2)
    assert results(run)[0].share(newer) is None


def test_a_row_that_a_crash_tore_is_done_again(run):
    for step in (0, 10):
        add_checkpoint(run, step)
    book, _ = results(run)
    book.add(task(run, 0), Counts(10, 1, 5), 1.0)
    whole = run.evaluation_csv.read_bytes()
    book.add(task(run, 10), Counts(10, 1, 5), 1.0)
    full = run.evaluation_csv.read_bytes()
    for end in range(len(whole), len(full)):
        run.evaluation_csv.write_bytes(full[:end])
        assert [count for count, _ in run.to_evaluate(PLAIN, OWN)] == [1]
    book.add(task(run, 10), Counts(10, 1, 5), 1.0)
    assert run.evaluation_csv.read_bytes() == full


def test_writers_at_once_leave_every_row_whole_and_once(run):
    for step in range(0, 200, 10):
        add_checkpoint(run, step)

    def write():
        book, _ = results(RunFolder(run.path))
        for step in range(0, 200, 10):
            book.add(task(run, step), Counts(10, 1, 5), 1.0)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r["step"] for r in run.evaluation_rows()) == list(range(0, 200, 10))


def test_rows_of_a_version_without_crops_and_records_go_on(run):
    for step in (0, 10):
        add_checkpoint(run, step)
    old = "step,epoch,seconds,top1,top5,loss,images,image_size,images_per_second,time\n"
    run.evaluation_csv.write_text(old + "0,0,0,0.1,0.5,2.3,10,28,100,2026-01-01 00:00:00\n")
    assert [row["step"] for _, row in run.to_evaluate(PLAIN, OWN)] == [10]
    assert [row["step"] for _, row in run.to_evaluate(PLAIN, OTHER)] == [0, 10]
    results(run)[0].add(task(run, 10), Counts(10, 1, 5), 1.0)
    found = [(r["step"], r["crop"], r["data"]) for r in run.evaluation_rows()]
    assert found == [(0, "centre", OWN), (10, "centre", OWN)]


def test_rows_of_an_older_version_are_still_the_runs_own_when_it_was_resumed(run):
    """A resume writes the tables anew, with the columns of now."""
    for step in (0, 10, 20):
        add_checkpoint(run, step)
    old = "step,epoch,seconds,top1,top5,loss,images,image_size,images_per_second,time\n"
    run.evaluation_csv.write_text(old + "0,0,0,0.1,0.5,2.3,10,28,100,2026-01-01 00:00:00\n")
    run.take_up(10, workers=1, now=1)
    assert [row["step"] for _, row in run.to_evaluate(PLAIN, OWN)] == [10]


@pytest.fixture(autouse=True)
def short_poll(monkeypatch):
    monkeypatch.setattr(evaluation_tasks, "POLL", 0.01)


def follow(run, known=(), rank=0, workers=1, patience=HANG_SECONDS):
    probe = LivenessProbe(run, patience)
    return [
        (task.row["step"], task.share, task.shares)
        for task in tasks_to_come(results(run)[0], known, rank, workers, probe)
    ], probe.life


def test_a_follower_sees_what_appears_until_the_run_has_trained(run, monkeypatch):
    """The training goes on while the follower, which has seen all there is, sleeps."""

    def train():
        for step in (10, 20, 30):
            run.write_state("training", beat=step)
            yield add_checkpoint(run, step)
        yield run.write_state("trained")

    training = train()
    monkeypatch.setattr(evaluation_tasks, "time", SimpleNamespace(sleep=lambda _: next(training)))
    add_checkpoint(run, 0)
    known = run.to_evaluate(PLAIN, OWN)
    found = follow(run, known, rank=1, workers=2)
    assert found == ([(10, 1, 2), (20, 1, 2), (30, 1, 2)], "trained")


def test_a_follower_of_a_dead_run_does_what_is_there_and_ends(run):
    add_checkpoint(run, 0)
    assert follow(run, patience=0.05) == ([(0, 0, 1)], "silent")


def test_a_checkpoint_that_a_resumed_run_writes_anew_is_followed_again(run):
    add_checkpoint(run, 10)
    known = [(0, {**run.noted_checkpoints()[0], "time": "before"})]
    run.write_state("trained")
    assert follow(run, known)[0] == [(10, 0, 1)]
