"""The processes of a job, any of which may end while it is looked at."""

import contextlib
from collections.abc import Iterable

import psutil


def below(pid: int) -> list[psutil.Process]:
    """The process and all its descendants; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def runs(process: psutil.Process) -> bool:
    """Whether it runs. A process that has ended, but is not waited for yet, does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def that_work(processes: Iterable[psutil.Process], argument: str) -> list[int]:
    """Ids of the workers among a job's processes.

    horovodrun and a worker's supervisor have the worker's command line, too. The worker
    descends from both, so it is the one with no such process below it.

    Args:
        processes: all of a job, as `below` gives them.
        argument: a word of the workers' command line that no other command line has.
    """
    found: set[int] = set()
    above: set[int] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if argument in process.cmdline()[1:]:
                above.update(parent.pid for parent in process.parents())
                found.add(process.pid)
    return sorted(found - above)
