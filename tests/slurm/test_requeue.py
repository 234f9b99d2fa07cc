"""`docs/launch/slurm.sbatch` under Slurm itself: `make test-slurm`, by hand.

The demo, with two tasks on this machine and a time limit that is too short for it. It is asked
to stop, ends with 75, goes back into the queue, and resumes, until it is complete.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from training.run_folder import RunFolder

# Where to keep what Slurm and the run said. Without it the test is skipped: it takes minutes.
RECORD = os.environ.get("SLURM_RECORD")
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
DAEMONS = ("munged", "slurmctld", "slurmd")
# At least two turns where the demo takes two minutes; a slower machine needs more for a start.
LIMIT_MINUTES = int(os.environ.get("SLURM_MINUTES", "2"))
TURNS = 12  # more than the demo can need, on any machine
STEPS = 9 * 40 + 9 * 50  # of the demo with two workers: 4,000 images, batches of 50 and 40

pytestmark = pytest.mark.skipif(not RECORD, reason="run it by `make test-slurm`")


@pytest.fixture(scope="module")
def slurm(root, tmp_path_factory):
    """The variables with which Slurm's commands find a cluster of this machine alone."""
    if missing := [name for name in (*DAEMONS, "sbatch") if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)}: install slurm-wlm and munge")
    if os.geteuid():
        pytest.skip("Slurm's daemons need root")
    folder = tmp_path_factory.mktemp("slurm")
    variables = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        subprocess.run([root / "tests" / "slurm" / "cluster.sh", folder], check=True)
        yield variables
    finally:
        for name in reversed(DAEMONS):
            stop(folder / f"{name}.pid")
        for log in folder.glob("*.log"):
            shutil.copy(log, RECORD)


def stop(pid_file):
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        daemon = psutil.Process(int(pid_file.read_text()))
        daemon.terminate()
        daemon.wait()


@pytest.fixture(scope="module")
def job(slurm, root, tmp_path_factory):
    """The job after its last turn: what it said, and its states in their order."""
    folder = tmp_path_factory.mktemp("job")
    said = folder / "job.out"
    command = ["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0"]
    command += [f"--time={LIMIT_MINUTES}", f"--output={said}", "docs/launch/slurm.sbatch"]
    command += ["--recipe", "demo"]
    submitted = subprocess.run(
        command,
        cwd=root,
        env={**slurm, "RUN": str(folder / "run")},
        capture_output=True,
        text=True,
    )
    assert submitted.returncode == 0, submitted.stderr
    number = submitted.stdout.strip()
    states = []
    began = time.monotonic()
    while not states or states[-1]["JobState"] not in ENDED:
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", number],
            env=slurm,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        state = {
            k: re.search(rf"\b{k}=(\S+)", shown)[1] for k in ("JobState", "Restarts", "ExitCode")
        }
        if not states or any(states[-1][key] != state[key] for key in state):
            states.append({"second": round(time.monotonic() - began), **state})
        assert int(state["Restarts"]) < TURNS, said.read_text()
        time.sleep(1)
    record = Path(RECORD)
    shutil.copy(said, record / "job.out")
    (record / "states.txt").write_text("".join(f"{state}\n" for state in states))
    for path in (folder / "run").glob("*.csv"):
        shutil.copy(path, record)
    return SimpleNamespace(said=said.read_text(), states=states, run=RunFolder(folder / "run"))


def test_the_job_stops_by_the_signal_and_is_requeued_until_it_is_complete(job):
    assert job.states[-1]["JobState"] == "COMPLETED", job.said
    turns = re.findall(r"the workers ended with status (\d+)", job.said)
    assert turns == ["75"] * (len(turns) - 1) + ["0"]
    assert len(turns) > 1
    assert int(job.states[-1]["Restarts"]) == len(turns) - 1


def test_each_turn_resumes_after_the_step_that_was_saved(job):
    stopped = re.findall(r"stopped by SIGUSR1 after step (\d+), which is saved", job.said)
    resumed = re.findall(r"resuming after step (\d+)", job.said)
    assert stopped == resumed
    assert len(stopped) >= 1


def test_the_run_is_complete_and_each_row_is_there_once(job):
    steps = [int(row["step"]) for row in job.run.train_rows()]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert job.run.model.exists()
