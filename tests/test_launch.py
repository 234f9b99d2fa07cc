"""`recipe.py launch` as a user starts it: a worker is killed, and the run still completes."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from benchmarks.chaos import runs
from launch.launcher import below, that_work
from tests.waiting import HANG_SECONDS, until

STEPS = 80
PHASE = {"epoch": [0, 2], "lr": [0.02, 0.01], "lr_method": "linear", "batch_size": 50}
STRATEGY = [{**PHASE, "image_size": [20, 20], "data_dir": "20"}]


@pytest.fixture(scope="module")
def survived(root, digits, tmp_path_factory):
    """A run of two workers of which one was killed, and observations of it."""
    folder = tmp_path_factory.mktemp("launch")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {
        "name": "launched",
        "training_strategy": STRATEGY,
        "checkpoint_every": 20,
        "log_every": 5,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = folder / "run"
    launch = ["launch", "-np", "2", "--restarts", "1"]
    options = ["--recipe", folder / "recipe.yaml", "--data_dir", digits, "--run_dir", run]
    job = subprocess.Popen(
        [sys.executable, root / "recipe.py", *launch, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    launched = time.monotonic()
    try:
        until(lambda: len(rows(run)) >= 4)
        before = below(job.pid)[1:]
        listening = [
            connection.laddr.ip
            for process in before
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        os.kill(that_work(before, str(run))[0], signal.SIGKILL)
        killed = time.monotonic()
        start_up = killed - launched
        until(lambda: not any(map(runs, before)))
        ended = time.monotonic() - killed
        said, _ = job.communicate(timeout=HANG_SECONDS)
    finally:
        job.kill()
    return {
        "run": run,
        "said": said,
        "status": job.returncode,
        "ended": ended,
        "start_up": start_up,
        "listening": listening,
    }


def rows(run):
    try:
        with open(run / "train.csv", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def test_the_run_is_complete_with_each_row_once(survived):
    assert survived["status"] == 0, survived["said"]
    assert [int(row["step"]) for row in rows(survived["run"])] == list(range(5, STEPS + 1, 5))
    assert (survived["run"] / "model.keras").exists()


def test_no_process_is_left_after_60_seconds(survived):
    """Or, on a busy machine, after the time that it took to start them."""
    assert survived["ended"] < max(60, survived["start_up"])


def test_one_message_names_the_worker_and_how_to_resume(survived):
    said = survived["said"]
    assert said.count("was ended by SIGKILL") == 1
    assert re.search(
        r"recipe.py launch -np 2 --restarts 1 .* --recipe .* --run_dir .* --resume", said
    )
    assert said.count("starting it again (1 of 1)") == 1
    assert "Traceback" not in said


def test_workers_of_one_host_listen_on_loopback_alone(survived):
    assert survived["listening"]  # the rendezvous, at least
    assert set(survived["listening"]) <= {"127.0.0.1", "::1"}
