"""Input from other hosts: our pipeline in the processes of `tf.data` services, and what that costs.

On each host that decodes, where the records lie under the same path:

    python benchmarks/input_service.py serve --port 5050 --host NAME

On the host that trains; without `--server`, it starts two servers on this machine:

    python benchmarks/input_service.py measure --data_dir DIR --server NAME:5050 --server OTHER:5050

`served` is what a training would call. Server k of n decodes batches k, k + n, ...; every server
reads all records, which is cheap. So the batches come in the order of a local pipeline, with the
same bits, and a resumed run sees what it would have seen.

The compiled ops must be in each process that runs the pipeline: a server loads them before it
starts (`fused_jpeg.native()`). A server runs whatever it is sent, and asks for no password: keep
its ports in a private network.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
import psutil
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.input_pipeline import CASES
from core.settings import Augmentation
from datasets.input import fused_jpeg
from datasets.input.pipeline import ReadPlan, options, training_pipeline
from datasets.records.schema import Records

BATCH = 64


def served(
    part_of: Callable[[int, int], tf.data.Dataset], servers: Sequence[str], threads: int
) -> tf.data.Dataset:
    """A pipeline that runs on other hosts.

    Args:
        part_of: part k of n of the pipeline, steps k, k + n, ...; without Python functions in it.
        servers: `host:port` of each.
        threads: of this process, to receive the batches.
    """
    service = tf.data.experimental.service
    parts = [
        part_of(part, len(servers)).apply(
            service.distribute(
                service.ShardingPolicy.OFF,  # a server has its part already
                f"grpc://{server}",
                compression=None,  # images from JPEGs hardly become smaller
            )
        )
        for part, server in enumerate(servers)
    ]
    turns = tf.data.Dataset.range(len(parts)).repeat()
    return tf.data.Dataset.choose_from_datasets(parts, turns).with_options(options(threads))


@contextlib.contextmanager
def server_here(threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own on this machine: its address and the process."""
    command = [sys.executable, __file__, "serve", "--threads", str(threads), "--while_input"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.stdin.close()  # it ends with its standard input
        process.wait()


@click.group()
def main() -> None:
    """Serves batches to another host, or measures what that costs."""


@main.command()
@click.option("--port", default=0, help="0: one that is free; the next one is for the batches.")
@click.option("--host", default="localhost", help="The name under which others reach this host.")
@click.option("--threads", default=len(os.sched_getaffinity(0)))
@click.option("--while_input", is_flag=True, help="End when the standard input is closed.")
def serve(port: int, host: str, threads: int, while_input: bool) -> None:
    """Decodes for other processes, and prints the address."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if fused_jpeg.native() is None:
        sys.exit("error: the compiled ops are missing here; the trainer's pipeline needs them")
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    own = dispatcher.target.rpartition(":")[2]
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=f"localhost:{own}",
            worker_address=f"{host}:%port%",
            data_transfer_address=f"{host}:%dts_port%",
            port=port and port + 1,
        )
    )
    click.echo(f"{host}:{own}")
    if while_input:
        sys.stdin.read()
    else:
        worker.join()


@main.command()
@click.option("--data_dir", type=Path, required=True, help="Records in `160` and `320`.")
@click.option("--server", "servers", multiple=True, help="host:port of a server, for each.")
@click.option("--cases", default=CASES, help="Stored short side:training size, with commas.")
@click.option("--steps", default=60, help=f"In a pass, of {BATCH} images.")
@click.option("--repeats", default=5, help="Passes of each, in turns.")
@click.option("--threads", default=1, help="Of each process.")
def measure(
    data_dir: Path, servers: tuple[str, ...], cases: str, steps: int, repeats: int, threads: int
) -> None:
    """Prints rates and CPU time of a local pipeline and of the same one through servers."""
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    with contextlib.ExitStack() as stack:
        here = [] if servers else [stack.enter_context(server_here(threads)) for _ in range(2)]
        addresses = servers or tuple(address for address, _ in here)
        table = Table("pipeline", title=f"medians of {repeats} passes of {steps * BATCH:,} images")
        rows: dict[str, list[str]] = {}
        for case in cases.split(","):
            stored, size = map(int, case.split(":"))
            files = tuple(sorted((data_dir / str(stored)).glob("train-*")))
            if not files:
                raise click.UsageError(f"{data_dir / str(stored)} holds no train-* records")
            for column in ("images/s", "CPU ms here", "CPU ms of servers"):
                table.add_column(f"{stored} -> {size}: {column}", justify="right")
            found = in_turns(files, size, steps, repeats, threads, addresses, [p for _, p in here])
            for name, cells in found.items():
                rows.setdefault(name, []).extend(cells)
        for name, cells in rows.items():
            table.add_row(name, *cells)
    Console(width=150).print(table)
    click.echo(f"CPU ms: of an image, user and system; {len(addresses)} servers")


def in_turns(
    files: tuple[Path, ...],
    size: int,
    steps: int,
    repeats: int,
    threads: int,
    addresses: Sequence[str],
    processes: Sequence[psutil.Process],
) -> dict[str, list[str]]:
    """The cells of the rows `local` and `served`; their batches are compared, too."""

    def part_of(part: int, parts: int) -> tf.data.Dataset:
        plan = ReadPlan(BATCH, steps, shuffle_buffer=256, threads=threads, part=part, parts=parts)
        return training_pipeline(
            Records(files, 0),
            plan,
            range(steps),
            image_size=(size, size),
            classes=1000,
            augmentation=Augmentation(area=(0.25, 1.0)),
        )

    pipelines = {"local": part_of(0, 1), "served": served(part_of, addresses, threads)}
    sums: dict[str, Any] = {}
    for name, dataset in pipelines.items():  # also traces them and warms up
        sums[name] = [(int(tf.reduce_sum(tf.cast(x, tf.int64))), len(y)) for x, y in dataset]
    if sums["local"] != sums["served"]:
        sys.exit("error: the servers deliver other images than the local pipeline")
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in pipelines}
    for _ in range(repeats):
        for name, dataset in pipelines.items():
            before, began = _seconds(processes), time.perf_counter()
            images = sum(len(labels) for _, labels in dataset)
            wall = time.perf_counter() - began
            used = [b - a for a, b in zip(before, _seconds(processes), strict=True)]
            measured[name].append((images / wall, *(1000 * s / images for s in used)))
    cells = {}
    for name, passes in measured.items():
        rate, own, others = (statistics.median(values) for values in zip(*passes, strict=True))
        cells[name] = [f"{rate:,.0f}", f"{own:.3f}", f"{others:.3f}" if processes else "not seen"]
    return cells


def _seconds(others: Sequence[psutil.Process]) -> tuple[float, float]:
    """CPU seconds of this process so far, and of the others."""
    own, *theirs = (sum(p.cpu_times()[:2]) for p in (psutil.Process(), *others))
    return own, sum(theirs)


if __name__ == "__main__":
    main()
