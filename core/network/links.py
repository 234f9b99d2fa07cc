"""The connections to workers on other hosts: how a worker notices that a host is gone.

When a cable is pulled or a host loses its power, nobody says so. TCP then waits a quarter of
an hour for what it has sent, and for ever where it has nothing to send. Gloo gives up after
`HOROVOD_GLOO_TIMEOUT_SECONDS`, which also limits how long workers wait for each other at the
start, so large jobs raise it. Here the kernel asks the other host's kernel for a sign. A
worker that is busy or stopped has nothing to do with it.
"""

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil

# A connection fails when the other host has answered nothing for so long. It is longer than
# a worker may be stopped (`STOPPED_SECONDS` of the supervisor): one that reads nothing while
# the others send looks the same.
LOST_SECONDS = 30
ASK_AFTER_SECONDS = 10  # without any data
ASK_EVERY_SECONDS = 5
ANSWER_SECONDS = 5.0  # a host that is there answers a new connection within this time


class Links:
    """This worker's connections to other hosts.

    Attributes:
        peers: the other hosts' addresses, and a port of each.
        rank: of this worker, and `local_rank` among those of its host.
        ranks: the ranks of the workers at each address.
    """

    def __init__(self) -> None:
        self.peers: dict[str, int] = {}
        self.rank = self.local_rank = 0
        self.ranks: dict[str, list[int]] = {}

    def watch(self) -> list[str]:
        """Makes each connection of this process to another host fail when that host is gone.

        Call it when Horovod has connected the workers.

        Returns:
            This worker's own addresses; what `place` needs of each worker.
        """
        own = set()
        for connection in psutil.Process().net_connections("tcp"):
            if connection.status != psutil.CONN_ESTABLISHED:
                continue
            here, there = connection.laddr, connection.raddr
            if here.ip == there.ip:  # another worker of this host
                continue
            # The options are the connection's; they stay when this descriptor is closed.
            with socket.socket(fileno=os.dup(connection.fd)) as tcp:
                limit_silence(tcp)
            own.add(here.ip)
            self.peers[there.ip] = there.port
        return sorted(own)

    def place(self, rank: int, local_rank: int, addresses: Sequence[Sequence[str]]) -> None:
        """Notes who this worker is, and every worker's addresses, by rank."""
        self.rank, self.local_rank, self.ranks = rank, local_rank, {}
        for other, its_addresses in enumerate(addresses):
            for address in its_addresses:
                self.ranks.setdefault(address, []).append(other)

    def silent_hosts(self) -> list[str]:
        """The addresses of the other hosts that do not answer now."""
        if not self.peers:
            return []
        with ThreadPoolExecutor(len(self.peers)) as threads:  # all wait at the same time
            answered = threads.map(lambda peer: answers(*peer), self.peers.items())
            return [host for host, answer in zip(self.peers, answered, strict=True) if not answer]

    def report(self, silent: Sequence[str]) -> str:
        """What this worker says of silent hosts; empty if another worker says it.

        Rank 0 speaks for all that can reach it. On a host that cannot, its first worker speaks.
        """
        lost = {host: self.ranks.get(host, []) for host in silent}
        cut_off = any(0 in ranks for ranks in lost.values())
        if not (self.rank == 0 or (cut_off and self.local_rank == 0)):
            return ""
        hosts = [f"{host} (rank {', '.join(map(str, ranks))})" for host, ranks in lost.items()]
        return (
            f"has lost the connection to {', '.join(hosts)}, which does not answer any more; "
            "check that host and the network to it"
        )


def answers(host: str, port: int) -> bool:
    """Whether a host answers at a port; that nobody listens there is an answer, too."""
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    except OSError:
        return False
    return True


def limit_silence(tcp: socket.socket) -> None:
    """Makes a connection fail when the other host is silent for `LOST_SECONDS` (tcp(7))."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASK_AFTER_SECONDS)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ASK_EVERY_SECONDS)
    # For data that nobody acknowledges, and in place of the number of unanswered questions.
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SECONDS * 1000)


links = Links()
