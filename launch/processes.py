"""The processes of a job, looked at while some of them end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def below(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it; none where it has ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def runs(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and whose parent has not asked yet does not."""
    import psutil

    # It may end between any two questions.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def that_work(processes: Iterable[psutil.Process], argument: str) -> list[int]:
    """Ids of those with an argument in their command line, but for what started them.

    horovodrun and a worker's supervisor have the worker's command line, too; the worker
    descends from both.

    Args:
        processes: all of a job, as `below` gives them.
        argument: a word of the workers' command line and of nobody else's.
    """
    import psutil

    parents, found = {}, set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
            if argument in process.cmdline()[1:]:
                found.add(process.pid)
    above: set[int] = set()
    for pid in found:
        while (pid := parents.get(pid, 0)) and pid not in above:
            above.add(pid)
    return sorted(found - above)
