"""Continuing with the workers that are left, where Horovod runs elastic.

Under `horovodrun --min-np 1 --host-discovery-script S`, Horovod's driver gives out new
ranks when workers have ended. What Horovod builds on that for Keras does not work with
Keras 3 (docs/fault_tolerance.md). Here, a worker that has lost another one ends. Its
supervisor, which the driver started, asks for a new place and becomes a worker again,
which resumes from the last checkpoint with the workers that there are now.
"""

import os
import sys
import urllib.request
from pathlib import Path

from core import workers
from core.network.links import answers
from launch import command_line

# What Horovod reads when it starts, in the order in which its driver answers
# (`SlotInfo.to_response_string`).
NUMBERS = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
PLACE = tuple(f"HOROVOD_{number}" for number in NUMBERS)
TIMEOUT_SECONDS = 600.0  # the time that Horovod itself waits for enough hosts


def is_elastic() -> bool:
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def new_place() -> dict[str, str] | None:
    """The variables with this process's new place; None if it has no place any more."""
    server = "http://{HOROVOD_GLOO_RENDEZVOUS_ADDR}:{HOROVOD_GLOO_RENDEZVOUS_PORT}"
    slot = "rank_and_size/{HOROVOD_HOSTNAME}:{HOROVOD_LOCAL_RANK}"
    try:
        driver = os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
        if not answers(driver, int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"])):
            return None  # the network is broken, and a request would wait for minutes
        url = f"{server}/{slot}".format_map(os.environ)
        # Horovod's driver answers when all processes have asked for their places.
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            numbers = [int(number) for number in answer.read().split(b",")]
        place = dict(zip(PLACE, map(str, numbers), strict=True))
    except (KeyError, ValueError, OSError):
        return None
    return place if numbers[0] >= 0 else None


def join_those_that_resume(resume: bool, run_dir: Path | None) -> tuple[bool, Path | None]:
    """`--resume` and `--run_dir` as on the workers that resume, if any does; a collective."""
    # The driver starts a worker on an added host with the job's first command line.
    if is_elastic():
        for its_resume, its_run_dir in workers.gather([resume, run_dir and str(run_dir)]):
            if its_resume:
                return True, Path(its_run_dir)
    return resume, run_dir


def rejoin(run_dir: Path) -> None:
    """Becomes a worker of the same run in a new place; returns if there is none."""
    if (place := new_place()) is None:
        return
    os.environ.update(place)
    if place["HOROVOD_RANK"] == "0":
        message = f"recipe.py: the run continues with {place['HOROVOD_SIZE']} worker(s)"
        print(message, file=sys.stderr, flush=True)
    arguments = command_line.resuming(sys.argv[1:], run_dir)
    os.execv(sys.executable, [sys.executable, sys.argv[0], *arguments])
