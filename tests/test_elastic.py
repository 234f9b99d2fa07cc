"""horovodrun's elastic mode: a worker is killed, and the other one continues."""

import csv
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from launch.launcher import below, that_work
from tests.waiting import HANG_SECONDS, until

PHASE = {"epoch": [0, 1], "lr": [0.02, 0.01], "lr_method": "linear", "batch_size": 50}
STRATEGY = [{**PHASE, "image_size": [20, 20], "data_dir": "20"}]
STEPS_OF_ONE = 4000 // 50
# Horovod stops using a host on which a worker failed. So two names of this host stand for two.
HOSTS = "#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n"


@pytest.fixture(scope="module")
def shrunk(root, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {
        "name": "elastic",
        "training_strategy": STRATEGY,
        "checkpoint_every": 10,
        "log_every": 2,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
        "keep_newest": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "hosts.sh").write_text(HOSTS)
    (folder / "hosts.sh").chmod(0o755)
    run = folder / "run"
    launcher = ["-m", "launch.horovodrun", "-np", "2", "--min-np", "1", "--gloo"]
    hosts = ["--network-interfaces", "lo", "--host-discovery-script", folder / "hosts.sh"]
    recipe = ["--recipe", folder / "recipe.yaml", "--data_dir", digits, "--run_dir", run]
    command = [sys.executable, *launcher, *hosts, sys.executable, root / "recipe.py", *recipe]
    with open(folder / "said", "w") as said:
        job = subprocess.Popen(
            command, cwd=root, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until(lambda: len(rows(run / "checkpoints.csv")) > 1)  # at steps 0 and 10
        os.kill(that_work(below(job.pid), str(run))[0], signal.SIGKILL)
        status = job.wait(HANG_SECONDS)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    return {"run": run, "said": (folder / "said").read_text(), "status": status}


def rows(path):
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def test_the_run_is_complete(shrunk):
    assert shrunk["status"] == 0, shrunk["said"]
    assert (shrunk["run"] / "model.keras").exists()


def test_the_worker_that_is_left_does_the_steps_of_one(shrunk):
    steps = [int(row["step"]) for row in rows(shrunk["run"] / "train.csv")]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS_OF_ONE
    found = re.search(r"step (\d+) of 40 is step (\d+) of 80 by the images", shrunk["said"])
    before, after = map(int, found.groups())
    assert before % 10 == 0 < before  # the step of a checkpoint
    assert after == 2 * before


def test_each_message_is_there_once(shrunk):
    assert shrunk["said"].count("was ended by SIGKILL") == 1
    assert re.search(r"python -m launch.horovodrun -np 2 --min-np 1 .* --resume", shrunk["said"])
    assert shrunk["said"].count("the run continues with 1 worker(s)") == 1
