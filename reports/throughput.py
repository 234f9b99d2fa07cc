"""Images a second by image size and batch: read, taken from a run, estimated. No TensorFlow."""

import csv
import statistics
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator

from core.clock import BUCKETS
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
    """All workers' images a second at a size and a batch a worker, as measured or as assumed."""

    image_size: Count
    batch_size: Count
    images_per_second: Positive
    measured: bool = True  # False: taken over from other hardware or software


class AllReduce(Settings):
    """What averaging the gradients costs a step. Bandwidths are in bytes a second."""

    bytes: Positive  # of the gradients; 4 a parameter, or 2 with fp16 compression
    workers_per_host: Count = 8  # the maximum number of workers that share a host
    host_bandwidth: Positive  # from a worker to another on its host
    network_bandwidth: Positive | None = None  # from a host to another; None if not known
    latency: NotNegative = 5e-5  # seconds of a message between hosts
    # The share that is not hidden behind the computation; 1 is the worst case.
    exposed: Annotated[float, Field(ge=0, le=1)] = 1.0

    def seconds(self, workers: int) -> float:
        """Of a ring within each host, then one among the hosts.

        A ring of n sends 2 (n - 1) / n of the bytes in 2 (n - 1) messages; an all-reduce
        cannot send less (Patarasuk and Yuan 2009).
        """
        hosts = -(-workers // self.workers_per_host)
        local = min(workers, self.workers_per_host)
        inside = 2 * (local - 1) / local * self.bytes / self.host_bandwidth
        if hosts == 1:
            return self.exposed * inside
        if self.network_bandwidth is None:
            raise UserError(
                f"{workers} workers are on {hosts} hosts, and 'all_reduce' has no "
                f"'network_bandwidth'; give at most --workers {self.workers_per_host}"
            )
        between = 2 * (hosts - 1) / hosts * self.bytes / self.network_bandwidth
        return self.exposed * (inside + between + 2 * (hosts - 1) * self.latency)


class Throughput(Settings):
    """The rates of a machine, and the costs beside the steps."""

    hardware: str = "unnamed hardware"
    source: str = ""
    model: str | None = None  # whose rates they are; None if they are for any model
    workers: Count = 1  # how many there were when the rates were measured
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    factor: Positive = 1.0  # of all rates; for hardware of which only its speed-up is known
    start_up_seconds: NotNegative = 0.0  # until the first stage's pipeline is built
    tracing_seconds: NotNegative = 0.0  # of each stage: its pipeline, first batch and trace
    checkpoint_seconds: NotNegative = 0.0  # of each checkpoint; 0 also where the rates include it
    all_reduce: AllReduce | None = None  # needed for other numbers of workers

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

        At a measured size, the time of a step is linear between measured batches, and proportional
        to the batch outside of them; so is the time of an image to the pixels of other sizes.
        """

        def at_size(area: int) -> tuple[float, str]:
            steps = {
                r.batch_size: (
                    r.batch_size * self.workers / (r.images_per_second * self.factor),
                    MEASURED if r.measured else EXTRAPOLATED,
                )
                for r in self.rates
                if r.image_size**2 == area
            }
            what = f"a batch of {batch_size} is too far from those measured at {area:,} pixels"
            step, how = self._estimate(batch_size, steps, steps.__getitem__, BATCH_RANGE, what)
            return step / batch_size, how

        areas = [rate.image_size**2 for rate in self.rates]
        what = f"images of {pixels:,} pixels are too far from those measured"
        return self._estimate(pixels, areas, at_size, PIXEL_RANGE, what)

    def _estimate(
        self,
        x: int,
        measured: Iterable[int],
        at: Callable[[int], tuple[float, str]],
        factor: float,
        what: str,
    ) -> tuple[float, str]:
        """The seconds at `x`: linear between measured ones, and proportional outside of them."""
        known = sorted(measured)
        least, most = known[0], known[-1]
        if not least / factor <= x <= most * factor:
            span = f"{least:,} to {most:,}, and a factor of {factor:g}"
            raise UserError(f"throughput of {self.hardware}: {what} ({span})")
        low = max((k for k in known if k <= x), default=least)
        high = min((k for k in known if k >= x), default=most)
        (below, how), (above, other) = at(low), at(high)
        if low == high:
            seconds, own = below * x / low, MEASURED if x == low else EXTRAPOLATED
        else:
            seconds, own = float(np.interp(x, [low, high], [below, above])), INTERPOLATED
        return seconds, max(how, other, own, key=WAYS.index)

    def step_seconds(self, pixels: int, batch_size: int, workers: int) -> tuple[float, str]:
        """Seconds of a step of `batch_size` images on each of `workers`, and how they were found.

        Other workers than measured change it by the difference of the two all-reduces.
        """
        seconds, how = self.seconds_per_image(pixels, batch_size)
        step = seconds * batch_size
        if workers == self.workers:
            return step, how
        if self.all_reduce is None:
            raise UserError(
                f"throughput of {self.hardware}: its rates are of {self.workers} worker(s) and it "
                f"has no 'all_reduce' to compute those of {workers}; give --workers {self.workers}"
            )
        change = self.all_reduce.seconds(workers) - self.all_reduce.seconds(self.workers)
        return max(step + change, 1e-9), max(how, SCALED, key=WAYS.index)


def load_throughput(path: Path) -> Throughput:
    """Reads a YAML file with the keys of `Throughput`, or a CSV file with those of `Rate`.

    A CSV file may have a column `workers`, too, the same in each row.
    """
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                data: Any = _from_csv(list(csv.DictReader(file)))
        else:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            data = {"hardware": path.stem, **data}
        return Throughput.model_validate(data)
    except FileNotFoundError:
        raise UserError(f"--throughput {path}: no such file") from None
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from None
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not readable as rates: {' '.join(str(error).split())}") from None


def _from_csv(rows: list[dict[str, str]]) -> dict[str, Any]:
    workers = {int(row.get("workers") or 1) for row in rows}
    if len(workers) > 1:
        raise ValueError(f"rates of different numbers of workers: {sorted(workers)}")
    names = Rate.model_fields
    rates = [{n: yaml.safe_load(row[n] or "") for n in names if n in row} for row in rows]
    return {"workers": max(workers, default=1), "rates": rates}


def throughput_of_run(record: RunRecord) -> Throughput:
    """The rates of a run's phases, with the other costs where it recorded them."""
    measured: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for phase in record.phases:
        if phase.images_per_second:
            steps = phase.end - phase.first
            measured.setdefault(phase.shape, []).append((phase.images_per_second, steps))
    if not measured:
        raise UserError(f"--from_run {record.source}: no phase of it has a measured rate")
    if record.workers is None:
        raise UserError(f"--from_run {record.source}: does not say how many workers it had")
    seconds = record.buckets or dict.fromkeys(BUCKETS, 0.0)
    stages = len(list(groupby(phase.shape for phase in record.phases)))
    rates = []
    for (size, batch), found in measured.items():
        mean = statistics.harmonic_mean(*zip(*found, strict=True))
        rates.append(Rate(image_size=size, batch_size=batch, images_per_second=mean))
    return Throughput(
        hardware=record.name,
        source=str(record.source),
        model=record.facts.get("model"),
        workers=record.workers,
        rates=tuple(rates),
        start_up_seconds=seconds["start_up"],
        tracing_seconds=(seconds["data"] + seconds["tracing"]) / stages,
        checkpoint_seconds=seconds["checkpoints"] / max(record.facts.get("written", 1), 1),
    )
