"""Images a second by image size and batch: read, taken from a run, estimated. No TensorFlow."""

import csv
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator

from core.errors import UserError
from core.schedule import explain
from core.settings import Count, NotNegative, Positive, Settings
from reports.run_record import RunRecord

# The factor beyond the measured range up to which a rate is estimated, not refused.
BATCH_RANGE, PIXEL_RANGE = 4.0, 2.0

# How a rate was found, the surest first; "scaled" is from another number of workers.
WAYS = "measured", "interpolated", "scaled", "extrapolated"
MEASURED, INTERPOLATED, SCALED, EXTRAPOLATED = WAYS


class Rate(Settings):
    """One measurement: all workers' images a second at a size and a batch a worker."""

    image_size: Count
    batch_size: Count
    images_per_second: Positive


class AllReduce(Settings):
    """What averaging the gradients costs a step.

    Attributes:
        bytes: of the gradients; 4 a parameter, or 2 with fp16 compression.
        workers_per_host: the maximum number of workers that share a host.
        host_bandwidth: bytes a second from a worker to another on its host.
        network_bandwidth: bytes a second from a host to another.
        latency: seconds of a message between hosts.
        exposed: share that is not hidden behind the computation; 1 is the worst case.
    """

    bytes: Positive
    workers_per_host: Count = 8
    host_bandwidth: Positive
    network_bandwidth: Positive
    latency: NotNegative = 5e-5
    exposed: Annotated[float, Field(ge=0, le=1)] = 1.0

    def seconds(self, workers: int) -> float:
        """Of a ring within each host, then one among the hosts.

        A ring of n sends 2 (n - 1) / n of the bytes in 2 (n - 1) messages; an all-reduce
        cannot send less (Patarasuk and Yuan 2009).
        """
        hosts = -(-workers // self.workers_per_host)
        local = min(workers, self.workers_per_host)
        inside = 2 * (local - 1) / local * self.bytes / self.host_bandwidth
        between = 2 * (hosts - 1) / hosts * self.bytes / self.network_bandwidth
        return self.exposed * (inside + between + 2 * (hosts - 1) * self.latency)


class Throughput(Settings):
    """The rates of a machine, and the costs beside the steps.

    Attributes:
        hardware, source: in words.
        model: whose rates they are; None if they are for any model.
        workers: how many there were when the rates were measured.
        factor: multiplies all rates; for hardware of which only its speed-up is known.
        start_up_seconds: until the first stage's pipeline is built.
        tracing_seconds: of each stage: its pipeline, first batch and trace.
        checkpoint_seconds: of each checkpoint; 0 also where the rates include it.
        all_reduce: needed for other numbers of workers.
    """

    hardware: str = ""
    source: str = ""
    model: str | None = None
    workers: Count = 1
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    factor: Positive = 1.0
    start_up_seconds: NotNegative = 0.0
    tracing_seconds: NotNegative = 0.0
    checkpoint_seconds: NotNegative = 0.0
    all_reduce: AllReduce | None = None

    @field_validator("rates")
    @classmethod
    def _each_once(cls, rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
        pairs = [(rate.image_size, rate.batch_size) for rate in rates]
        for pair in pairs:
            if pairs.count(pair) > 1:
                raise ValueError(f"{pair[0]} px at batch {pair[1]} is there twice")
        return rates

    def seconds_per_image(self, pixels: int, batch_size: int) -> tuple[float, str]:
        """Seconds for an image of one worker's batch, and how they were found.

        Between measured batches of a size, the time of a step is linear in the batch; outside
        of them it is proportional to it, up to a factor of 4. Between measured sizes, the time
        of an image is linear in the pixels; outside, proportional up to a factor of 2.

        Raises:
            UserError: further away from what was measured than that.
        """
        areas = sorted({rate.image_size**2 for rate in self.rates})
        what = f"images of {pixels:,} pixels are too far from those measured"
        self._check_range(pixels, areas, PIXEL_RANGE, what)
        below = [area for area in areas if area <= pixels][-1:]
        above = [area for area in areas if area >= pixels][:1]
        found = {area: self._at_size(area, batch_size) for area in (*below, *above)}
        seconds, how = _estimate(pixels, {area: found[area][0] for area in found})
        return seconds, max(how, *(way for _, way in found.values()), key=WAYS.index)

    def _at_size(self, area: int, batch_size: int) -> tuple[float, str]:
        steps = {
            r.batch_size: r.batch_size * self.workers / (r.images_per_second * self.factor)
            for r in self.rates
            if r.image_size**2 == area
        }
        what = f"a batch of {batch_size} is too far from those measured at {area:,} pixels"
        self._check_range(batch_size, steps, BATCH_RANGE, what)
        step, how = _estimate(batch_size, steps)
        return step / batch_size, how

    def step_seconds(self, pixels: int, batch_size: int, workers: int) -> tuple[float, str]:
        """Seconds of a step of `batch_size` images on each of `workers`.

        For another number of workers than measured, it changes by the difference of the two
        all-reduces.

        Raises:
            UserError: too far from what was measured, or no all-reduce costs are given.
        """
        seconds, how = self.seconds_per_image(pixels, batch_size)
        step = seconds * batch_size
        if workers == self.workers:
            return step, how
        if self.all_reduce is None:
            raise UserError(
                f"{self._words()}: its rates are of {self.workers} worker(s) and it has no "
                f"'all_reduce' to compute those of {workers}; give --workers {self.workers}"
            )
        change = self.all_reduce.seconds(workers) - self.all_reduce.seconds(self.workers)
        return max(step + change, 1e-9), max(how, SCALED, key=WAYS.index)

    def _check_range(self, x: int, measured: Collection[int], factor: float, what: str) -> None:
        least, most = min(measured), max(measured)
        if not least / factor <= x <= most * factor:
            raise UserError(
                f"{self._words()}: {what} ({least:,} to {most:,}, and a factor of {factor:g})"
            )

    def _words(self) -> str:
        return f"throughput of {self.hardware}" if self.hardware else "throughput"


def _estimate(x: int, measured: Mapping[int, float]) -> tuple[float, str]:
    """The seconds at `x`: linear between measured ones, and proportional outside of them."""
    if x in measured:
        return measured[x], MEASURED
    known = sorted(measured)
    if known[0] < x < known[-1]:
        return float(np.interp(x, known, [measured[k] for k in known])), INTERPOLATED
    nearest = known[0] if x < known[0] else known[-1]
    return measured[nearest] * x / nearest, EXTRAPOLATED


def load_throughput(path: Path) -> Throughput:
    """Reads a YAML file with the keys of `Throughput`, or a CSV file.

    A CSV file has the columns `image_size`, `batch_size`, `images_per_second` and, the
    same in each row, `workers`.

    Raises:
        UserError: naming the file and the key.
    """
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                data: Any = _from_csv(list(csv.DictReader(file)))
        else:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--throughput {path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not readable as rates: {' '.join(str(error).split())}") from None
    try:
        found = Throughput.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from None
    return found if found.hardware else found.model_copy(update={"hardware": path.stem})


def _from_csv(rows: list[dict[str, str]]) -> dict[str, Any]:
    workers = {int(row.get("workers") or 1) for row in rows}
    if len(workers) > 1:
        raise ValueError(f"rates of different numbers of workers: {sorted(workers)}")
    names = Rate.model_fields
    rates = [{n: yaml.safe_load(row[n] or "") for n in names if n in row} for row in rows]
    return {"workers": max(workers, default=1), "rates": rates}


def throughput_of_run(record: RunRecord) -> Throughput:
    """The rates of a run's phases, with the other costs where it recorded them.

    Raises:
        UserError: a record without rates or without its number of workers.
    """
    images: dict[tuple[int, int], float] = defaultdict(float)
    seconds: dict[tuple[int, int], float] = defaultdict(float)
    for phase in record.phases:
        if phase.images_per_second:
            count = (phase.end - phase.first) * phase.batch_size
            images[phase.shape] += count
            seconds[phase.shape] += count / phase.images_per_second
    if not images:
        raise UserError(f"--from_run {record.source}: no phase of it has a measured rate")
    if record.workers is None:
        raise UserError(f"--from_run {record.source}: does not say how many workers it had")
    costs = {}
    if record.buckets:
        stages = len([shape for shape, _ in groupby(phase.shape for phase in record.phases)])
        written = max(record.facts.get("written", 1), 1)
        costs = {
            "start_up_seconds": record.buckets["start_up"],
            "tracing_seconds": (record.buckets["data"] + record.buckets["tracing"]) / stages,
            "checkpoint_seconds": record.buckets["checkpoints"] / written,
        }
    rates = (
        Rate(image_size=size, batch_size=batch, images_per_second=count / seconds[size, batch])
        for (size, batch), count in images.items()
    )
    return Throughput(
        hardware=record.name,
        source=str(record.source),
        model=record.facts.get("model"),
        workers=record.workers,
        rates=tuple(rates),
        **costs,
    )
