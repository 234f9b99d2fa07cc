"""The files of docs/launch/: what the workers of a pod are told, and what is in an image."""

import os
import signal
import subprocess

import pytest
import yaml

from launch.environment import find_place
from tests.test_house import ROOT, ROWS
from tests.waiting import HANG_SECONDS, until

START = ROOT / "docs" / "launch" / "start_workers.sh"
ROOMS = set().union(*ROWS) - {"recipe"}


def start(count, *command, **variables):
    return subprocess.Popen(
        [START, str(count), *command],
        env={**os.environ, "NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host-0", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, err = process.communicate(timeout=HANG_SECONDS)
    return process.returncode, out.split(), err


def test_each_worker_of_a_host_gets_its_place():
    """Host 1 of 2, with 3 workers each."""
    shown = "echo $RANK/$WORLD_SIZE/$LOCAL_RANK"
    status, out, _ = ended(start(3, "sh", "-c", shown))
    assert (status, sorted(out)) == (0, ["3/6/0", "4/6/1", "5/6/2"])


def test_a_worker_that_fails_ends_the_others_and_gives_the_status():
    """The others wait for ever, and would hold the pipe open if they were left."""
    script = '[ "$LOCAL_RANK" = 1 ] && exit 7; exec sleep infinity'
    status, _, _ = ended(start(3, "bash", "-c", script))
    assert status == 7


def test_a_signal_goes_to_all_workers_and_75_comes_back():
    waits = 'trap "echo stopped; exit 75" TERM; echo ready; while :; do sleep 0.01; done'
    process = start(2, "bash", "-c", waits)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    status, out, _ = ended(process)
    assert (status, out) == (75, ["stopped"] * 2)


def test_workers_that_end_well_at_different_times_give_0():
    waits = 'if [ "$LOCAL_RANK" = 0 ]; then exit 0; fi; read line < "$PIPE"'
    read, write = os.pipe()
    process = start(2, "bash", "-c", waits, PIPE=f"/proc/{os.getpid()}/fd/{read}")
    until(lambda: len(children(process.pid)) == 1)  # worker 0 has ended
    os.write(write, b"\n")
    assert ended(process)[0] == 0
    os.close(read)
    os.close(write)


def children(pid):
    import psutil

    return [c for c in psutil.Process(pid).children() if c.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "docs" / "launch" / "jobset.yaml").read_text())


def test_the_pods_of_the_jobset_find_each_other(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    hosts = job["template"]["spec"]["completions"]
    assert job["template"]["spec"]["parallelism"] == hosts
    assert job["template"]["spec"]["completionMode"] == "Indexed"
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["NODES"] == str(hosts)
    name, subdomain = jobset["metadata"]["name"], jobset["spec"]["network"]["subdomain"]
    assert variables["MASTER_ADDR"] == f"{name}-{job['name']}-0-0.{subdomain}"
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"start_workers.sh {gpus} " in container["command"][-1]


def test_a_worker_of_the_last_pod_finds_its_place_in_the_job(jobset, tmp_path):
    """By the pod's own command; only Python is another program, which shows its variables."""
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ]
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    variables |= {"JOB_COMPLETION_INDEX": "1", "RUN": str(tmp_path), "RECIPE_JOIN_SECRET": "x"}
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" > "$RUN/said-$LOCAL_RANK"\nenv > "$RUN/env-$LOCAL_RANK"\n'
    )
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        container["command"], cwd=ROOT, env={"PATH": path, **variables}, capture_output=True
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    given = dict(line.split("=", 1) for line in (tmp_path / "env-7").read_text().splitlines())
    place = find_place(given)
    assert (place.rank, place.size, place.local_rank) == (15, 16, 7)
    assert (place.address, place.port, place.secret) == ("phases-host-0-0.phases", 29500, "x")
    assert (tmp_path / "said-7").read_text().split()[-1] == "--resume"


@pytest.mark.parametrize("name", ["launch", "sagemaker"])
def test_an_image_holds_every_room(name):
    lines = (ROOT / "docs" / name / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY ")}
    assert "." in copied or copied >= ROOMS | {"recipe.py", "recipes"}


def test_no_room_is_left_out_of_the_image():
    left_out = set((ROOT / "docs" / "launch" / "Dockerfile.dockerignore").read_text().split())
    assert not left_out & (ROOMS | {"recipe.py", "recipes", "Makefile", "requirements.txt"})
