"""Two hosts on one machine: network namespaces, joined by a pair of virtual interfaces.

Each has its own addresses, its own name and its own cores; they share the disk, as hosts with a
network file system do. One interface is the cable: `cut` pulls it, and no packet says so.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

INTERFACE = "eth0"  # of both hosts
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def run(*command: str) -> None:
    """Runs a command that has to succeed."""
    subprocess.run(command, check=True, capture_output=True, text=True)


class Host:
    """A network namespace, in which processes are started."""

    def __init__(self, name: str, address: str, cores: set[int]):
        self.name, self.address, self.cores = name, address, cores
        self.namespace = f"phases-{os.getpid()}-{name}"
        self.settings = Path("/etc/netns") / self.namespace

    def start(self, command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command on this host; what it says is added to `log`."""
        inside = f"hostname {self.name} && exec taskset --cpu-list {numbers(self.cores)} " + '"$@"'
        own_name = ["unshare", "--uts", "sh", "-c", inside, "sh"]
        with open(log, "ab") as said:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *own_name, *map(str, command)],
                env={**os.environ, **environment},
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def processes(self, besides: str = "sshd") -> list[psutil.Process]:
        """The processes on this host that have not ended, but for those of a name."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], check=True, capture_output=True, text=True
        )
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.name() != besides and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        for process in self.processes(besides=""):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        until(lambda: not self.processes(besides=""))


class TwoHosts:
    """Hosts `a` and `b`, and the cable between them."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        # The same number of cores for each worker as where both run on one host with two.
        self.cores = {cores[0], cores[-1]}
        self.a = Host("host-a", ADDRESSES[0], {cores[0]})
        self.b = Host("host-b", ADDRESSES[1], {cores[-1]})
        self.both = (self.a, self.b)

    def build(self) -> None:
        for host in self.both:
            run("ip", "netns", "add", host.namespace)
            host.settings.mkdir(parents=True)  # `ip netns exec` puts its files over those of /etc
            names = [f"{other.address} {other.name}" for other in self.both]
            (host.settings / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        a, b = (host.namespace for host in self.both)
        # The pair is made inside: no name can be taken already.
        ends = ["type", "veth", "peer", "name", INTERFACE, "netns", b]
        run("ip", "-n", a, "link", "add", INTERFACE, *ends)
        for host in self.both:
            run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
            run("ip", "-n", host.namespace, "link", "set", "lo", "up")
            run("ip", "-n", host.namespace, "link", "set", INTERFACE, "up")

    def cut(self) -> float:
        """Pulls the cable out of host a; returns the time."""
        run("ip", "-n", self.a.namespace, "link", "set", INTERFACE, "down")
        return time.monotonic()

    def mend(self) -> None:
        run("ip", "-n", self.a.namespace, "link", "set", INTERFACE, "up")

    def all_ended(self) -> float:
        """Waits until no process is left on either host; returns the time."""
        until(lambda: not any(host.processes() for host in self.both), look_every=0.2)
        return time.monotonic()

    def remove(self) -> None:
        for host in self.both:
            with contextlib.suppress(subprocess.CalledProcessError):
                host.kill()
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
            shutil.rmtree(host.settings, ignore_errors=True)


def two_hosts() -> TwoHosts:
    """Builds two hosts, or skips the test and says why."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    for command in ("ip", "unshare", "taskset"):
        if not shutil.which(command):
            pytest.skip(f"two hosts need the command {command}")
    hosts = TwoHosts()
    try:
        hosts.build()
    except subprocess.CalledProcessError as error:
        hosts.remove()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    return hosts


def numbers(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))


def start_sshd(host: Host, folder: Path) -> Path | None:
    """Starts an SSH server with a throw-away key on `host`.

    Returns:
        A folder for the front of PATH. Its `ssh` uses that key and nothing of the user's. None
        where there is no SSH server.
    """
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not (sshd and shutil.which("ssh")):
        return None
    for name in ("host_key", "user_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # else the package's service makes it
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(
        f"ListenAddress {host.address}\n"
        f"HostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'user_key.pub'}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
    )
    client.write_text(
        f"IdentityFile {folder / 'user_key'}\nIdentitiesOnly yes\nUserKnownHostsFile /dev/null\n"
        "BatchMode yes\nLogLevel ERROR\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {client} "$@"\n')
    wrapper.chmod(0o755)
    log = folder / "sshd.log"
    host.start([sshd, "-D", "-e", "-f", str(server)], log)
    until(lambda: "Server listening" in log.read_text())
    return wrapper.parent
