"""Two workers that have met by their environment alone, of which one is killed."""

import os
import signal
from types import SimpleNamespace

import psutil
import pytest
import yaml

from launch.launcher import below, that_work
from tests import by_environment
from tests.waiting import until
from training.run_folder import RunFolder

PHASE = {"epoch": [0, 50], "lr": [0.02, 0.01], "lr_method": "linear", "batch_size": 50}
RECIPE = {
    "name": "joined",
    "training_strategy": [PHASE | {"image_size": [20, 20], "data_dir": "20"}],
    "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
    "log_every": 1,
}


@pytest.fixture(scope="module")
def job(root, digits, tmp_path_factory):
    """What was seen of it; worker 1 is killed once the first steps are done."""
    folder = tmp_path_factory.mktemp("joined")
    run = RunFolder(folder / "run")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text()) | RECIPE
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["--recipe", folder / "recipe.yaml", "--data_dir", digits]
    jobs = by_environment.start([*arguments, "--run_dir", run.path], folder)
    try:
        until(lambda: run.train_rows() or jobs[0].poll() is not None)
        listening = [
            connection.laddr.ip
            for job in jobs
            for process in below(job.pid)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        os.kill(that_work(below(jobs[1].pid), str(run.path))[0], signal.SIGKILL)
    finally:
        statuses = by_environment.wait(jobs)
    said = [(folder / f"said-{rank}").read_text() for rank in range(2)]
    return SimpleNamespace(statuses=statuses, said=said, run=run, listening=listening)


def test_both_end_each_with_its_status(job):
    assert job.statuses == [1, 128 + signal.SIGKILL], job.said


def test_each_says_once_what_happened_and_how_to_start_again(job):
    how = "; to resume, start each worker of the job again with\n  python "
    for said, what in zip(
        job.said, ["was cut off by Horovod: ", "was ended by SIGKILL"], strict=True
    ):
        assert said.count("recipe.py: error: ") == said.count(what) == said.count(how) == 1
        command = said.partition(how)[2].splitlines()[0]
        assert command.endswith(f"--run_dir {job.run.path} --resume")
        assert "horovodrun" not in command
        assert "Traceback" not in said


def test_workers_of_one_host_listen_on_loopback_alone(job):
    """The rendezvous, and Gloo. The meeting itself is over."""
    assert job.listening
    assert set(job.listening) <= {"127.0.0.1", "::1"}
