"""What a supervisor says of a worker that hangs, or that Horovod has cut off."""

import os
import sys
import threading

import pytest

from launch import supervisor


def hangs() -> int:
    supervisor.board.note(command="the command")
    supervisor.board.beat(7, 1.0)
    threading.Event().wait()
    return 0


def cut_off_by_horovod() -> int:
    supervisor.board.note(command="the command", reason="two requests of one name")
    return supervisor.OTHER_ENDED


def host_lost() -> int:
    supervisor.board.note(command="the command", reason=os.environ["REASON"])
    return supervisor.HOST_LOST


def test_the_first_worker_says_why_and_how_to_resume(run_process):
    ran = run_process(__file__, "cut_off_by_horovod", workers=2)
    assert ran.returncode != 0
    assert ran.stderr.count("recipe.py: error:") == 1
    message = "worker 0 was cut off by Horovod: two requests of one name; to resume, run\n"
    assert f"recipe.py: error: {message}" in ran.stderr
    assert "  the command\n" in ran.stderr


def test_alone_it_ends_with_a_failure(run_process):
    ran = run_process(__file__, "cut_off_by_horovod")
    assert ran.returncode == 1


@pytest.mark.parametrize("reason", ["has lost 10.0.0.2", ""])
def test_where_a_host_is_lost_one_worker_says_so_and_all_end(run_process, reason):
    """The first worker of a host that is cut off speaks at once: no launcher will end it."""
    ran = run_process(__file__, "host_lost", HOROVOD_RANK="8", REASON=reason)
    assert ran.returncode == 1
    message = f"\nrecipe.py: error: worker 8 {reason}; to resume, run\n  the command\n"
    assert ran.stderr == (message if reason else "")


def test_a_worker_without_a_sign_of_life_is_killed_and_named(run_process):
    """The supervisor needs nothing of horovodrun but this variable."""
    ran = run_process(__file__, "hangs", HOROVOD_RANK="0")
    assert ran.returncode == 1
    assert "recipe.py: error: worker 0 and all others have waited for 1 s in step 7; " in ran.stderr
    assert ran.stderr.endswith("; to resume, run\n  the command\n")


ASKED_WHILE_IT_WAITS = """
import os, signal
from launch import supervisor
supervisor.time.sleep = lambda seconds: os.kill(os.getpid(), signal.SIGTERM)
supervisor.wait_to_be_ended(600.0, 75)
"""


def test_a_worker_that_waits_ends_with_its_status_when_it_is_asked(run_process):
    assert run_process("-c", ASKED_WHILE_IT_WAITS).returncode == 75


if __name__ == "__main__":
    # The launcher ends rank 1 when rank 0 has printed its message.
    supervisor.SILENCE_SECONDS = 0.5 if os.environ.get("HOROVOD_RANK") == "0" else 600.0
    supervisor.UNATTENDED_SECONDS = -8.0  # rank 8 waits 8 s longer
    runs = [hangs, cut_off_by_horovod, host_lost]
    (run,) = (run for run in runs if run.__name__ == sys.argv[1])
    sys.exit(supervisor.supervise(run))
