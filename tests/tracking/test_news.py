"""What a tracker does not have yet, from folders that are written as a run writes them."""

import pytest

from core.clock import BUCKETS
from core.errors import UserError
from tests.tracking.runs import evaluate, train
from tracking.news import Sent, end_of, news, read_sent, started_at, with_point, write_sent


def take(run, sent, with_files=False):
    """The news, and `sent` when they were sent."""
    found = news(run, sent, with_files)
    for point in found.points:
        sent = with_point(sent, point)
    return found, sent.changed(settings=True)


def test_rows_are_new_once(run):
    train(run, 25, 50)
    found, sent = take(run, Sent(key="k", workers=2))
    assert found.settings
    assert [(p.step, p.seconds) for p in found.points] == [(25, 50.0), (50, 100.0)]
    figures = found.points[0].figures
    assert figures["train/loss"] == 0.5
    assert figures["train/total_loss"] == 0.75
    assert figures["train/workers"] == 2
    assert "train/step" not in figures
    assert news(run, sent, False) == news(run, sent, False)  # a function of the files
    assert str(news(run, sent, False)) == ""
    train(run, 75)
    found, _ = take(run, sent)
    assert not found.settings
    assert [p.step for p in found.points] == [75]


def test_steps_that_a_resume_does_again_are_not_new(run):
    train(run, 25, 50, 75)
    _, sent = take(run, Sent(key="k", workers=2))
    run.take_up(40, workers=2, now=2)
    train(run, 50, 75, 100)
    assert [row["step"] for row in run.train_rows()] == [25, 50, 75, 100]
    found, _ = take(run, sent)
    assert [p.step for p in found.points] == [100]


def test_another_number_of_workers_is_counted_as_before(run):
    """One worker has half the global batch: its step 120 has seen what two have at step 60."""
    train(run, 25, 50)
    _, sent = take(run, Sent(key="k", workers=2))
    run.take_up(50, workers=2, now=1)
    train(run, 110, 120, workers=1)
    evaluate(run, 120, workers=1)
    found, _ = take(run, sent)
    assert [(p.name, p.step) for p in found.points] == [
        ("train", 55),
        ("train", 60),
        ("validation", 60),
    ]
    assert [p.figures.get("train/workers") for p in found.points] == [1, 1, None]


def test_each_way_of_evaluation_has_a_name(run):
    evaluate(run, 60)
    evaluate(run, 60, crop="centre+flip+shift1", image_size=24)
    evaluate(run, 60, data="records-2")
    found, sent = take(run, Sent(key="k", workers=2))
    assert [p.name for p in found.points] == [
        "validation",
        "validation-centre-flip-shift1-24",
        "validation-centre-28-records-2",
    ]
    assert found.points[0].figures == {
        "validation/top1": 0.5,
        "validation/top5": 0.75,
        "validation/loss": 1.5,
    }
    evaluate(run, 0)  # of an earlier step, later
    found, _ = take(run, sent)
    assert [(p.name, p.step) for p in found.points] == [("validation", 0)]


def test_a_row_that_is_being_written_is_not_there_yet(run):
    train(run, 25)
    with run.train_csv.open("a") as file:
        file.write("50,1.25,10")
    found, _ = take(run, Sent(key="k", workers=2))
    assert [p.step for p in found.points] == [25]


def test_a_loss_that_is_not_finite_is_a_figure(run):
    train(run, 25, loss=float("nan"))
    found, _ = take(run, Sent(key="k", workers=2))
    loss = found.points[0].figures["train/loss"]
    assert loss != loss


def test_files_are_new_until_their_contents_were_sent(run):
    (run.path / "report.html").write_text("a")
    (run.path / ".half.png").write_text("a")
    (run.path / "tensorboard").mkdir()
    found, sent = take(run, Sent(key="k"), with_files=True)
    assert [path.name for path, _ in found.files] == [
        "environment.json",
        "recipe.yaml",
        "report.html",
    ]
    sent = sent.changed(files={path.name: digest for path, digest in found.files})
    assert news(run, sent, True).files == ()
    (run.path / "report.html").write_text("b")
    assert [path.name for path, _ in news(run, sent, True).files] == ["report.html"]
    assert news(run, sent, False).files == ()


def test_the_news_in_words(run):
    train(run, 25)
    assert str(news(run, Sent(key="k"), True)) == "settings, 1 row(s), 4 file(s)"


def test_the_end_of_a_run_and_its_clock(run):
    assert end_of(run) == (False, 0.0)
    train(run, 25)
    assert end_of(run) == (False, 50.0)
    seconds = dict.fromkeys(BUCKETS, 10.0)
    run.write_clock_row(25, "checkpoint", 2500, seconds)
    assert end_of(run) == (False, 60.0)
    run.write_clock_row(840, "end", 72000, dict.fromkeys(BUCKETS, 20.0))
    assert end_of(run) == (True, 120.0)


def test_the_start_is_a_time_of_day(run):
    environment = run.environment() | {"started": "2026-11-24 18:00:00"}
    run._write_environment(environment)
    assert started_at(run) == 1795543200  # `date -ud '2026-11-24 18:00:00' +%s`


def test_what_was_sent_is_kept_and_a_damaged_file_is_named(run):
    assert read_sent(run, "mlflow") is None
    sent = Sent(key="k", step=25, evaluations=("validation 0",), files={"a": "b"}, rows=3)
    write_sent(run, "mlflow", sent)
    assert read_sent(run, "mlflow") == sent
    assert read_sent(run, "wandb") is None
    (run.tracking / "mlflow.json").write_text("{")
    with pytest.raises(UserError, match=r"mlflow\.json: is damaged; delete it"):
        read_sent(run, "mlflow")
