"""The message of an error, the worker that prints it, and the exit status."""

import sys

import pytest
import tensorflow as tf
from tqdm import tqdm

from core import workers
from core.errors import (
    OtherWorkerEnded,
    Preempted,
    RunError,
    SharedPreempted,
    SharedUserError,
    UserError,
)
from launch import supervisor
from launch.supervisor import exit_status


@pytest.fixture
def said(monkeypatch, capsys):
    """For rank 0 or 1 of two and an error: status, waits before the message, and the message."""

    def ended(rank, error):
        waits = []

        def fail(**_):
            raise error

        monkeypatch.setattr(workers, "current", lambda: workers.Workers(rank, 2))
        monkeypatch.setattr(supervisor, "wait_to_be_ended", lambda *given: waits.append(given))
        status = exit_status(fail)
        return status, waits, capsys.readouterr().err

    return ended


@pytest.mark.parametrize(
    ("error", "status"),
    [(SharedUserError("both"), 2), (RunError("both"), 1), (SharedPreempted("both"), 75)],
)
def test_rank_0_prints_an_error_of_all_before_the_others_end(said, error, status):
    found, waits, text = said(0, error)
    assert (found, waits) == (status, [])
    assert text.count("recipe.py: ") == text.count("both") == 1
    assert said(1, error) == (status, [(20.0, status)], "")


def test_a_worker_prints_its_own_error_unless_rank_0_ends_first(said):
    assert said(0, UserError("own")) == (2, [], "recipe.py: error: worker 0: own\n")
    assert said(1, UserError("own")) == (2, [(4.0, 2)], "recipe.py: error: worker 1: own\n")


def test_a_worker_that_alone_gets_a_signal_ends_at_once(said):
    assert said(1, Preempted("stopped")) == (75, [], "")


def test_a_signal_may_come_while_tensorflow_traces_a_function(said):
    """TensorFlow raises an error of another class, with its own text."""

    @tf.function
    def traced():
        raise Preempted("stopped by SIGUSR1")

    with pytest.raises(Exception, match="in user code") as raised:
        traced()
    assert not isinstance(raised.value, Preempted)
    assert said(0, raised.value) == (75, [], "recipe.py: stopped by SIGUSR1\n")


def test_any_other_error_keeps_its_traceback(said):
    with pytest.raises(ZeroDivisionError):
        said(0, ZeroDivisionError())


@pytest.mark.parametrize(
    ("silent", "status", "reason"),
    [([], 76, "Gloo's"), (["10.0.0.2"], 69, "has lost the connection to 10.0.0.2 (rank 1), ")],
)
def test_a_worker_that_is_cut_off_looks_which_hosts_are_silent(monkeypatch, silent, status, reason):
    monkeypatch.setattr(supervisor.links, "silent_hosts", lambda: silent)
    supervisor.links.place(0, 0, [["10.0.0.1"], ["10.0.0.2"]])

    def fail(**_):
        raise OtherWorkerEnded("Gloo's")

    assert exit_status(fail) == status
    assert supervisor.board.read("reason").startswith(reason)


def test_the_message_stands_below_the_bar(said, capsys):
    """The bar would otherwise be drawn again below it; the message's end says what to do."""
    bar = tqdm(total=10, file=sys.stderr)
    bar.update(3)
    bar.refresh()
    _, _, text = said(0, RunError("all of them"))
    shown = text.split("\r")[-1]
    assert " 3/10 " in shown
    assert shown.endswith("\nrecipe.py: error: all of them\n")
    del bar
    assert capsys.readouterr().err == ""
