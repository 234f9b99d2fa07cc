"""A short drill: two real workers, real damage, and the same bits at the end."""

import json

import pytest

from tests.waiting import HANG_SECONDS


@pytest.fixture(scope="module")
def rows(run_process, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "rows.jsonl"
    drill = [root / "benchmarks" / "chaos.py", "--faults", 2]
    drill += ["--kinds", "kill_one_worker,sigterm_to_a_worker", "--out", out]
    drill += ["--seed", 20]  # at steps 13 and 34 of 84; steps 30 to 59 freeze layers
    ran = run_process(*drill, timeout=6 * HANG_SECONDS)  # longer than any wait in it
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {row["fault"]: row for row in map(json.loads, out.read_text().splitlines())}


def test_the_run_ends_bit_for_bit_as_the_undisturbed_one(rows):
    assert [row["equal"] for row in rows.values()] == [True, True]


def test_a_killed_worker_ends_all_processes_and_is_named_once(rows):
    row = rows["kill one worker"]
    # On a busy machine, starting as many processes takes longer than 60 s, and so may this.
    assert row["ended"] < max(60, row["recovered"])
    assert row["status"] != 0
    assert row["message"].count("recipe.py: ") == 1
    assert "was ended by SIGKILL" in row["message"]
    assert "--resume" in row["message"]


def test_a_killed_worker_costs_no_step_beyond_the_last_checkpoint(rows):
    row = rows["kill one worker"]
    # There is a checkpoint every 10 steps; the newest may not have been written yet. The
    # signal before left one, too, at any step.
    assert row["lost"] <= 20
    assert row["resumed"] % 10 == 0 or row["resumed"] == rows["sigterm to a worker"]["resumed"]


def test_sigterm_to_one_worker_saves_the_step_that_both_have_done(rows):
    row = rows["sigterm to a worker"]
    assert row["lost"] == 0
    assert row["message"].count("recipe.py: ") == 1
    assert f"stopped by SIGTERM after step {row['resumed']}, which is saved" in row["message"]
    assert "--resume" in row["message"]
