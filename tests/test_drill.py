"""A short drill: two real workers of `recipe.py launch`, real damage, and the same bits at the end.

A worker is killed, and the launcher starts the workers again; later one gets a signal, and the
run is resumed by hand, under horovodrun. The workers of the undisturbed run, to which all is
compared, have met by their environment alone.
"""

import os
import re
import signal
import time
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.chaos import EVERY, STEPS, Job, runs, same_end, small_recipe, strike
from tests import by_environment
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def drill(digits, tmp_path_factory):
    """The damaged run, after its end, and observations of it."""
    folder = tmp_path_factory.mktemp("drill")
    recipe = small_recipe(folder / "recipe.yaml")
    whole = RunFolder(folder / "undisturbed")
    arguments = ["--recipe", recipe, "--data_dir", digits, "--run_dir", whole.path]
    statuses = by_environment.wait(by_environment.start(arguments, folder))
    assert statuses == [0, 0], [(folder / f"said-{rank}").read_text() for rank in (0, 1)]

    job = Job(folder / "run", digits, recipe)
    launched = time.monotonic()
    job.start(resume=False, restarts=1)
    job.wait(lambda: job.step() >= 13, "step 13")
    before = [process for process in job.processes() if process.pid != job.launcher]
    listening = [
        connection.laddr.ip
        for process in before
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    os.kill(job.workers()[0], signal.SIGKILL)
    start_up = time.monotonic() - launched
    ended = job.wait(lambda: not any(map(runs, before)), "the end of the killed job")
    killed_at = job.step()
    row = strike(job, 2, "sigterm_to_a_worker", at=34, seed=20)  # steps 30 to 59 freeze layers
    job.finish()
    return SimpleNamespace(
        job=job,
        equal=same_end(job.run, whole),
        launched=job.said_before,  # by both of the launcher's jobs
        killed_at=killed_at,
        ended=ended,
        start_up=start_up,
        listening=listening,
        signalled=row,
    )


def test_the_run_ends_bit_for_bit_as_the_undisturbed_one(drill):
    assert drill.equal


def test_the_run_is_complete_with_each_row_once(drill):
    assert [row["step"] for row in drill.job.run.train_rows()] == list(range(1, STEPS + 1))
    assert drill.job.run.model.exists()


def test_a_killed_worker_ends_all_processes_of_its_job(drill):
    """Or, on a busy machine, after the time that it took to start them."""
    assert drill.ended < max(60, drill.start_up)


def test_one_message_names_the_killed_worker_and_how_to_resume(drill):
    said = drill.launched
    assert said.count("was ended by SIGKILL") == 1
    assert re.search(
        r"recipe.py launch -np 2 --restarts 1 .* --recipe .* --run_dir .* --resume", said
    )
    assert said.count("starting it again (1 of 1)") == 1
    assert "Traceback" not in said


def test_a_killed_worker_costs_no_step_beyond_the_last_checkpoint(drill):
    """The newest may not have been written yet."""
    (resumed,) = re.findall(r"resuming after step (\d+)", drill.launched)
    assert int(resumed) % EVERY == 0
    assert 0 <= drill.killed_at - int(resumed) <= 2 * EVERY


def test_workers_of_one_host_listen_on_loopback_alone(drill):
    assert drill.listening  # the rendezvous, at least
    assert set(drill.listening) <= {"127.0.0.1", "::1"}


def test_sigterm_to_one_worker_saves_the_step_that_both_have_done(drill):
    row = drill.signalled
    assert (row.status, row.lost) == (75, 0)
    ours = [line for line in row.message.splitlines() if "recipe.py: " in line]
    assert len(ours) == 3  # of the kill, of the launcher, and one of the signal
    assert f"stopped by SIGTERM after step {row.resumed}, which is saved" in ours[-1]
    assert "--resume" in row.message.partition("stopped by SIGTERM")[2]
