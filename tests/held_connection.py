"""Run by test_two_hosts.py under horovodrun: two workers that hold a connection, and are silent.

They are supervised as workers that train are. Only Horovod's part is played: it says that a
worker is cut off when its connection fails.
"""

import os
import socket
import sys
import time

from core.errors import OtherWorkerEnded
from core.network.links import links
from launch import supervisor
from tests.hosts import ADDRESSES

PORT = 5555


def hold(**_: object) -> None:
    rank = int(os.environ["HOROVOD_RANK"])
    tcp = accept() if rank == 0 else connect()
    links.watch()
    links.place(rank, 0, [[address] for address in ADDRESSES])
    print("holds", flush=True)
    try:
        tcp.recv(1)
    except OSError as error:
        raise OtherWorkerEnded(str(error)) from None


def accept() -> socket.socket:
    with socket.create_server((ADDRESSES[0], PORT)) as server:
        return server.accept()[0]


def connect() -> socket.socket:
    while True:
        try:
            return socket.create_connection((ADDRESSES[0], PORT))
        except ConnectionRefusedError:
            time.sleep(0.05)


if __name__ == "__main__":
    supervisor.board.note(command="the command")
    sys.exit(supervisor.supervise(lambda: supervisor.exit_status(hold)))
