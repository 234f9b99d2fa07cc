"""Runs a function over jobs in several processes that end with the one that began them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def available() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Generator[Result, None, None]:
    """Results as they come; from this process where it is to be one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process died.
    """
    if processes == 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, _start_process)
    try:
        for future in as_completed([pool.submit(function, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    """Lets a process of the pool end with its parent, at Ctrl-C and at a SIGKILL too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
