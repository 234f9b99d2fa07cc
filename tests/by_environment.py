"""Starts `recipe.py` once for each worker, as a launcher that tells it its rank and no more."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.waiting import HANG_SECONDS

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port of the loopback interface, below those that Linux gives away."""
    for number in range(21000 + os.getpid() % 8000, 32000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    raise AssertionError("no port is free")


def start(arguments, folder: Path, size: int = 2) -> list[subprocess.Popen]:
    """Starts the workers, the last one first; each writes what it says to `said-<rank>`."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"RECIPE_JOIN_SECONDS": str(HANG_SECONDS)}
    jobs = []
    for rank in reversed(range(size)):
        with open(folder / f"said-{rank}", "w") as said:
            job = subprocess.Popen(
                [sys.executable, ROOT / "recipe.py", *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, **shared, "RANK": str(rank)},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        jobs.insert(0, job)
    return jobs


def wait(jobs: list[subprocess.Popen]) -> list[int]:
    """The workers' statuses, by rank; none is left behind."""
    try:
        return [job.wait(HANG_SECONDS) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
