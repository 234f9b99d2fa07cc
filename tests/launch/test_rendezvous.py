"""The meeting of workers, on the loopback interface, without TensorFlow."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from core.errors import RunError, SharedUserError, UserError
from launch import rendezvous
from launch.environment import Place
from launch.rendezvous import describe, join, seal, unseal
from tests import by_environment
from tests.waiting import HANG_SECONDS, until

HOST = "127.0.0.1"


@pytest.fixture
def port():
    return by_environment.free_port()


@pytest.fixture
def place(port):
    """Rank 0 of two."""
    return Place(0, 2, HOST, port, secret="s", seconds=HANG_SECONDS)


def all_of(*places):
    """What each worker's `join` returns or raises; all at once, in threads."""

    def one(place):
        try:
            return join(place, describe(place))
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(places)) as threads:
        return [*threads.map(one, places)]


def once_it_listens(place):
    """A connection to rank 0."""

    def connect():
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection((HOST, place.port))

    return until(connect)


@pytest.fixture
def time_is_over(monkeypatch):
    """Once it is set, the time of those who wait is over."""
    over = threading.Event()
    clock = lambda: time.monotonic() + (10 * HANG_SECONDS if over.is_set() else 0)  # noqa: E731
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    return over


# A worker as a launcher starts it, which prints what it then knows.
WORKER = """
import json, os, sys
sys.modules["horovod.tensorflow"] = None  # it would import TensorFlow
from launch import rendezvous
try:
    rendezvous.meet()
    print(json.dumps({k: v for k, v in os.environ.items() if "HOROVOD" in k or "NCCL" in k}))
    sys.stdout.flush()
    sys.stdin.read()  # rank 0 serves until all are done
except (ValueError, RuntimeError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_processes_on_two_hosts_find_each_other(root, port):
    """Three workers on host a, one on b; they are started in the wrong order."""
    shared = {"WORLD_SIZE": "4", "MASTER_ADDR": HOST, "MASTER_PORT": str(port)}
    shared |= {"RECIPE_JOIN_SECRET": "s", "RECIPE_JOIN_SECONDS": str(HANG_SECONDS)}
    started = []
    for rank, host in reversed([*enumerate("aaba")]):
        environment = {**os.environ, **shared, "RANK": str(rank), "HOROVOD_HOSTNAME": host}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.insert(
            0, subprocess.Popen([sys.executable, "-c", WORKER], cwd=root, env=environment, **pipes)
        )
    lines = [process.stdout.readline() for process in started]
    for process in started:
        process.communicate(timeout=HANG_SECONDS)
    found = [json.loads(line) for line in lines]
    local = [("0", "3"), ("1", "3"), ("0", "1"), ("2", "3")]
    assert [(f["HOROVOD_LOCAL_RANK"], f["HOROVOD_LOCAL_SIZE"]) for f in found] == local
    cross = [("0", "2"), ("0", "1"), ("1", "2"), ("0", "1")]
    assert [(f["HOROVOD_CROSS_RANK"], f["HOROVOD_CROSS_SIZE"]) for f in found] == cross
    assert [f["HOROVOD_RANK"] for f in found] == ["0", "1", "2", "3"]
    assert {f["HOROVOD_SIZE"] for f in found} == {"4"}
    assert {(f["HOROVOD_GLOO_IFACE"], f["NCCL_SOCKET_IFNAME"]) for f in found} == {("lo", "=lo")}
    assert {f["HOROVOD_CONTROLLER"] + f["HOROVOD_CPU_OPERATIONS"] for f in found} == {"gloogloo"}
    (address,) = {f["HOROVOD_GLOO_RENDEZVOUS_ADDR"] for f in found}
    (number,) = {f["HOROVOD_GLOO_RENDEZVOUS_PORT"] for f in found}
    assert address == HOST
    assert number != str(port)
    assert [process.returncode for process in started] == [0] * 4


def test_horovods_rendezvous_listens_on_one_address_and_knows_its_workers(place):
    found, _ = all_of(place, replace(place, rank=1))
    port = int(found["HOROVOD_GLOO_RENDEZVOUS_PORT"])

    def asked(source):
        with contextlib.closing(
            http.client.HTTPConnection(HOST, port, HANG_SECONDS, source_address=(source, 0))
        ) as server:
            server.request("PUT", "/global_/0", b"an address")
            return server.getresponse().status

    assert asked(HOST) == 200
    with pytest.raises(OSError):  # noqa: PT011
        asked("127.0.0.2")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def test_the_interface_that_the_user_chose_stays(place, monkeypatch):
    monkeypatch.setattr(rendezvous, "own_addresses", lambda: {HOST: "lo", "10.0.0.5": "ib0"})
    monkeypatch.setenv("HOROVOD_GLOO_IFACE", "ib0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib")
    for found in all_of(place, replace(place, rank=1)):
        assert (found["HOROVOD_GLOO_IFACE"], found["NCCL_SOCKET_IFNAME"]) == ("ib0", "ib")


def test_an_interface_that_is_not_there(place, monkeypatch):
    """Horovod would abort: it throws where nobody catches."""
    monkeypatch.setattr(rendezvous, "own_addresses", lambda: {HOST: "lo", "10.0.0.5": "eth0"})
    monkeypatch.setenv("HOROVOD_GLOO_IFACE", "ib0")
    (found,) = all_of(place)
    assert type(found) is UserError
    message = (
        "HOROVOD_GLOO_IFACE: received 'ib0'; interfaces with an IPv4 address are here eth0, lo"
    )
    assert str(found) == message


def test_a_worker_that_is_not_one_of_several_does_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    before = dict(os.environ)
    rendezvous.meet()
    assert dict(os.environ) == before


def test_two_of_one_rank_end_all(place):
    place = replace(place, size=3)
    found = all_of(place, replace(place, rank=1), replace(place, rank=1))
    assert {type(error) for error in found} == {SharedUserError}
    (message,) = {str(error) for error in found}  # rank 0 prints it for all
    assert message.startswith("two workers have rank 1: process ")


def test_a_wrong_size_ends_all(place):
    found = all_of(place, replace(place, rank=1, size=3))
    assert {type(error) for error in found} == {SharedUserError}
    assert "was told of 3 workers, and worker 0 of 2" in str(found[0])
    assert str(found[0]) == str(found[1])


def test_ranks_that_never_come_end_those_that_came(place, time_is_over, monkeypatch):
    say = rendezvous.Guest.say

    def say_and_wait(self, *given):
        say(self, *given)
        time_is_over.set()

    monkeypatch.setattr(rendezvous.Guest, "say", say_and_wait)
    place = replace(place, size=4)
    found = all_of(place, replace(place, rank=2))
    assert {type(error) for error in found} == {RunError}
    assert str(found[0]) == (
        f"2 of 4 workers came to {HOST}:{place.port} within 600 s; missing: rank 1, 3 "
        "(RECIPE_JOIN_SECONDS sets the time)"
    )
    assert str(found[1]) == str(found[0])


def test_a_rank_0_that_is_not_there(place):
    (found,) = all_of(replace(place, rank=1, seconds=0.1))
    assert isinstance(found, ConnectionError)
    message = f"cannot reach worker 0 at {HOST}:{place.port} within 0.1 s: Connection refused"
    assert str(found).startswith(message)


def test_something_else_that_listens_there(place):
    with socket.create_server((HOST, place.port)) as other, ThreadPoolExecutor(1) as threads:
        found = threads.submit(all_of, replace(place, rank=1, seconds=0.1))
        while not found.done():
            other.settimeout(1.0)
            with contextlib.suppress(OSError), other.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert "what listens there does not answer as worker 0" in str(found.result()[0])


@pytest.mark.parametrize("other", [{"secret": "another"}, {"job": "another"}])
def test_a_worker_of_another_job_is_refused_and_counted(place, other, time_is_over):
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(all_of, place)
        (second,) = all_of(replace(place, rank=1, **other))
        time_is_over.set()
        (zero,) = first.result()
    assert type(second) is UserError
    assert f"worker 0 at {HOST}:{place.port} is of another job, or has another" in str(second)
    assert "refused: 1 of another job, or with another RECIPE_JOIN_SECRET" in str(zero)


def test_a_rank_0_without_the_secret_gives_nobody_a_place(place):
    """It may answer what it likes: variables would be set in the worker's environment."""
    answer = {"place": {"LD_PRELOAD": "evil.so"}}
    with socket.create_server((HOST, place.port)) as other, ThreadPoolExecutor(1) as threads:
        found = threads.submit(all_of, replace(place, rank=1))
        connection, _ = other.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b'{"nonce": "0"}\n')
            said = json.loads(lines.readline().partition(b" ")[2])
            connection.sendall(seal(b"a guess", said["nonce"], answer))
            (error,) = found.result()
    assert isinstance(error, UserError)


def test_a_worker_that_ends_while_it_waits_may_come_again(place):
    place = replace(place, size=3)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(all_of, place)
        own, key = replace(place, rank=1), rendezvous.key_of(place)
        with once_it_listens(place) as way, way.makefile("rb") as lines:
            nonce = json.loads(lines.readline())["nonce"]
            way.sendall(seal(key, nonce, {"member": describe(own).model_dump(), "nonce": "1"}))
            assert unseal(key, "1", lines.readline()) == "welcome"
        found = all_of(replace(place, rank=1), replace(place, rank=2))
        (zero,) = first.result()
    assert [f["HOROVOD_RANK"] for f in (zero, *found)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "said",
    [
        b"",  # a port scanner
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 70000,
        b"0 {}\n",
        b'{"rank": 1}\n',
    ],
)
def test_strangers_do_not_disturb_the_meeting(place, said):
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(all_of, place)
        with once_it_listens(place) as stranger, contextlib.suppress(ConnectionError):
            stranger.sendall(said)
        (other,) = all_of(replace(place, rank=1))
        assert (first.result()[0]["HOROVOD_RANK"], other["HOROVOD_RANK"]) == ("0", "1")


def test_a_line_without_an_end_is_cut_off(place, monkeypatch):
    monkeypatch.setattr(rendezvous, "GREETING_SECONDS", 10 * HANG_SECONDS)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(all_of, place)
        with once_it_listens(place) as stranger, contextlib.suppress(ConnectionError):
            stranger.settimeout(HANG_SECONDS)
            stranger.sendall(b"x" * (2 * rendezvous.LONGEST_LINE))
            while stranger.recv(1000):  # the greeting, and then the end
                pass
        all_of(replace(place, rank=1))
        assert first.result()[0]["HOROVOD_RANK"] == "0"


def test_a_member_that_is_none(place):
    """It has the key, and says what no worker says."""
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(all_of, place)
        with once_it_listens(place) as way, way.makefile("rb") as lines:
            nonce = json.loads(lines.readline())["nonce"]
            member = describe(place).model_dump() | {"rank": "1; rm -rf"}
            body = {"member": member, "nonce": "1"}
            way.sendall(seal(rendezvous.key_of(place), nonce, body))
            assert lines.readline() == b"refused\n"
        all_of(replace(place, rank=1))
        assert first.result()[0]["HOROVOD_RANK"] == "0"


def test_a_port_that_is_taken(place):
    with socket.create_server((HOST, place.port)):
        (found,) = all_of(place)
    message = f"rank 0 cannot listen on {HOST}, port {place.port}: Address already in use; another"
    assert isinstance(found, ConnectionError)
    assert str(found).startswith(message)


def test_a_name_that_nobody_knows(place, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (found,) = all_of(replace(place, address="gpu-9", seconds=0.1))
    assert isinstance(found, RunError)
    message = "MASTER_ADDR: gpu-9 has no IPv4 address here: Name or service not known"
    assert str(found) == message


@pytest.mark.parametrize(("key", "nonce"), [(b"other", "n"), (b"key", "other")])
def test_a_line_is_for_one_reader(key, nonce):
    line = seal(b"key", "n", {"a": 1})
    assert unseal(b"key", "n", line) == {"a": 1}
    with pytest.raises(ValueError, match="another key"):
        unseal(key, nonce, line)
    with pytest.raises(ValueError, match="another key"):
        unseal(b"key", "n", line.replace(b"1", b"2"))


def test_the_seal_is_an_hmac():
    """Test case 2 of RFC 4231: `key` is "Jefe", the data are "what do ya want for nothing?"."""
    expected = b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert rendezvous._digest(b"Jefe", "what do ya ", b"want for nothing?") == expected
