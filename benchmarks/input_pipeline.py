"""Input pipelines side by side: images a second from JPEGs to batches of a training size.

    python benchmarks/input_pipeline.py --data_dir DIR

`DIR` holds records of photographs in `160` and `320`, as the builder makes them. The
images must be real, since flat ones decode too fast. The peers need the environment that
`make bench-peers` sets up. All pipelines get the same JPEGs, crop (area, aspect), size,
batch and threads. Each has a process of its own, which waits while the others run; they
take turns pass by pass. The data are in memory, except in the row "ours, from disk": it drops
its files from the page cache before each pass (posix_fadvise, DONTNEED). A disk or a host of
virtual machines may still have them in a cache of its own.

Ours also runs with 1, 2, 4, ... threads, up to `--threads`. From that follow the cores that the
presets need on published hardware (cores_needed.py).
"""

import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core import environment

os.environ.update(environment.settings())

import click
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks import cores_needed
from benchmarks.pipelines_compared import PIPELINES

ROOT = Path(__file__).resolve().parent.parent
Case = cores_needed.Case
CASES = "160:96,160:128,320:224"  # short side of the stored images: side of a training image
PEERS = ("torchvision", "DALI, CPU", "DALI, CPU, its defaults", "FFCV, JPEG", "FFCV, raw pixels")
SCALED = ("ours", "ours, from disk")  # also run with fewer threads


class Contender:
    """A pipeline in a process of its own, and the rates of its passes."""

    def __init__(self, python: Path, settings: dict[str, Any], log: Any):
        self.name, self.threads = settings["pipeline"], settings["threads"]
        self.rates: list[float] = []
        self.missing: str | None = None
        script = Path(__file__).with_name("pipelines_compared.py")
        self.process = subprocess.Popen(
            [str(python), str(script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        answer = self._answer()
        if "ready" not in answer:
            self.missing = answer["missing"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "it ended with an error, see the log"}

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "images_per_second" in answer:
            self.rates.append(answer["images_per_second"])
        else:
            self.missing = answer["missing"]

    def end(self) -> None:
        """Ends the process: it stops when its standard input is closed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def write_tree(records: list[Path], tree: Path) -> None:
    """The JPEGs of the records as files, in ten folders: what the peers read."""
    import tensorflow as tf

    for number, raw in enumerate(tf.data.TFRecordDataset([str(path) for path in records])):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        folder = tree / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        encoded = features["image/encoded"].bytes_list.value[0]
        (folder / f"{number:06d}.jpg").write_bytes(encoded)


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    return [*itertools.takewhile(lambda n: n < most, (2**k for k in itertools.count())), most]


def compare(
    names: list[str], settings: dict[str, Any], peers: Path | None, repeats: int, log: Any
) -> list[Contender]:
    """Runs the pipelines in turns, `repeats` times; the `SCALED` ones also with fewer threads."""
    most = settings["threads"]
    wanted = [(name, most) for name in names]
    wanted += [(n, count) for count in thread_counts(most)[:-1] for n in SCALED if n in names]
    contenders = []
    try:
        for name, threads in tqdm(wanted, f"starting, {settings['size']} px", leave=False):
            python = peers if name in PEERS else Path(sys.executable)
            if python is not None:
                own = {**settings, "pipeline": name, "threads": threads}
                contenders.append(Contender(python, own, log))
        for _ in tqdm(range(repeats), f"measuring, {settings['size']} px", leave=False):
            for contender in contenders:
                if contender.missing is None:
                    contender.run()
    finally:
        for contender in contenders:
            contender.end()
    return contenders


def table_of(names: list[str], found: dict[Case, list[Contender]], threads: int) -> Table:
    table = Table("images a second, median (slowest to fastest)")
    for stored, size in found:
        table.add_column(f"{stored} -> {size}", justify="right")
        table.add_column("of ours", justify="right")
    for name in names:
        cells = []
        for contenders in found.values():
            by_name = {c.name: c for c in contenders if c.threads == threads}
            contender = by_name.get(name)
            if contender is None:
                cells += ["no environment: make bench-peers", ""]
            elif contender.missing is not None:
                cells += [f"not run: {contender.missing}", ""]
            else:
                own = contender.rates
                median = statistics.median(own)
                cells.append(f"{median:,.0f} ({min(own):,.0f} to {max(own):,.0f})")
                # Turn by turn: both ran within about a second, so other work slowed both.
                ratios = [a / b for a, b in zip(own, by_name["ours"].rates, strict=True)]
                cells.append(f"{statistics.median(ratios):.2f}")
        table.add_row(name, *cells)
    return table


def scaling_of(found: dict[Case, list[Contender]]) -> Table:
    """The median rates of each number of threads, and how many times that of one thread."""
    table = Table("threads", "images a second (times that of one thread)")
    for stored, size in found:
        table.add_column(f"{stored} -> {size}", justify="right")
    rates = {
        (c.threads, c.name, case): statistics.median(c.rates)
        for case, contenders in found.items()
        for c in contenders
        if c.name in SCALED and c.rates
    }
    for threads, name in dict.fromkeys((n, name) for n, name, _ in sorted(rates)):
        cells = []
        for case in found:
            rate, one = (rates.get((n, name, case), math.nan) for n in (threads, 1))
            cells.append(f"{rate:,.0f} ({rate / one:.2f})")
        table.add_row(str(threads), name, *cells)
    return table


@click.command()
@click.option("--data_dir", type=Path, required=True, help="Records in `160` and `320`.")
@click.option("--cases", default=CASES, help="Stored short side:training size, with commas.")
@click.option("--peers", type=Path, default=ROOT / ".venv-peers", help="The peers' environment.")
@click.option("--repeats", default=5, help="Passes of each pipeline, in turns.")
@click.option("--images", default=4608, help="Smallest number in a pass; half of it from 320 px.")
@click.option("--batch_size", default=64)
@click.option("--threads", default=len(os.sched_getaffinity(0)), help="Or worker processes.")
@click.option("--area", default=0.25, help="Smallest area of a crop; the largest is 1.")
@click.option("--only", default="", help="Names of the pipelines to run, with | between them.")
@click.option(
    "--log", "log_path", type=Path, default=Path(os.devnull), help="File for their warnings."
)
def main(data_dir, cases, only, peers, log_path, **options):
    """Prints the tables, and how many cores the presets need."""
    threads, area = options["threads"], options["area"]
    repeats, images, batch_size = options["repeats"], options["images"], options["batch_size"]
    names = [name for name in PIPELINES if not only or name in ("ours", *only.split("|"))]
    python = peers / "bin" / "python"
    found = {}
    with tempfile.TemporaryDirectory() as folder, open(log_path, "w") as log:
        for stored, size in (tuple(map(int, case.split(":"))) for case in cases.split(",")):
            records = sorted((data_dir / str(stored)).glob("train-*"))
            if not records:
                raise click.UsageError(f"{data_dir / str(stored)} holds no train-* records")
            tree = Path(folder) / f"{stored}-{size}"
            write_tree(records, tree / "once")
            once = sorted((tree / "once").glob("*/*"))
            # Copies, so that a pass takes a second or more, and reads what it has not cached.
            wanted = images if stored <= 160 else images // 2
            copies = -(-wanted // len(once))
            files = []
            for copy in range(copies):
                for path in records:
                    files.append(tree / f"{path.name}.{copy}")
                    shutil.copy(path, files[-1])
                for path in once:
                    target = tree / "tree" / path.parent.name / f"{copy}-{path.name}"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
            settings = {
                "records": [str(path) for path in files],
                "tree": str(tree / "tree"),
                "short_side": stored,
                "size": size,
                "images": len(once) * copies,
                "batch_size": batch_size,
                "threads": threads,
                "area": [area, 1.0],
            }
            available = python if python.exists() else None
            found[stored, size] = compare(names, settings, available, repeats, log)
            shutil.rmtree(tree)

    console = Console(width=170)
    console.print(table_of(names, found, threads))
    console.print(
        f"{threads} threads or worker processes, batches of {batch_size}, random resized crops of "
        f"{area:.0%} to 100 % of the area, flips; {repeats} passes of at least {images:,} "
        "images (half of it from 320 px), in turns. Keras zooms and crops "
        "instead; evaluation and decoding do not augment."
    )
    console.print(scaling_of(found))
    a_core = {
        case: statistics.median(contender.rates) / threads
        for case, contenders in found.items()
        for contender in contenders
        if (contender.name, contender.threads) == ("ours", threads)
    }
    console.print(cores_needed.table(a_core))
    console.print(
        f"images/s of the presets: projected from benchmarks/rates (a ~: extrapolated); cores: "
        f"those, over the rate of one of the {threads} threads here. That assumes that twice the "
        "cores deliver twice the images. A size between those measured counts as the next larger."
    )


if __name__ == "__main__":
    main()
