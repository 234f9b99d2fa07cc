"""What the command line says of an error, on which worker, and with which exit status."""

import pytest

from core import workers
from core.errors import Preempted, RunError, SharedPreempted, SharedUserError, UserError
from launch import supervisor
from launch.main import exit_status


@pytest.fixture
def said(monkeypatch, capsys):
    """What rank 0 or 1 of two says when an error comes, and how long it waits before."""

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
def test_what_all_meet_rank_0_says_before_the_others_end(said, error, status):
    found, waits, text = said(0, error)
    assert (found, waits) == (status, [])
    assert text.count("recipe.py: ") == text.count("both") == 1
    assert said(1, error) == (status, [(20.0, status)], "")


def test_what_one_meets_it_says_when_rank_0_has_not_ended(said):
    assert said(0, UserError("own")) == (2, [], "recipe.py: error: worker 0: own\n")
    assert said(1, UserError("own")) == (2, [(4.0, 2)], "recipe.py: error: worker 1: own\n")


def test_a_worker_that_alone_gets_a_signal_ends_at_once_and_the_launcher_the_others(said):
    assert said(1, Preempted("stopped")) == (75, [], "")
