"""Connections to other hosts: their limits, and who says which host is silent.

Two addresses of the loopback interface stand for two hosts.
"""

import contextlib
import socket

import pytest

from core.network import links as module
from core.network.links import Links, answers

HERE, THERE = "127.0.0.1", "127.0.0.2"


@contextlib.contextmanager
def connection(here, there):
    """Both ends of a connection, and the port that was listened to."""
    with (
        socket.create_server((there, 0)) as server,
        socket.create_connection(server.getsockname(), source_address=(here, 0)) as ours,
        server.accept()[0] as theirs,
    ):
        yield ours, theirs, server.getsockname()[1]


def limits(tcp):
    options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT")
    found = [tcp.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options]
    return [tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *found]


def test_a_connection_to_another_host_fails_after_30_s_of_silence():
    with connection(HERE, THERE) as (ours, _, port):
        watched = Links()
        assert THERE in watched.watch()  # both ends are this process's
        assert watched.peers[THERE] == port
        assert limits(ours) == [1, 10, 5, 30_000]
        ours.sendall(b"still open")


def test_a_connection_within_a_host_stays_as_it_is():
    with connection(HERE, HERE) as (ours, _, _):
        before = limits(ours)
        watched = Links()
        watched.watch()
        assert limits(ours) == before
        assert HERE not in watched.peers


def test_a_host_answers_also_where_nobody_listens_any_more():
    with socket.create_server((THERE, 0)) as server:
        port = server.getsockname()[1]
        assert answers(THERE, port)
    assert answers(THERE, port)


def test_a_host_that_drops_what_it_gets_is_silent(monkeypatch):
    """Linux drops the first packet of a connection for which a listener has no room."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind((THERE, 0))
        full.listen(0)
        waiting.enter_context(socket.create_connection(full.getsockname()))
        found = Links()
        found.peers = {THERE: full.getsockname()[1], HERE: 1}  # nobody listens at port 1
        assert found.silent_hosts() == [THERE]


def test_without_other_hosts_nobody_is_silent():
    assert Links().silent_hosts() == []


# Three hosts: ranks 0 and 1, 2 and 3, 4.
ADDRESSES = [["10.0.0.1"], ["10.0.0.1"], ["10.0.0.2"], ["10.0.0.2"], ["10.0.0.3"]]


@pytest.mark.parametrize(
    ("rank", "local_rank", "silent", "speaks"),
    [
        (0, 0, ["10.0.0.2"], True),
        (1, 1, ["10.0.0.2"], False),  # rank 0 does
        (4, 0, ["10.0.0.2"], False),  # rank 0 does, which it can reach
        (2, 0, ["10.0.0.1"], True),  # it is cut off from rank 0
        (3, 1, ["10.0.0.1"], False),  # rank 2, on the same host, does
        (2, 0, ["10.0.0.3", "10.0.0.1"], True),
        (2, 0, ["10.0.0.3"], False),
    ],
)
def test_rank_0_speaks_for_all_that_can_reach_it(rank, local_rank, silent, speaks):
    found = Links()
    found.place(rank, local_rank, ADDRESSES)
    assert bool(found.report(silent)) == speaks


def test_the_message_names_hosts_and_ranks():
    found = Links()
    found.place(0, 0, ADDRESSES)
    message = found.report(["10.0.0.2", "10.0.0.3"])
    assert message.startswith(
        "has lost the connection to 10.0.0.2 (rank 2, 3), 10.0.0.3 (rank 4), which does not answer"
    )
