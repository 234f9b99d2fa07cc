"""Horovod's launcher, guarded: `python -m launch.horovodrun -np 2 --gloo python ...`.

Whatever its options, Horovod 0.28 itself listens on all interfaces, and its elastic
driver unpickles what is sent to it there (CVE-2024-10190). This one listens on the
loopback interface unless hosts are given. It refuses such messages; nothing here sends them.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

# Options of horovodrun with which workers may be on other hosts.
HOSTS_ELSEWHERE = frozenset({"-H", "--hosts", "-hostfile", "--hostfile", "--host-discovery-script"})
# ssh ends within a minute when the other host is gone. The workers notice it sooner, and say it.
SSH_NOTICES = " -o ServerAliveInterval=15 -o ServerAliveCountMax=3"


def main() -> None:
    """Runs horovodrun's command line behind the guards."""
    from horovod.runner import launch
    from horovod.runner.common.util import network
    from horovod.runner.elastic import rendezvous
    from horovod.runner.http import http_server
    from horovod.runner.util import remote

    find_port = http_server.find_port

    def find_port_here(make_server: Callable[[tuple[str, int]], Any]) -> Any:
        return find_port(lambda address: make_server(("127.0.0.1", address[1])))

    def refuse(encoded: bytes) -> None:
        raise PermissionError("Horovod's rendezvous was sent a pickle and refused it")

    if not HOSTS_ELSEWHERE.intersection(word.partition("=")[0] for word in sys.argv):
        http_server.find_port = network.find_port = find_port_here
    remote.SSH_COMMAND_PREFIX += SSH_NOTICES
    rendezvous.codec = SimpleNamespace(loads_base64=refuse)
    launch.gloo_built = lambda verbose: True  # Horovod imports TensorFlow to find out
    try:
        launch.run_commandline()
    except RuntimeError as error:
        # The worker has said why it ended, and Horovod with which status.
        if "one or more processes exited with non-zero status" in str(error):
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
