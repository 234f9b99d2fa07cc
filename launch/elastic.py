"""Going on with the workers that are left, where Horovod runs elastic.

Under `horovodrun --min-np 1 --host-discovery-script S` Horovod's driver hands out new
ranks when workers have ended. What Horovod has for Keras on top of it does not work
with Keras 3 (docs/fault_tolerance.md). Here, a worker that has lost another ends; the
process beside it, which the driver started, asks for its new place and becomes a worker
again, that resumes from the last checkpoint with as many workers as there are now.
"""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from core import workers
from launch import command_line

# What Horovod reads when it starts, in the order in which its driver answers
# (`SlotInfo.to_response_string`).
PLACE = (
    "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE",
    "HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE",
)  # fmt: skip
TIMEOUT_SECONDS = 600.0  # Horovod's own, for enough hosts to be there


def is_elastic() -> bool:
    """Whether horovodrun has launched this process as one that others may leave."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def new_place() -> dict[str, str] | None:
    """Asks Horovod's driver where this process stands now; waits until all have asked.

    Returns:
        The variables that say so; None where the job ends or goes on without us.
    """
    server = "http://{HOROVOD_GLOO_RENDEZVOUS_ADDR}:{HOROVOD_GLOO_RENDEZVOUS_PORT}"
    slot = "rank_and_size/{HOROVOD_HOSTNAME}:{HOROVOD_LOCAL_RANK}"
    try:
        url = f"{server}/{slot}".format_map(os.environ)
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            numbers = [int(number) for number in answer.read().split(b",")]
    except (KeyError, ValueError, OSError, urllib.error.URLError):
        return None
    if len(numbers) != len(PLACE) or numbers[0] < 0:
        return None
    return dict(zip(PLACE, map(str, numbers), strict=True))


def join_those_that_resume(resume: bool, run_dir: Path | None) -> tuple[bool, Path | None]:
    """What a worker on a host that was added has to do: the others do it; a collective.

    Its driver has started it with the command line of the beginning.
    """
    if is_elastic():
        for its_resume, its_run_dir in workers.gather([resume, run_dir and str(run_dir)]):
            if its_resume:
                return True, Path(its_run_dir)
    return resume, run_dir


def go_on(run_dir: Path) -> None:
    """Becomes a worker of the same run in a new place; returns where there is none."""
    place = new_place()
    if place is None:
        return
    os.environ.update(place)
    if place["HOROVOD_RANK"] == "0":
        print(
            f"recipe.py: the run goes on with {place['HOROVOD_SIZE']} worker(s)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    arguments = command_line.arguments_to_resume(run_dir)
    os.execv(sys.executable, [sys.executable, sys.argv[0], *arguments])
