"""A job across two hosts: started by the environment and over ssh, and with its cable pulled.

One run goes through all of it, and ends with the weights of a run on one host. Where there is no
SSH server, it is resumed by the environment, too.
"""

import io
import os
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml

from tests.hosts import INTERFACE, numbers, start_sshd, two_hosts
from tests.waiting import HANG_SECONDS, until
from training.run_folder import RunFolder

EVERY = 20  # steps between two checkpoints
PHASE = {"epoch": [0, 1], "lr": [0.02, 0.01], "lr_method": "linear"}
PHASE |= {"batch_size": 20, "image_size": [20, 20], "data_dir": "20"}
STEPS = 4000 // 20 // 2
RECIPE = {
    "name": "two-hosts",
    "policy": "float32",
    "deterministic": True,
    "training_strategy": [PHASE],
    "checkpoint_every": EVERY,
    "keep_newest": 1,
    "log_every": EVERY,
    "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
}
LAUNCHER = [sys.executable, "-m", "launch.horovodrun", "-np", "2", "--gloo"]
# Both ends of a cut job have to be gone within this time, or the time that a start takes.
BOUND_SECONDS = 60


class Job:
    """Processes on two hosts, and what they say."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        self.processes, self.logs = [], []

    def start(self, host, command, name, **variables):
        self.logs.append(self.folder / name)
        self.processes.append(host.start(command, self.logs[-1], **variables))

    def by_environment(self, command):
        """Starts a process on each host; nothing but variables connects them."""
        for rank, host in enumerate(self.hosts.both):
            place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
            place |= {"MASTER_ADDR": self.hosts.a.address, "MASTER_PORT": "29500"}
            self.start(host, command, f"said-by-{host.name}", **place)

    def over_ssh(self, command, ssh, root):
        """Starts horovodrun on host a, which starts a worker on host b over ssh."""
        hosts = ",".join(f"{host.address}:1" for host in self.hosts.both)
        launcher = [*LAUNCHER, "--disable-cache", "-H", hosts, "--network-interfaces", INTERFACE]
        variables = {"PATH": f"{ssh}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
        name = f"said-by-horovodrun-{len([*self.folder.glob('said-by-horovodrun*')])}"
        self.start(self.hosts.a, [*launcher, *command], name, **variables)

    def said(self):
        return [log.read_text(errors="replace") for log in self.logs]

    def until(self, condition):
        """Waits for a condition while no process of the job has ended."""
        until(lambda: condition() or any(process.poll() is not None for process in self.processes))
        assert [process.poll() for process in self.processes] == [None] * len(self.processes), (
            self.said()
        )

    def statuses(self):
        return [process.wait(HANG_SECONDS) for process in self.processes]


def newest(run):
    """The step of the last checkpoint."""
    rows = run.checkpoint_rows() if run.holds_a_run else []
    return max((int(row["step"]) for row in rows), default=0)


def final_weights(run):
    """Every array of the run's model, by its name in the file."""
    with zipfile.ZipFile(run.model) as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    found = {}
    file.visititems(
        lambda name, item: (
            found.update({name: np.array(item)}) if isinstance(item, h5py.Dataset) else None
        )
    )
    return found


@pytest.fixture(scope="module")
def hosts():
    hosts = two_hosts()
    yield hosts
    hosts.remove()


@pytest.fixture(scope="module")
def story(hosts, root, digits, tmp_path_factory):
    """A run by environment, cut and resumed; another job over ssh, cut with it."""
    folder = tmp_path_factory.mktemp("two_hosts")
    ssh = start_sshd(hosts.b, folder)
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text()) | RECIPE
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def train(run):
        options = ["--recipe", folder / "recipe.yaml", "--data_dir", digits, "--run_dir", run.path]
        return [sys.executable, root / "recipe.py", *options]

    run, reference = RunFolder(folder / "run"), RunFolder(folder / "one-host")
    held, job = Job(hosts, folder), Job(hosts, folder)
    if ssh:
        held.over_ssh([sys.executable, root / "tests" / "held_connection.py"], ssh, root)
        held.until(lambda: "".join(held.said()).count("holds") == 2)
    started = time.monotonic()
    job.by_environment(train(run))
    job.until(lambda: newest(run) > 0)
    began = hosts.cut()
    with open(folder / "one-host-said", "wb") as said:
        cores = ["taskset", "--cpu-list", numbers(hosts.cores)]
        command = [*map(str, [*cores, *LAUNCHER, *train(reference)])]
        one_host = subprocess.Popen(command, cwd=root, stdout=said, stderr=subprocess.STDOUT)
    seconds = hosts.all_ended() - began
    stopped_at = newest(run)
    assert one_host.wait(HANG_SECONDS) == 0, (folder / "one-host-said").read_text()
    hosts.mend()
    resumed = Job(hosts, folder)
    command = [*train(run), "--resume"]
    resumed.over_ssh(command, ssh, root) if ssh else resumed.by_environment(command)
    assert set(resumed.statuses()) == {0}, resumed.said()
    return SimpleNamespace(
        run=run,
        reference=reference,
        held=held,
        job=job,
        resumed=resumed,
        seconds=seconds,
        bound=max(BOUND_SECONDS, began - started),
        stopped_at=stopped_at,
        sshd=(folder / "sshd.log").read_text() if ssh else None,
    )


@pytest.fixture
def sshd(story):
    """What the SSH server has said."""
    if story.sshd is None:
        pytest.skip("no SSH server: install openssh-server to test horovodrun over ssh")
    return story.sshd


def test_the_run_on_two_hosts_has_the_weights_of_one_host(story):
    found, expected = final_weights(story.run), final_weights(story.reference)
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_pulled_cable_ends_all_processes_on_both_hosts(story):
    """Gloo would wait for 600 s, as the tests set it. A busy machine gets the time of a start."""
    assert int(os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"]) == 600
    assert story.seconds < story.bound
    assert 0 < story.stopped_at < STEPS
    assert story.job.statuses() == [1, 1]
    assert set(story.held.statuses()) <= {1}


def test_each_host_says_which_one_it_has_lost_and_how_to_resume(story):
    a, b = story.job.said()
    for rank, said, lost in ((0, a, "10.77.0.2 (rank 1)"), (1, b, "10.77.0.1 (rank 0)")):
        assert said.count("recipe.py: error: ") == 1
        assert f"worker {rank} has lost the connection to {lost}, which does not answer" in said
        assert "--resume" in said.partition("recipe.py: error: ")[2]
        assert "Traceback" not in said


def test_over_ssh_the_launcher_shows_the_message_of_its_own_side(story, sshd):
    """Nothing was sent over the connection; the worker of the other host cannot be heard."""
    (said,) = story.held.said()
    assert said.count("recipe.py: error: ") == 1
    assert "worker 0 has lost the connection to 10.77.0.2 (rank 1)" in said
    assert "Traceback" not in said


def test_the_run_was_resumed(story):
    assert f"resuming after step {story.stopped_at}" in story.resumed.said()[0]


def test_the_resumed_worker_of_the_other_host_was_started_over_ssh(sshd):
    assert "Accepted publickey" in sshd
