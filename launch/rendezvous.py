"""The meeting of workers that no launcher has introduced to each other.

Rank 0 listens on one address. The others come, and each tells who it is and on which host.
When all are there, rank 0 starts Horovod's rendezvous and tells each worker its place; from
then on everything is as under horovodrun.

What is said is JSON, a line each. A line carries an HMAC over it and a number that the
receiver has drawn: keyed with the job's secret if there is one, otherwise with its id, which
keeps two jobs apart but no enemy out (`docs/security.md`).
"""

import contextlib
import hashlib
import hmac
import importlib
import json
import os
import secrets
import selectors
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core.errors import RunError, SharedUserError, UserError
from core.workers import OWN_CORES
from launch.elastic import PLACE
from launch.environment import (
    SECONDS,
    SECRET,
    Member,
    Place,
    find_place,
    listening_address,
    places,
    refusal,
)

LONGEST_LINE = 65536
RETRY_SECONDS = 0.5
# A peer has this long to say who it is; after that, its connection is closed.
GREETING_SECONDS = 10.0
# Rank 0 says for whom it waits after so many seconds. Usually all have come by then.
NOTICE_SECONDS = 20.0
REFUSED = b"refused\n"
RENDEZVOUS = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")
# The variables that rank 0 tells a worker.
TOLD = (*PLACE, *RENDEZVOUS, "HOROVOD_HOSTNAME", OWN_CORES)


def meet() -> None:
    """Joins the workers that were started like this one, if nobody has done so.

    Call it before `core.workers.join`. Only the environment changes: it then holds what
    horovodrun would have set.

    Raises:
        UserError: the environment is incomplete, or the workers contradict each other.
        RunError: workers have not come in time.
        ConnectionError: this worker has not reached rank 0.
    """
    place = find_place(os.environ)
    if place is None:
        return
    # Workers that have met wait 30 s for each other in Horovod, and this import may take
    # longer on one host than on another. If it fails, `core.workers.join` says why.
    with contextlib.suppress(ImportError):
        importlib.import_module("horovod.tensorflow")
    os.environ.update(join(place, describe(place)))


def describe(place: Place) -> Member:
    """What this process tells about itself."""
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return Member(
        rank=place.rank,
        size=place.size,
        host=os.environ.get("HOROVOD_HOSTNAME") or socket.gethostname(),
        kernel=kernel.read_text().strip() if kernel.exists() else "",
        local_rank=place.local_rank,
        cores=f"{sum(1 << core for core in os.sched_getaffinity(0)):x}",
        pid=os.getpid(),
    )


def join(place: Place, own: Member) -> dict[str, str]:
    """Meets the other workers; returns the variables with which Horovod finds them.

    On rank 0, Horovod's rendezvous runs in a thread from then on.
    """
    chosen = os.environ.get("HOROVOD_GLOO_IFACE")
    if chosen and chosen not in (there := own_addresses().values()):
        raise UserError(
            f"HOROVOD_GLOO_IFACE: received {chosen!r}; interfaces with an IPv4 address are here "
            f"{', '.join(sorted({*there}))}"
        )
    variables = (_receive if place.rank == 0 else _visit)(place, own)
    if interface := chosen or interface_to(variables[RENDEZVOUS[0]]):
        variables["HOROVOD_GLOO_IFACE"] = interface
        # "=" stands for this very name; without it, NCCL takes the names that begin so.
        variables["NCCL_SOCKET_IFNAME"] = os.environ.get("NCCL_SOCKET_IFNAME", f"={interface}")
    return variables | {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}


def own_addresses() -> dict[str, str]:
    """The IPv4 addresses of this host, with the names of their interfaces."""
    return {
        found.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for found in addresses
        if found.family == socket.AF_INET
    }


def interface_to(address: str) -> str | None:
    """The network interface by which this host reaches an address; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return own_addresses().get(probe.getsockname()[0])


# What is said


def key_of(place: Place) -> bytes:
    return hashlib.sha256(f"{place.secret}\n{place.job}".encode()).digest()


def _digest(key: bytes, nonce: str, text: bytes) -> bytes:
    return hmac.new(key, nonce.encode() + text, hashlib.sha256).hexdigest().encode()


def seal(key: bytes, nonce: str, body: Any) -> bytes:
    """A line that only those with the key can write, for the receiver that drew `nonce`."""
    text = json.dumps(body).encode()
    return _digest(key, nonce, text) + b" " + text + b"\n"


def unseal(key: bytes, nonce: str, line: bytes) -> Any:
    """The body of such a line.

    Raises:
        ValueError: it was sealed with another key, for somebody else, or not at all.
    """
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not hmac.compare_digest(digest, _digest(key, nonce, text)):
        raise ValueError("sealed with another key")
    return json.loads(text)


# Rank 0


@dataclass
class Guest:
    """A connection to rank 0."""

    connection: socket.socket
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))
    since: float = field(default_factory=time.monotonic)
    received: bytes = b""
    member: Member | None = None  # once it has said who it is
    answer_nonce: str = ""

    def say(self, key: bytes, body: Any) -> None:
        """Says something if it is still there; otherwise it was asked for in vain."""
        self.connection.settimeout(GREETING_SECONDS)
        with contextlib.suppress(OSError):
            self.connection.sendall(seal(key, self.answer_nonce, body))


class Meeting:
    """Rank 0's part: it waits for the others, and has each of them answered."""

    def __init__(self, place: Place, own: Member, listener: socket.socket) -> None:
        self.place = place
        self.key = key_of(place)
        self.listener = listener
        self.present = {own.rank: own}
        self.guests: list[Guest] = []
        self.strangers = 0  # connections of those who do not have the key

    def wait(self, until: float) -> None:
        """Returns when all have come.

        Raises:
            SharedUserError: two workers contradict each other.
            RunError: not all have come in time.
        """
        notice = time.monotonic() + NOTICE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            while len(self.present) < self.place.size:
                now = time.monotonic()
                if now >= until:
                    raise RunError(self.missing())
                if now >= notice:
                    print(f"recipe.py: waiting: {self.missing(until - now)}", file=sys.stderr)
                    notice = until
                for ready, _ in selector.select(min(1.0, until - now)):
                    if ready.fileobj is self.listener:
                        self._let_in(selector)
                    elif not self._listen_to(ready.data):
                        self._part(selector, ready.data)
                for guest in [*self.guests]:
                    if not guest.member and time.monotonic() > guest.since + GREETING_SECONDS:
                        self._part(selector, guest)

    def missing(self, left: float | None = None) -> str:
        """Who has not come, in words."""
        size, seconds = self.place.size, self.place.seconds
        ranks = [str(rank) for rank in range(size) if rank not in self.present]
        shown = ", ".join(ranks[:8]) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
        address, port = self.listener.getsockname()
        where = f"{self.place.address if address == '0.0.0.0' else address}:{port}"
        text = f"{size - len(ranks)} of {size} workers came to {where}"
        text += f" within {seconds:g} s" if left is None else f", {left:.0f} s are left"
        text += f"; missing: rank {shown}"
        if self.strangers:
            text += f"; refused: {self.strangers} of another job, or with another {SECRET}"
        return text if left is not None else f"{text} ({SECONDS} sets the time)"

    def _let_in(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            connection, _ = self.listener.accept()
            guest = Guest(connection)
            self.guests.append(guest)
            selector.register(connection, selectors.EVENT_READ, guest)
            connection.settimeout(GREETING_SECONDS)
            connection.sendall(json.dumps({"nonce": guest.nonce}).encode() + b"\n")

    def _listen_to(self, guest: Guest) -> bool:
        """Reads what a guest says; returns whether it may stay."""
        try:
            data = guest.connection.recv(LONGEST_LINE)
        except OSError:
            return False
        guest.received += data
        if not data or guest.member or len(guest.received) > LONGEST_LINE:
            return False
        if not guest.received.endswith(b"\n"):
            return True
        try:
            said = unseal(self.key, guest.nonce, guest.received)
            guest.answer_nonce = str(said["nonce"])
            member = Member.model_validate(said["member"])
        except (ValueError, KeyError, TypeError):  # pydantic's are ValueErrors
            self.strangers += 1
            with contextlib.suppress(OSError):
                guest.connection.sendall(REFUSED)
            return False
        guest.member = member
        if problem := refusal(member, self.present):
            raise SharedUserError(problem)
        self.present[member.rank] = member
        guest.say(self.key, "welcome")
        return True

    def _part(self, selector: selectors.BaseSelector, guest: Guest) -> None:
        """A worker that ends while it waits may be started again, and come again."""
        if guest.member:
            del self.present[guest.member.rank]
        selector.unregister(guest.connection)
        guest.connection.close()
        self.guests.remove(guest)

    def tell_all(self, body_for: Callable[[int], Any]) -> None:
        """Tells each worker what is for its rank."""
        for guest in self.guests:
            if guest.member:
                guest.say(self.key, body_for(guest.member.rank))

    def addresses(self) -> tuple[str, set[str]]:
        """The address at which the others came, and those from which they did."""
        reached = [guest.connection.getsockname()[0] for guest in self.guests if guest.member]
        came = {guest.connection.getpeername()[0] for guest in self.guests if guest.member}
        outside = [address for address in reached if not address.startswith("127.")]
        return (outside or reached)[0], came


def _receive(place: Place, own: Member) -> dict[str, str]:
    """Rank 0's part of the meeting; returns its variables."""
    until = time.monotonic() + place.seconds
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listener(place, until))
        meeting = Meeting(place, own, listener)
        try:
            meeting.wait(until)
            found = places([*meeting.present.values()])
            address, members = meeting.addresses()
            port = serve(address, members, found)
        except (UserError, RunError) as error:
            problem = {"problem": str(error), "user": isinstance(error, UserError)}
            meeting.tell_all(lambda rank: problem)
            raise
        finally:
            for guest in meeting.guests:
                stack.callback(guest.connection.close)
        rendezvous = dict(zip(RENDEZVOUS, (address, str(port)), strict=True))
        meeting.tell_all(lambda rank: {"place": found[rank] | rendezvous})
    return found[0] | rendezvous


def _listener(place: Place, until: float) -> socket.socket:
    address = listening_address(place.address, _resolve(place, until), [*own_addresses()])
    try:
        return socket.create_server((address, place.port), backlog=place.size + 16)
    except OSError as error:
        raise ConnectionError(
            f"rank 0 cannot listen on {address or 'all addresses'}, port {place.port}: "
            f"{os.strerror(error.errno or 0)}; another job, or a second worker of rank 0, may "
            "listen there (MASTER_PORT sets the port)"
        ) from None


def _resolve(place: Place, until: float) -> list[str]:
    """The IPv4 addresses of rank 0's host. A name may be new to the cluster's DNS."""
    while True:
        try:
            found = socket.getaddrinfo(place.address, None, socket.AF_INET, socket.SOCK_STREAM)
            return [str(address[0]) for *_, address in found]
        except OSError as error:
            if time.monotonic() > until:
                raise RunError(
                    f"MASTER_ADDR: {place.address} has no IPv4 address here: {error.strerror}"
                ) from None
            time.sleep(RETRY_SECONDS)


def serve(address: str, members: Collection[str], found: Sequence[dict[str, str]]) -> int:
    """Starts Horovod's rendezvous in a thread, for members' addresses alone; its port.

    Horovod's protocol knows no secret. So the server listens on one address, and closes
    connections from addresses at which no worker is.

    Args:
        found: the workers' variables, by rank.
    """
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    class Guarded(RendezvousHTTPServer):
        daemon_threads = True
        request_queue_size = len(found) + 16

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return client_address[0] in allowed

        def server_bind(self) -> None:
            # Not as HTTPServer, which asks the DNS for a name that nobody needs.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]

    allowed = {address, *members}
    numbers = ("RANK", "LOCAL_RANK", "CROSS_RANK", "SIZE", "LOCAL_SIZE", "CROSS_SIZE")
    plan = [
        SlotInfo(place["HOROVOD_HOSTNAME"], *(int(place[f"HOROVOD_{n}"]) for n in numbers))
        for place in found
    ]
    server = Guarded((address, 0), RendezvousHandler, verbose=0)
    server.init(plan)
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    return server.server_port


# The other ranks


def _visit(place: Place, own: Member) -> dict[str, str]:
    """The part of a worker that is not rank 0; returns its variables."""
    until = time.monotonic() + place.seconds
    where = place.address, place.port
    while True:
        try:
            connection = socket.create_connection(where, max(1.0, min(5.0, place.seconds)))
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            with connection:
                if found := _introduce(place, own, connection):
                    return found
            problem = "what listens there does not answer as worker 0"
        if time.monotonic() > until:
            raise ConnectionError(
                f"cannot reach worker 0 at {place.address}:{place.port} within "
                f"{place.seconds:g} s: {problem} ({SECONDS} sets the time)"
            )
        time.sleep(RETRY_SECONDS)


def _introduce(place: Place, own: Member, connection: socket.socket) -> dict[str, str] | None:
    """Says who this worker is, and waits for its variables; None if nobody listens to it.

    Raises:
        UserError: rank 0 is of another job, or the workers contradict each other.
        RunError: not all workers have come in time.
        ConnectionError: rank 0 has ended.
    """
    key, nonce = key_of(place), secrets.token_hex(16)
    connection.settimeout(GREETING_SECONDS)
    with connection.makefile("rb") as lines:
        try:
            greeting = json.loads(lines.readline(LONGEST_LINE))
            body = {"member": own.model_dump(), "nonce": nonce}
            connection.sendall(seal(key, str(greeting["nonce"]), body))
            line = lines.readline(LONGEST_LINE)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not line:
            return None
        try:
            if (said := unseal(key, nonce, line)) == "welcome":
                # Rank 0 answers in the time that it has.
                connection.settimeout(place.seconds + GREETING_SECONDS)
                if not (line := lines.readline(LONGEST_LINE)):
                    raise ConnectionResetError
                said = unseal(key, nonce, line)
        except OSError:
            raise ConnectionError("worker 0 ended before all workers had come") from None
        except ValueError:
            raise UserError(
                f"worker 0 at {place.address}:{place.port} is of another job, or has another "
                f"{SECRET}; give all workers of a job the same, and each job its MASTER_PORT"
            ) from None
    if "problem" in said:
        raise (SharedUserError if said["user"] else RunError)(said["problem"])
    # Nothing else of this process's environment is rank 0's business.
    return {name: str(said["place"][name]) for name in TOLD}
