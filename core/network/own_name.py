"""The address that this host's own name stands for, which Gloo tells the other workers.

Horovod 0.28.1 reads `HOROVOD_GLOO_IFACE` for the connections of its start alone. The gradients
go over those of a process set, whose interface it never sets (`InitializeForProcessSet` in
`gloo_context.cc`). Gloo then takes the address of the host's own name. Where there is none,
the process crashes. Debian's installer makes it 127.0.1.1, which no other host can reach.
"""

import contextlib
import socket
from collections.abc import Mapping

from core.errors import UserError


def spans_hosts(environ: Mapping[str, str]) -> bool:
    """Whether there are workers on other hosts, by what Horovod's launcher has set.

    Two names of one host are none: then the workers meet at its loopback address.
    """
    here, all_of_them = environ.get("HOROVOD_LOCAL_SIZE"), environ.get("HOROVOD_SIZE")
    return here != all_of_them and not is_loopback(environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"])


def check_own_name(several_hosts: bool) -> None:
    """Raises `UserError` if Gloo would not find an address by which others reach this worker.

    Args:
        several_hosts: whether workers on other hosts are among them.
    """
    name = socket.gethostname()
    address = address_of(name)
    if address is None:
        raise UserError(
            f"this host's own name, {name}, has no address here, and Horovod needs one; add a "
            f"line to /etc/hosts: {'its address' if several_hosts else '127.0.0.1'} {name}"
        )
    if several_hosts and is_loopback(address):
        raise UserError(
            f"this host's own name, {name}, stands for {address} here, where no other host can "
            "reach its workers; give it the host's address in /etc/hosts"
        )


def address_of(name: str) -> str | None:
    """The address that Gloo takes for a name: the first that is this host's, if any is."""
    with contextlib.suppress(socket.gaierror):
        for family, kind, protocol, _, where in socket.getaddrinfo(
            name, 0, type=socket.SOCK_STREAM
        ):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
                return str(where[0])
    return None


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
