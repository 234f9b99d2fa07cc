"""The place of a worker in its job, from the variables of those who start workers."""

import itertools
import re

import pytest
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts

from core.errors import UserError
from launch import environment
from launch.environment import (
    Member,
    Place,
    announced,
    find_place,
    first_host,
    listening_address,
    own_cores,
    places,
    refusal,
)

USUAL = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "gpu-0", "MASTER_PORT": "1234"}
# What a task of `srun -N 2 -n 4` has, as far as it matters, beside the variables of its job.
STEP = {
    "SLURM_JOB_ID": "200505",
    "SLURM_STEP_ID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gnode[10,20]",
    "SLURM_JOB_NODELIST": "gnode[09-10,20]",
}
# A shell on the first node of an allocation, without `srun`: `env | grep SLURM` as published at
# https://gist.github.com/jerinphilip/212b3814264c3b8da512afc2cfda4bcb, in part.
SHELL = {
    "SLURM_JOB_ID": "200505",
    "SLURM_JOB_NODELIST": "gnode[10,20,25,37]",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
INDEXED = {"JOB_COMPLETION_INDEX": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "demo-0.demo"}


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (USUAL, Place(3, 4, "gpu-0", 1234)),
        (without(USUAL, "MASTER_PORT"), Place(3, 4, "gpu-0", 29500)),
        (
            USUAL | {"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "a run"},
            Place(3, 4, "gpu-0", 1234, local_rank=1, job="a run"),
        ),
        (
            without(USUAL, "MASTER_ADDR") | {"LOCAL_WORLD_SIZE": "4"},
            Place(3, 4, "127.0.0.1", 1234),
        ),
        (
            USUAL | {"RECIPE_JOIN_SECRET": "s", "RECIPE_JOIN_SECONDS": "7.5"},
            Place(3, 4, "gpu-0", 1234, secret="s", seconds=7.5),
        ),
        # 20000 + (10 * 200505 + 1) % 10000
        (STEP, Place(2, 4, "gnode10", 25051, "Slurm", 0, "200505.1")),
        (
            STEP | {"SLURM_STEP_NUM_NODES": "1"},
            Place(2, 4, "127.0.0.1", 25051, "Slurm", 0, "200505.1"),
        ),
        (
            STEP | {"WORLD_SIZE": "4", "MASTER_ADDR": "gnode20", "MASTER_PORT": "12340"},
            Place(2, 4, "gnode20", 12340, "Slurm", 0, "200505.1"),
        ),
        # torchrun, one for each node, started by srun
        (STEP | USUAL, Place(3, 4, "gpu-0", 1234)),
        (INDEXED, Place(1, 2, "demo-0.demo", 29500, "Kubernetes")),
        # several workers in each pod
        (
            INDEXED | {"RANK": "0", "LOCAL_RANK": "0"},
            Place(0, 2, "demo-0.demo", 29500, local_rank=0),
        ),
    ],
)
def test_where_a_worker_belongs(variables, expected):
    assert find_place({"HOME": "/root", **variables}) == expected


ALONE = [
    {},
    SHELL,
    SHELL | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "4"},  # salloc's own shell
    STEP | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
    {"RANK": "0", "WORLD_SIZE": "1"},
    {"WORLD_SIZE": "1"},
    {"MASTER_ADDR": "gpu-0", "MASTER_PORT": "1234"},
    {"RANK": "", "WORLD_SIZE": " "},
    {"JOB_COMPLETION_INDEX": "3"},  # one of many runs that need no others
]
PLACED = [
    {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"},
    {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1", "RECIPE_JOINS_BY": "Slurm"},
    {"OMPI_COMM_WORLD_SIZE": "2"},
]


@pytest.mark.parametrize("variables", ALONE)
def test_a_worker_of_its_own(variables):
    assert find_place(variables) is None
    assert announced(variables) == {}


@pytest.mark.parametrize(("launcher", "around"), itertools.product(PLACED, [{}, STEP, USUAL]))
def test_horovodrun_and_mpirun_come_first(launcher, around):
    assert find_place(around | launcher) is None


REFUSED = [
    ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not; set both, or none of them"),
    ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 and RANK is not set; set RANK for each worker"),
    (without(INDEXED, "WORLD_SIZE"), "JOB_COMPLETION_INDEX is set and WORLD_SIZE is not"),
    (USUAL | {"RANK": "4"}, "RANK: received 4; with WORLD_SIZE 4 it should be 0 to 3"),
    (USUAL | {"RANK": "-1"}, "RANK: received '-1'; give a whole number of at least 0"),
    (USUAL | {"WORLD_SIZE": "four"}, "WORLD_SIZE: received 'four'; give a whole number"),
    (USUAL | {"WORLD_SIZE": "0"}, "WORLD_SIZE: received '0'; give a whole number of at least 1"),
    (USUAL | {"LOCAL_RANK": "a"}, "LOCAL_RANK: received 'a'"),
    (USUAL | {"MASTER_PORT": "65536"}, "MASTER_PORT: received 65536; give a port, 1 to 65535"),
    (USUAL | {"MASTER_PORT": "0"}, "MASTER_PORT: received '0'"),
    (without(USUAL, "MASTER_ADDR"), "there are 4 workers and MASTER_ADDR is not set"),
    (USUAL | {"RECIPE_JOIN_SECONDS": "0"}, "RECIPE_JOIN_SECONDS: received '0'; give seconds"),
    (USUAL | {"RECIPE_JOIN_SECONDS": "inf"}, "RECIPE_JOIN_SECONDS: received 'inf'"),
    (USUAL | {"RECIPE_JOIN_SECONDS": "soon"}, "RECIPE_JOIN_SECONDS: received 'soon'"),
    (STEP | {"WORLD_SIZE": "8"}, "WORLD_SIZE: received 8, but srun started 4 tasks"),
]


@pytest.mark.parametrize(("variables", "message"), REFUSED)
def test_refusals(variables, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_place(variables)
    assert announced(variables) == {}  # `plan` and others need no workers


def test_the_secret_is_not_shown():
    assert "hidden" not in repr(find_place(USUAL | {"RECIPE_JOIN_SECRET": "hidden"}))


def test_what_is_announced_does_not_hide_the_place():
    """The supervisor announces a worker; the worker itself then still has to join."""
    told = announced(USUAL)
    assert told == {"RECIPE_JOINS_BY": "environment", "HOROVOD_RANK": "3", "HOROVOD_SIZE": "4"}
    assert find_place(USUAL | told) == find_place(USUAL)


# Expected: the first line of `scontrol show hostnames LIST`, by Slurm's documentation.
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-07,11],big", "gpu03"),
        ("gnode[10,20,25,37]", "gnode10"),
        ("rack[2-3]-n[001-016]", "rack2-n001"),
        ("big,gpu[03-07]", "big"),
        ("n[5]-ib.cluster", "n5-ib.cluster"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes, first):
    assert first_host(nodes) == first


def member(rank, host="a", **changes):
    given = {"size": 4, "kernel": f"of {host}", "local_rank": None, "cores": "f", "pid": 10 + rank}
    return Member(rank=rank, host=host, **given | changes)


@pytest.mark.parametrize("hosts", ["a:4", "a:3,b:1", "a:1,b:3", "a:2,b:1,c:3", "a:1,b:1"])
def test_the_numbers_are_those_of_horovods_own_launcher(hosts):
    slots = get_host_assignments(parse_hosts(hosts), sum(int(h[2:]) for h in hosts.split(",")))
    found = places([member(slot.rank, slot.hostname) for slot in reversed(slots)])
    assert [place["HOROVOD_HOSTNAME"] for place in found] == [slot.hostname for slot in slots]
    for place, slot in zip(found, slots, strict=True):
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
        numbers = ",".join(place[f"HOROVOD_{name}"] for name in names)
        assert numbers == slot.to_response_string()


def test_ranks_that_go_around_the_hosts():
    """As with `srun --distribution=cyclic`: a, b, a, b, a."""
    found = places([member(rank, "ab"[rank % 2]) for rank in range(5)])
    numbers = [(p["HOROVOD_LOCAL_RANK"], p["HOROVOD_CROSS_RANK"]) for p in found]
    assert numbers == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"), ("2", "0")]
    assert [p["HOROVOD_CROSS_SIZE"] for p in found] == ["2", "2", "2", "2", "1"]
    assert [p["HOROVOD_LOCAL_SIZE"] for p in found] == ["3", "2", "3", "2", "3"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 0, 2], ["1", "0", "2"]),  # the launcher's
        ([0, 0, 0], ["0", "1", "2"]),  # pods that share their node's name
        ([None, 0, 1], ["0", "1", "2"]),
        ([1, 2, 3], ["0", "1", "2"]),
    ],
)
def test_local_ranks_of_the_launcher_are_taken_if_they_fit(given, expected):
    found = places([member(rank, local_rank=local) for rank, local in enumerate(given)])
    assert [place["HOROVOD_LOCAL_RANK"] for place in found] == expected


def test_two_hosts_of_one_name_are_two():
    found = places([member(0), member(1, kernel="of another a")])
    assert [place["HOROVOD_LOCAL_SIZE"] for place in found] == ["1", "1"]
    assert len({place["HOROVOD_HOSTNAME"] for place in found}) == 2


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (["ff", "ff"], [4, 4]),  # all may use the host's 8
        (["0f", "f0"], [4, 4]),  # each has its own
        (["03", "fc"], [2, 6]),
        (["1", "1", "1"], [1, 1, 1]),  # more workers than cores
    ],
)
def test_a_worker_gets_its_share_of_the_cores(cores, expected):
    team = [member(rank, cores=mask) for rank, mask in enumerate(cores)]
    assert [own_cores(one, team) for one in team] == expected
    assert [int(place[environment.OWN_CORES]) for place in places(team)] == expected


@pytest.mark.parametrize(
    ("comes", "message"),
    [
        (member(2, "b"), None),
        (member(1, "b"), "two workers have rank 1: process 11 on a and process 11 on b"),
        (member(0, "b"), "two workers have rank 0: process 10 on a and process 10 on b"),
        (member(2, "b", size=2), "worker 2 (process 12 on b) was told of 2 workers, and worker 0"),
        (member(4, "b"), "process 14 on b has rank 4; with 4 workers it should be below 4"),
    ],
)
def test_who_may_come_to_the_meeting(comes, message):
    found = refusal(comes, {0: member(0), 1: member(1)})
    assert found is None if message is None else found.startswith(message)


OWN = ["127.0.0.1", "10.0.0.5", "192.168.1.5"]


@pytest.mark.parametrize(
    ("name", "resolved", "expected"),
    [
        ("gpu-0", ["10.0.0.5"], "10.0.0.5"),
        ("gpu-0", ["10.9.9.9", "192.168.1.5"], "192.168.1.5"),
        ("localhost", ["127.0.0.1"], "127.0.0.1"),
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("gpu-0", ["127.0.1.1"], ""),  # Debian's /etc/hosts
        ("gpu-0", ["127.0.1.1", "10.0.0.5"], "10.0.0.5"),
    ],
)
def test_where_rank_0_listens(name, resolved, expected):
    assert listening_address(name, resolved, OWN) == expected


def test_rank_0_on_another_host_is_refused():
    message = "MASTER_ADDR: gpu-1 (10.0.0.6) is not this host, which has 127.0.0.1, 10.0.0.5"
    with pytest.raises(UserError, match=re.escape(message)):
        listening_address("gpu-1", ["10.0.0.6"], OWN)
