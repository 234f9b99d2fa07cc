"""Estimates a build from a look at the set and from a sample of its images."""

import functools
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError
from datasets.build.processes import run_jobs
from datasets.build.shards import ShardJob, write_shard
from datasets.build.sources.layouts import BuildOptions, read_source
from datasets.build.sources.source import Source

_SECONDS = 5.0
_IMAGES_A_TRIAL = 250
_MAX_IMAGES = 10_000  # of a process, where the time decides


def plan_build(options: BuildOptions, sample: int | None = None) -> str:
    """A table of the time, memory and disk that a build needs.

    It writes a sample of the set to a temporary folder: the first training images in the order
    of the build, which is random; by default, as many as five seconds allow. The first 250
    images of each process do not count, if it has more. They warm it up.
    """
    if sample is not None and sample < 1:
        raise DataError(f"--sample: received {sample}; give a number of images from 1")
    begin = time.perf_counter()
    source = read_source(options)
    look_seconds = time.perf_counter() - begin
    sizes = source.chosen_sizes(options.sizes)
    limit = _MAX_IMAGES if sample is None else math.ceil(sample / options.processes)
    jobs = _sample(source, options.processes, limit)
    with tempfile.TemporaryDirectory() as folder:
        trial = functools.partial(
            _try,
            source=source.without_images(),
            options=replace(options, sizes=sizes, output=folder),
            seconds=_SECONDS if sample is None else math.inf,
        )
        trials = list(run_jobs(trial, jobs, len(jobs)))
    results = [result for trial in trials for result in trial.results]
    shards = {size: [result["sizes"][str(size)] for result in results] for size in sizes}
    written = sum(shard["images"] for shard in shards[sizes[0]])
    rejected = sum(len(result["rejected"]) for result in results)
    rate = sum(trial.rate for trial in trials)
    total = sum(len(part) for part in source.images.values())
    splits = ", ".join(f"{prefix} {len(part):,}" for prefix, part in source.images.items())
    scale = total / max(written, 1) / 1e6
    disk = {size: scale * sum(shard["bytes"] for shard in of) for size, of in shards.items()}
    looked, wrote = _peak_memory(), max(trial.peak_memory for trial in trials)
    rows = {
        "set": f"{total:,} images ({splits}) in {len(source.classes):,} classes, {source.layout}",
        "looked": f"{look_seconds:.1f} s",
        "sample": f"{written + rejected:,} images, {rejected:,} unreadable",
        "rate": f"{rate:,.0f} images/s with {len(jobs)} process(es)",
        "time": f"{(look_seconds + total / rate) / 60:,.1f} min",
        "memory": f"{(looked + len(jobs) * wrote) / 1e6:,.0f} MB ({looked / 1e6:,.0f} + "
        f"{len(jobs)} x {wrote / 1e6:,.0f})",
        "disk": ", ".join(f"{size}: {megabytes:,.1f} MB" for size, megabytes in disk.items()),
    }
    return "\n".join(f"{name:<8}{value}" for name, value in rows.items())


def _sample(source: Source, processes: int, limit: int) -> list[list[ShardJob]]:
    """Jobs for each process, of different images. `limit` is the maximum for a process."""
    total = len(source.images["train"])
    share = min(total // processes, limit)
    processes, share = (processes, share) if share else (1, total)
    jobs = []
    for begin in range(0, processes * share, share):
        end = begin + share
        starts = range(begin, end, _IMAGES_A_TRIAL)
        parts = [slice(start, min(start + _IMAGES_A_TRIAL, end)) for start in starts]
        jobs.append([ShardJob.of(f"{part.start}", source, "train", part) for part in parts])
    return jobs


class _Trial(NamedTuple):
    results: list[dict[str, Any]]  # of `write_shard`
    rate: float  # images a second
    peak_memory: int  # bytes


def _try(jobs: Sequence[ShardJob], source: Source, options: BuildOptions, seconds: float) -> _Trial:
    """Runs jobs one after the other until the time is over."""
    begin = start = time.perf_counter()
    results, counted = [], 0
    for job in jobs:
        results.append(write_shard(job, source, options))
        for size in options.sizes:
            Path(options.output, str(size), job.name).unlink()
        if job is jobs[0] and len(jobs) > 1:
            start = time.perf_counter()
        else:
            counted += len(job.images)
        if time.perf_counter() - begin > seconds and counted:
            break
    return _Trial(results, counted / (time.perf_counter() - start), _peak_memory())


def _peak_memory() -> int:
    """The peak resident memory of this process, in bytes.

    Not from `getrusage`: its figure outlives `exec`, so a new process would begin with the
    memory of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
