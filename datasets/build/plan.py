"""Estimates a build from a look at the set and from a sample of its images."""

import functools
import itertools
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import DataError
from datasets.build.options import BuildOptions
from datasets.build.processes import run_jobs
from datasets.build.shards import ShardJob, ShardWriter
from datasets.build.sources.layouts import read_source
from datasets.build.sources.source import Source

_SECONDS = 5.0
_IMAGES_A_TRIAL = 250
_MAX_IMAGES = 10_000  # of a process, where the time decides


def plan_build(options: BuildOptions, sample: int | None = None) -> str:
    """A table of the time, memory and disk that a build needs.

    It writes a sample of the set to a temporary folder: the first training images in the order
    of the build, which is random. By default these are as many as five seconds allow. The first
    250 images of each process do not count, if it has more. They warm it up.
    """
    if sample is not None and sample < 1:
        raise DataError(f"--sample: received {sample}; give a number of images from 1")
    begin = time.perf_counter()
    source = read_source(options)
    look_seconds = time.perf_counter() - begin
    writer, processes = ShardWriter.of(source, options), options.processes
    limit = _MAX_IMAGES if sample is None else math.ceil(sample / processes)
    jobs = _sample(source, processes, limit)
    with tempfile.TemporaryDirectory() as folder:
        trial = functools.partial(
            _try,
            writer=replace(writer, options=replace(writer.options, output=folder)),
            seconds=_SECONDS if sample is None else math.inf,
        )
        trials = list(run_jobs(trial, jobs, len(jobs)))
    images = sum(trial.images for trial in trials)
    rejected = sum(trial.rejected for trial in trials)
    rate = sum(trial.rate for trial in trials)
    total = sum(len(part) for part in source.images.values())
    splits = ", ".join(f"{prefix} {len(part):,}" for prefix, part in source.images.items())
    disk = {
        size: total * sum(trial.bytes[size] for trial in trials) / max(images - rejected, 1)
        for size in writer.options.sizes
    }
    looked, wrote = _peak_memory(), max(trial.peak_memory for trial in trials)
    rows = {
        "set": f"{total:,} images ({splits}) in {len(source.classes):,} classes, {source.layout}",
        "looked": f"{look_seconds:.1f} s",
        "sample": f"{images:,} images, {rejected:,} unreadable",
        "rate": f"{rate:,.0f} images/s with {len(jobs)} process(es)",
        "time": f"{(look_seconds + total / rate) / 60:,.1f} min",
        "memory": f"{(looked + len(jobs) * wrote) / 1e6:,.0f} MB ({looked / 1e6:,.0f} + "
        f"{len(jobs)} x {wrote / 1e6:,.0f})",
        "disk": ", ".join(f"{size}: {needed / 1e6:,.1f} MB" for size, needed in disk.items()),
    }
    return "\n".join(f"{name:<8}{value}" for name, value in rows.items())


@dataclass(frozen=True)
class _Trial:
    images: int
    rejected: int
    rate: float
    bytes: dict[int, int]
    peak_memory: int


def _sample(source: Source, processes: int, limit: int) -> list[list[ShardJob]]:
    """Jobs for each process, of different images. `limit` is the maximum for a process."""
    total = len(source.images["train"])
    share = min(total // processes, limit)
    processes, share = (processes, share) if share else (1, total)
    jobs = []
    for process in range(processes):
        end = (process + 1) * share
        bounds = [*range(process * share, end, _IMAGES_A_TRIAL), end]
        parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        jobs.append([ShardJob.of(f"{p.start}", source, "train", p) for p in parts])
    return jobs


def _try(jobs: Sequence[ShardJob], writer: ShardWriter, seconds: float) -> _Trial:
    """Runs jobs one after the other until the time is over."""
    begin = start = time.perf_counter()
    images = counted = rejected = 0
    size_bytes = dict.fromkeys(writer.options.sizes, 0)
    for job in jobs:
        result = writer.write(job)
        images += len(job.images)
        rejected += len(result["rejected"])
        for size in size_bytes:
            size_bytes[size] += result["sizes"][str(size)]["bytes"]
            Path(writer.options.output, str(size), job.name).unlink()
        if job is jobs[0] and len(jobs) > 1:
            start = time.perf_counter()
        else:
            counted += len(job.images)
        if time.perf_counter() - begin > seconds and counted:
            break
    rate = counted / (time.perf_counter() - start)
    return _Trial(images, rejected, rate, size_bytes, _peak_memory())


def _peak_memory() -> int:
    """The peak resident memory of this process, in bytes.

    Not from `getrusage`: its figure outlives `exec`, so a new process would begin with the
    memory of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
