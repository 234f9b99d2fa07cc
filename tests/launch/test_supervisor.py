"""What a supervisor says of a worker that hangs, or that Horovod has cut off."""

import os
import sys
import threading

from launch import supervisor


def hangs() -> int:
    supervisor.board.note_command(None, "the command")
    supervisor.board.beat(7, 1.0)
    threading.Event().wait()
    return 0


def left_by_horovod() -> int:
    supervisor.board.note_command(None, "the command")
    supervisor.board.note_reason("two requests of one name")
    return supervisor.OTHER_ENDED


def test_the_first_worker_tells_why_and_the_way_on(run_process):
    ran = run_process(__file__, "left_by_horovod", workers=2)
    assert ran.returncode != 0
    assert ran.stderr.count("recipe.py: error:") == 1
    message = "worker 0 was cut off by Horovod: two requests of one name; to resume, run\n"
    assert f"recipe.py: error: {message}" in ran.stderr
    assert "  the command\n" in ran.stderr


def test_alone_it_ends_with_a_failure(run_process):
    ran = run_process(__file__, "left_by_horovod")
    assert ran.returncode == 1


def test_a_worker_without_another_sign_in_time_is_ended_and_named(run_process):
    """The variable is horovodrun's; the process beside the worker needs no more of it."""
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
    # Rank 1 is ended by the launcher when rank 0 has spoken.
    supervisor.SILENCE_SECONDS = 0.5 if os.environ.get("HOROVOD_RANK") == "0" else 600.0
    runs = {"hangs": hangs, "left_by_horovod": left_by_horovod}
    sys.exit(supervisor.supervise(runs[sys.argv[1]]))
