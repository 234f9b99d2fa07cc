"""A worker's place in its job, from the environment alone. Pure functions.

Whatever starts `python recipe.py` once for each worker says so in variables:

| started by                            | rank                   | number of workers      |
|---------------------------------------|------------------------|------------------------|
| torchrun, Kubeflow's PyTorchJob, you  | `RANK`                 | `WORLD_SIZE`           |
| Slurm's `srun`                        | `SLURM_PROCID`         | `SLURM_STEP_NUM_TASKS` |
| an indexed Job or JobSet (Kubernetes) | `JOB_COMPLETION_INDEX` | `WORLD_SIZE`           |

`MASTER_ADDR` and `MASTER_PORT` say where rank 0 is; `srun` says it, too. They do not say
which workers share a host: `rendezvous.py` lets the workers tell each other, and `places`
then computes what Horovod wants to know.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from core.errors import UserError
from core.settings import Settings
from core.workers import LAUNCHED_RANK, LAUNCHED_SIZE, OWN_CORES

# Says which of the three a worker was started by; only set for those that join in this way.
JOINS_BY = "RECIPE_JOINS_BY"
SECRET = "RECIPE_JOIN_SECRET"
SECONDS = "RECIPE_JOIN_SECONDS"
DEFAULT_SECONDS = 300.0
DEFAULT_PORT = 29500  # torchrun's
LOOPBACK = "127.0.0.1"

# With these, horovodrun or mpirun has placed the worker.
PLACED = frozenset({"HOROVOD_GLOO_RENDEZVOUS_ADDR", "OMPI_COMM_WORLD_SIZE"})
# The variables with rank, number of workers and rank on the host, by what started the worker.
VARIABLES = {
    "environment": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "WORLD_SIZE", "LOCAL_RANK"),
}
# SLURM_INTERACTIVE_STEP of slurm.h: a shell that `salloc` opens on a node, without `srun`.
INTERACTIVE_STEP = "4294967290"


@dataclass(frozen=True)
class Place:
    """A worker's place in its job, as far as its environment knows it."""

    rank: int
    size: int  # the number of workers
    address: str  # name or address of the host of rank 0
    port: int  # on which rank 0 meets the others
    by: str = "environment"  # a key of `VARIABLES`
    local_rank: int | None = None  # among the workers of its host, if the launcher counts them
    job: str = ""  # the job's id; empty if it has none
    secret: str = field(default="", repr=False)  # that the workers of the job share
    seconds: float = DEFAULT_SECONDS  # in which all workers have to come


class Member(Settings):
    """What a worker tells rank 0 about itself."""

    rank: int = Field(ge=0)
    size: int = Field(ge=1)  # the number of workers, as its environment says it
    host: str = Field(max_length=255)
    kernel: str = Field(max_length=64)  # differs between hosts of one name
    local_rank: int | None = Field(ge=0)
    cores: str = Field(pattern="^[0-9a-f]+$", max_length=4096)  # a bit for each that it may use
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def find_place(environ: Mapping[str, str]) -> Place | None:
    """The place of a worker that has to join its job by itself.

    Returns:
        None for the only worker, and for one that horovodrun or mpirun has placed.

    Raises:
        UserError: the variables are incomplete or contradict each other.
    """
    given = {name: text.strip() for name, text in environ.items() if text.strip()}
    by = _started_by(given)
    if by is None:
        return None
    rank_name, size_name, local_name = VARIABLES[by]
    if size_name not in given:
        raise UserError(f"{rank_name} is set and {size_name} is not; set both, or none of them")
    size = _whole(given, size_name, at_least=1)
    if "WORLD_SIZE" in given and _whole(given, "WORLD_SIZE") != size:
        raise UserError(
            f"WORLD_SIZE: received {given['WORLD_SIZE']}, but srun started {size} tasks; "
            "unset it, or start as many"
        )
    rank = _whole(given, rank_name)
    if rank >= size:
        raise UserError(
            f"{rank_name}: received {rank}; with {size_name} {size} it should be 0 to {size - 1}"
        )
    if size == 1:
        return None
    return Place(
        rank=rank,
        size=size,
        address=_address(given, by, size),
        port=_port(given, by),
        by=by,
        local_rank=_whole(given, local_name) if local_name in given else None,
        job=_job(given, by),
        secret=given.get(SECRET, ""),
        seconds=_seconds(given),
    )


def announced(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that give rank and number of workers, as horovodrun does; empty if it has."""
    try:
        place = find_place(environ)
    except UserError:  # the command that joins the workers says it; others need no workers
        return {}
    if place is None:
        return {}
    return {JOINS_BY: place.by, LAUNCHED_RANK: str(place.rank), LAUNCHED_SIZE: str(place.size)}


def _started_by(given: Mapping[str, str]) -> str | None:
    """The key of `VARIABLES` that fits; None where nothing says that there are other workers."""
    if PLACED.intersection(given) or (LAUNCHED_RANK in given and JOINS_BY not in given):
        return None
    if "RANK" in given:
        return "environment"
    # A batch script, and a shell in an allocation, have SLURM_PROCID=0 and the SLURM_NTASKS of
    # the whole job. Only `srun` sets the variables of a step.
    is_task = "SLURM_PROCID" in given and given.get("SLURM_STEP_ID") != INTERACTIVE_STEP
    if is_task and _whole(given, "SLURM_STEP_NUM_TASKS", default=1) > 1:
        return "Slurm"
    # An indexed Job may also be a set of runs that know nothing of each other.
    if "JOB_COMPLETION_INDEX" in given and {"WORLD_SIZE", "MASTER_ADDR"}.intersection(given):
        return "Kubernetes"
    if _whole(given, "WORLD_SIZE", default=1) > 1:
        raise UserError(
            f"WORLD_SIZE is {given['WORLD_SIZE']} and RANK is not set; set RANK for each worker, "
            "or unset WORLD_SIZE for a run of one worker"
        )
    return None


def _whole(given: Mapping[str, str], name: str, default: int = 0, at_least: int = 0) -> int:
    text = given.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < at_least:
        raise UserError(f"{name}: received {text!r}; give a whole number of at least {at_least}")
    return int(text)


def _address(given: Mapping[str, str], by: str, size: int) -> str:
    """The host of rank 0; the loopback address if all workers are on one host."""
    if "MASTER_ADDR" in given:
        return given["MASTER_ADDR"]
    if by == "Slurm":
        if given.get("SLURM_STEP_NUM_NODES") == "1":
            return LOOPBACK
        if nodes := given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST"):
            return first_host(nodes)
    if _whole(given, "LOCAL_WORLD_SIZE") == size:
        return LOOPBACK
    raise UserError(
        f"there are {size} workers and MASTER_ADDR is not set; it is the name or address of the "
        f"host on which the worker of rank 0 runs ({LOOPBACK} if all run on one host)"
    )


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[03-07,11],big` begins with gpu03."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^-,\]]*)[^\]]*\]", r"\1", first[0] if first else "")


def _port(given: Mapping[str, str], by: str) -> int:
    """`MASTER_PORT`; for a step of Slurm, one of its own, below those that Linux gives away."""
    port = _whole(given, "MASTER_PORT", default=DEFAULT_PORT, at_least=1)
    if port > 65535:
        raise UserError(f"MASTER_PORT: received {port}; give a port, 1 to 65535")
    if by == "Slurm" and "MASTER_PORT" not in given:
        job, step = (_whole(given, f"SLURM_{name}_ID") for name in ("JOB", "STEP"))
        return 20000 + (10 * job + step) % 10000
    return port


def _job(given: Mapping[str, str], by: str) -> str:
    if by == "Slurm":
        return f"{given.get('SLURM_JOB_ID', '')}.{given.get('SLURM_STEP_ID', '')}"
    return given.get("TORCHELASTIC_RUN_ID", "")


def _seconds(given: Mapping[str, str]) -> float:
    try:
        seconds = float(given.get(SECONDS, DEFAULT_SECONDS))
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{SECONDS}: received {given[SECONDS]!r}; give seconds, above 0")
    return seconds


def refusal(member: Member, present: Mapping[int, Member]) -> str | None:
    """What is wrong with a worker that comes to the meeting; None if nothing is.

    Args:
        present: those that are there, by rank; rank 0 is.
    """
    size = present[0].size
    if member.size != size:
        return (
            f"worker {member.rank} ({member}) was told of {member.size} workers, and worker 0 of "
            f"{size}; give all the same number"
        )
    if member.rank in present:
        return (
            f"two workers have rank {member.rank}: {present[member.rank]} and {member}; give each "
            "worker a rank of its own"
        )
    if member.rank >= size:
        return f"{member} has rank {member.rank}; with {size} workers it should be below {size}"
    return None


def places(members: Sequence[Member]) -> list[dict[str, str]]:
    """Horovod's variables for each worker, by rank.

    A worker's local rank is its launcher's, if those of its host have the numbers from 0 on;
    otherwise they are counted by rank. `CROSS_RANK` counts, among the hosts that have a worker
    of this local rank, those before the worker's own.
    """
    hosts: dict[tuple[str, str], list[Member]] = {}
    for member in sorted(members, key=lambda member: member.rank):
        hosts.setdefault((member.host, member.kernel), []).append(member)
    teams = [_by_local_rank(team) for team in hosts.values()]
    names = [name for name, _ in hosts]
    found: dict[int, dict[str, str]] = {}
    for index, team in enumerate(teams):
        for local_rank, member in enumerate(team):
            across = [i for i, other in enumerate(teams) if len(other) > local_rank]
            numbers = {
                LAUNCHED_RANK: member.rank,
                LAUNCHED_SIZE: len(members),
                "HOROVOD_LOCAL_RANK": local_rank,
                "HOROVOD_LOCAL_SIZE": len(team),
                "HOROVOD_CROSS_RANK": across.index(index),
                "HOROVOD_CROSS_SIZE": len(across),
                OWN_CORES: own_cores(member, team),
            }
            host = names[index]
            if names.count(host) > 1:  # they would meet as workers of one host
                host += f".{index}"
            variables = {name: str(number) for name, number in numbers.items()}
            found[member.rank] = variables | {"HOROVOD_HOSTNAME": host}
    return [found[rank] for rank in range(len(members))]


def _by_local_rank(team: list[Member]) -> list[Member]:
    given = {member.local_rank: member for member in team}
    if set(given) == set(range(len(team))):
        return [given[local_rank] for local_rank in range(len(team))]
    return team


def own_cores(member: Member, team: Sequence[Member]) -> int:
    """A worker's share of the cores that it may use.

    Slurm, for one, may give each task cores of its own, which nobody shares.
    """
    own = int(member.cores, 16)
    sharing = sum(1 for other in team if int(other.cores, 16) & own)
    return max(1, own.bit_count() // max(1, sharing))


def listening_address(name: str, resolved: Sequence[str], own: Sequence[str]) -> str:
    """The address on which rank 0 listens; empty for all addresses of its host.

    Args:
        name: `MASTER_ADDR`, or what stands for it.
        resolved: the IPv4 addresses of that name, as this host knows them.
        own: the IPv4 addresses of this host.

    Raises:
        UserError: the name is not this host's.
    """
    outside = [address for address in resolved if not address.startswith("127.")]
    if not outside and (name == "localhost" or name.startswith("127.")):
        return resolved[0]
    # Debian gives a host's own name the address 127.0.1.1, which no other host can reach.
    if not outside:
        return ""
    if here := [address for address in outside if address in own]:
        return here[0]
    raise UserError(
        f"MASTER_ADDR: {name} ({', '.join(outside)}) is not this host, which has "
        f"{', '.join(own)}; it should name the host on which the worker of rank 0 runs"
    )
