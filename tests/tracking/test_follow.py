"""Sending, with a tracker that keeps what it gets in memory and fails when it is told to."""

import threading

import pytest

from core.errors import RunError, UserError
from tests.tracking.runs import evaluate, train
from tracking import follow as following
from tracking.beside import Followers, missing
from tracking.follow import Session, follow, lock_of, patience, reason, send_once
from tracking.news import read_sent
from tracking.trackers import check_installed
from training.run_folder import RunFolder


class Memory:
    """Fails before it keeps the thing that `fails_at` names."""

    place = "here"
    rows = 0
    leftovers = ""
    fails_at = ""

    def __init__(self):
        self.kept = []
        self.closed = None

    def _keep(self, thing):
        if thing == self.fails_at:
            raise ConnectionError(f"no room for {thing}\nand a second line")
        self.kept.append(thing)

    def open(self, about, sent):
        self._keep("open")
        self.rows = sent.rows
        return False

    def address(self):
        return "at home"

    def send_settings(self, recipe, environment):
        assert recipe["name"] == "demo"
        assert "recipe" not in environment["facts"]
        self._keep("settings")

    def send_points(self, points):
        for point in points:
            self._keep(f"{point.name} {point.step}")
            self.rows += 1

    def send_file(self, path):
        self._keep(path.name)

    def close(self, finished, seconds):
        self._keep("close")
        self.closed = finished, seconds


@pytest.fixture
def tracker(monkeypatch):
    tracker = Memory()
    monkeypatch.setattr(following, "make", lambda name: tracker)
    monkeypatch.setattr(following, "check_installed", lambda names: None)
    return tracker


TABLES = ["train.csv", "train.log"]
START = ["environment.json", "recipe.yaml"]


def test_what_was_sent_before_a_failure_is_not_sent_again(run, tracker, monkeypatch):
    monkeypatch.setattr(following, "AT_ONCE", 1)
    train(run, 25, 50, 75)
    tracker.fails_at = "train 50"
    with pytest.raises(RunError, match=r"^mlflow: no room for train 50; run the same command"):
        send_once(run, "mlflow")
    assert tracker.kept == ["open", "settings", "train 25"]
    assert missing(run, "mlflow").startswith("mlflow lacks 2 row(s), 4 file(s); `python")
    tracker.fails_at = "train.log"
    tracker.kept.clear()
    with pytest.raises(RunError):
        send_once(run, "mlflow")
    assert tracker.kept == ["open", "train 50", "train 75", *START, "train.csv"]
    tracker.fails_at = ""
    tracker.kept.clear()
    assert send_once(run, "mlflow") == "mlflow: sent 1 file(s); at home"
    assert tracker.kept == ["open", "train.log", "close"]
    assert tracker.closed == (False, 150.0)
    assert missing(run, "mlflow") == ""
    assert send_once(run, "mlflow") == "mlflow: sent nothing new; at home"


def test_rows_are_counted_over_processes(run, tracker):
    train(run, 25, 50)
    send_once(run, "mlflow")
    assert read_sent(run, "mlflow").rows == 2
    train(run, 75)
    send_once(run, "mlflow")
    assert read_sent(run, "mlflow").rows == 3


def test_another_place_gets_everything_under_the_same_key(run, tracker):
    train(run, 25)
    send_once(run, "mlflow")
    key = read_sent(run, "mlflow").key
    tracker.place = "there"
    tracker.kept.clear()
    send_once(run, "mlflow")
    assert tracker.kept[:3] == ["open", "settings", "train 25"]
    assert read_sent(run, "mlflow").key == key


def test_a_run_that_the_tracker_has_lost_is_sent_anew(run, tracker, monkeypatch):
    train(run, 25)
    send_once(run, "mlflow")
    monkeypatch.setattr(tracker, "open", lambda about, sent: True)
    tracker.kept.clear()
    send_once(run, "mlflow")
    assert tracker.kept[:2] == ["settings", "train 25"]


def test_a_follower_sends_rows_at_once_and_files_at_the_end(run, tracker, monkeypatch):
    """Each wait of the follower is where the run goes on."""
    train(run, 25)
    ended, said = threading.Event(), []
    steps = iter([lambda: train(run, 50), lambda: (evaluate(run, 0), ended.set())])
    monkeypatch.setattr(ended, "wait", lambda seconds: next(steps)())
    assert follow(run, "mlflow", ended, said.append)
    assert tracker.kept[:5] == ["open", "settings", "train 25", "train 50", "validation 0"]
    assert tracker.kept[5:] == [START[0], "evaluation.csv", START[1], *TABLES, "close"]
    assert said == ["mlflow: at home", "mlflow has all of the run: at home"]


def test_a_follower_says_once_that_a_tracker_fails_and_tries_again(run, tracker, monkeypatch):
    train(run, 25)
    tracker.fails_at = "open"
    ended, said, waits = threading.Event(), [], []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            tracker.fails_at = ""
        if len(waits) == 4:
            ended.set()

    monkeypatch.setattr(ended, "wait", wait)
    assert follow(run, "mlflow", ended, said.append)
    assert said == [
        "mlflow: no room for open; the run continues, and this is tried again",
        "mlflow: at home",
        "mlflow: it works again",
        "mlflow has all of the run: at home",
    ]
    assert min(waits) == following.LOOK_EVERY
    assert "train 25" in tracker.kept


def test_a_follower_that_fails_at_the_end_says_so_by_its_status(run, tracker):
    ended = threading.Event()
    ended.set()
    tracker.fails_at = "close"
    assert not follow(run, "mlflow", ended, lambda line: None)
    assert "lacks the end of the run" in missing(run, "mlflow")


def test_a_long_look_is_followed_by_a_longer_pause(run, tracker, monkeypatch):
    ended, waits = threading.Event(), []
    times = iter([0.0, 1.0, 100.0, 110.0, 200.0])
    monkeypatch.setattr(following.time, "monotonic", lambda: next(times))

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            ended.set()

    monkeypatch.setattr(ended, "wait", wait)
    follow(run, "mlflow", ended, lambda line: None)
    assert waits == [pytest.approx(19.0), 60.0]  # a twentieth of a core, and a minute at most


def test_what_the_trackers_own_process_has_left(run, tracker):
    tracker.leftovers = "wandb sync there"
    session = Session(run, "wandb", live=True)
    session.send(with_files=True)
    assert "`wandb sync there` sends the rest" in missing(run, "wandb")
    session.close()
    assert missing(run, "wandb") == ""


def test_one_process_at_a_time(run, tracker):
    with (
        lock_of(run, "mlflow"),
        pytest.raises(UserError, match="another process is sending this run to mlflow"),
    ):
        send_once(run, "mlflow")


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        send_once(RunFolder(tmp_path), "mlflow")


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "no_such_tracker").mkdir()  # a folder of that name is no package
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("no_such_tracker", "none_at_all"):
        with pytest.raises(UserError, match=f"^{name}: its package is not installed here; `py"):
            check_installed([name])
    with pytest.raises(UserError, match="none_at_all"):
        Followers(["none_at_all"])


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_patience_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv("RECIPE_TRACK_SECONDS", text)
    with pytest.raises(UserError, match=f"RECIPE_TRACK_SECONDS: received '{text}'"):
        patience()


def test_a_reason_is_a_line():
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(TimeoutError()) == "TimeoutError"
    assert len(reason(ValueError("a" * 999))) < 310
