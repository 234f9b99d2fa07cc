"""What a build would take, from a look at the set and a sample of its images."""

import functools
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.build.processes import run_jobs
from datasets.build.shards import Job, Settings, write_shard
from datasets.build.sources.source import Source

_IMAGES_A_TRIAL = 250
_MOST_IMAGES = 10_000  # of a process, where the time decides


@dataclass(frozen=True)
class BuildPlan:
    """Measured on a sample and carried over to the whole set.

    Attributes:
        layout: of the set.
        images: of each split.
        classes: their number.
        look_seconds: that finding the images took.
        sample: images that were tried.
        sample_rejected: those of them that cannot be read.
        processes: that worked on the sample, at once.
        rate: images a second of all processes together.
        bytes_an_image: of records, by size.
        main_bytes: the most memory of the process that looked; it grows no more.
        process_bytes: the most memory of one process that wrote.
    """

    layout: str
    images: dict[str, int]
    classes: int
    look_seconds: float
    sample: int
    sample_rejected: int
    processes: int
    rate: float
    bytes_an_image: dict[int, float]
    main_bytes: int
    process_bytes: int

    @property
    def total(self) -> int:
        return sum(self.images.values())

    @property
    def seconds(self) -> float:
        """Time to build all of it."""
        return self.look_seconds + self.total / self.rate

    def __str__(self) -> str:
        splits = ", ".join(f"{prefix} {count:,}" for prefix, count in self.images.items())
        disk = ", ".join(
            f"{size}: {self.total * each / 1e6:,.1f} MB"
            for size, each in self.bytes_an_image.items()
        )
        memory = self.main_bytes + self.processes * self.process_bytes
        rows = {
            "set": f"{self.total:,} images ({splits}) in {self.classes:,} classes, {self.layout}",
            "looked": f"{self.look_seconds:.1f} s",
            "sample": f"{self.sample:,} images, {self.sample_rejected:,} unreadable",
            "rate": f"{self.rate:,.0f} images/s with {self.processes} process(es)",
            "time": f"{self.seconds / 60:,.1f} min",
            "memory": f"{memory / 1e6:,.0f} MB ({self.main_bytes / 1e6:,.0f} + "
            f"{self.processes} x {self.process_bytes / 1e6:,.0f})",
            "disk": disk,
        }
        return "\n".join(f"{name:<8}{value}" for name, value in rows.items())


def plan_build(
    source: Source,
    settings: Settings,
    processes: int,
    look_seconds: float,
    seconds: float = 5.0,
    sample: int | None = None,
) -> BuildPlan:
    """Writes a sample of a set to a temporary folder and measures that.

    The sample is the first training images in the order of the build, which is random.

    Args:
        source: the set.
        settings: what is made of its images.
        processes: to measure with, at once.
        look_seconds: that finding the images took.
        seconds: to go on for. The first 250 images of each process do not count, where
            it has more: they warm it up.
        sample: images to try, however long it takes; by default what the time allows.
    """
    with tempfile.TemporaryDirectory() as folder:
        for size in settings.sizes:
            (Path(folder) / str(size)).mkdir()
        most = _MOST_IMAGES if sample is None else -(-sample // processes)
        jobs = _sample(source, Path(folder), processes, most)
        seconds = seconds if sample is None else math.inf
        trial = functools.partial(_try, settings=settings, seconds=seconds)
        done = list(run_jobs(trial, jobs, len(jobs)))
    written = sum(trial.images - trial.rejected for trial in done)
    return BuildPlan(
        layout=source.layout,
        images={prefix: len(part) for prefix, part in source.images.items()},
        classes=len(source.classes),
        look_seconds=look_seconds,
        sample=sum(trial.images for trial in done),
        sample_rejected=sum(trial.rejected for trial in done),
        processes=len(jobs),
        rate=sum(trial.rate for trial in done),
        bytes_an_image={
            size: sum(trial.bytes[size] for trial in done) / max(written, 1)
            for size in settings.sizes
        },
        main_bytes=_most_memory(),
        process_bytes=max(trial.most_memory for trial in done),
    )


@dataclass(frozen=True)
class _Trial:
    images: int
    rejected: int
    rate: float
    bytes: dict[int, int]
    most_memory: int


def _sample(source: Source, output: Path, processes: int, most: int) -> list[list[Job]]:
    """Jobs for each process, of different images, at most so many."""
    images = source.images["train"]
    boxes = source.boxes.get("train", {})
    share = min(len(images) // processes, most)
    processes, share = (processes, share) if share else (1, len(images))
    return [
        [
            Job.of(
                output,
                f"{process}-{start}",
                images[start : min(start + _IMAGES_A_TRIAL, end)],
                boxes,
            )
            for start in range(process * share, end, _IMAGES_A_TRIAL)
        ]
        for process in range(processes)
        for end in [(process + 1) * share]
    ]


def _try(jobs: Sequence[Job], settings: Settings, seconds: float) -> _Trial:
    """Runs jobs one after the other until the time is over."""
    begin = start = time.perf_counter()
    images = counted = rejected = 0
    size_bytes = dict.fromkeys(settings.sizes, 0)
    for job in jobs:
        result = write_shard(job, settings)
        images += len(job.images)
        rejected += len(result["rejected"])
        for size in settings.sizes:
            size_bytes[size] += result["sizes"][str(size)]["bytes"]
            (job.output / str(size) / job.name).unlink()
        if job is jobs[0] and len(jobs) > 1:
            start = time.perf_counter()
        else:
            counted += len(job.images)
        if time.perf_counter() - begin > seconds and counted:
            break
    return _Trial(
        images, rejected, counted / (time.perf_counter() - start), size_bytes, _most_memory()
    )


def _most_memory() -> int:
    """The most resident memory that this process has had, in bytes.

    Not `getrusage`: what it tells outlives `exec`, so that a new process would begin with
    the memory of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
