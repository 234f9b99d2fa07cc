"""The address of a host's own name, as Gloo finds it."""

import socket

import pytest

from core.errors import UserError
from core.network.own_name import address_of, check_own_name, spans_hosts

HOST = "host-a"
FOREIGN = "192.0.2.1"  # of no host (RFC 5737)


@pytest.fixture
def named(monkeypatch):
    """This host has a name that stands for the given addresses."""

    def name(*addresses):
        def look_up(host, port, type):
            assert host == HOST
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, type, 0, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "gethostname", lambda: HOST)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return name


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["127.0.1.1"], "127.0.1.1"),
        ([FOREIGN, "127.0.0.1"], "127.0.0.1"),  # Gloo tries to bind each
        ([FOREIGN], None),
        ([], None),
    ],
)
def test_the_first_address_that_is_this_hosts_counts(named, addresses, found):
    named(*addresses)
    assert address_of(HOST) == found


def test_a_loopback_address_will_do_on_one_host(named):
    named("127.0.1.1")
    check_own_name(several_hosts=False)


@pytest.mark.parametrize(
    ("addresses", "several_hosts", "message"),
    [
        (["127.0.1.1"], True, "host-a, stands for 127.0.1.1 here"),
        ([], True, "add a line to /etc/hosts: its address host-a"),
        ([FOREIGN], True, "host-a, has no address here"),
        ([], False, "add a line to /etc/hosts: 127.0.0.1 host-a"),
    ],
)
def test_a_name_with_which_horovod_would_crash_is_refused(named, addresses, several_hosts, message):
    named(*addresses)
    with pytest.raises(UserError, match=message):
        check_own_name(several_hosts)


@pytest.mark.parametrize(
    ("size", "local_size", "rendezvous", "spans"),
    [
        ("4", "2", "10.0.0.1", True),
        ("4", "4", "10.0.0.1", False),
        ("2", "1", "127.0.0.1", False),  # `localhost:1,127.0.0.1:1`, as in tests/test_elastic.py
    ],
)
def test_two_names_of_one_host_are_one_host(size, local_size, rendezvous, spans):
    given = {"HOROVOD_SIZE": size, "HOROVOD_LOCAL_SIZE": local_size}
    assert spans_hosts(given | {"HOROVOD_GLOO_RENDEZVOUS_ADDR": rendezvous}) == spans
