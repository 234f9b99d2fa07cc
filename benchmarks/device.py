"""The first ten minutes on a machine with GPUs: what it can do, as a table and as rates.

    python benchmarks/device.py
    python recipe.py plan --recipe alibaba21 --workers 8 --throughput runs/device-.../rates.yaml

It starts a worker for each GPU by itself. It measures ResNet-50 at several sizes, dtype policies
and ways to compute BatchNorm, the all-reduce, the input pipeline and the loop, the most useful
first, and ends in time (`--minutes`). A part that fails gets a row that says why, and the rest goes
on. All rows are written as they come. Without a GPU it goes the same way with a small model, which
shows that everything works; its figures say nothing of a GPU. docs/device.md says more.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import psutil
import yaml
from rich.console import Console

from benchmarks.on_device import report
from benchmarks.on_device.faults import is_about_memory, last_words
from benchmarks.on_device.plan import (
    CUT,
    ENDED,
    HUNG,
    MEMORY,
    MINIATURE,
    Cell,
    Plan,
    Results,
    next_cell,
)
from benchmarks.on_device.rows import add_row, read_rows
from core import files
from core.environment import for_modules
from core.errors import RunError, UserError
from launch.command_line import horovodrun
from launch.launcher import below
from training.run_folder import PACKAGES, versions

WORKER = Path(__file__).resolve().parent / "on_device" / "worker.py"
REPORT_SECONDS = 10.0  # that are kept for the report
START_LIMIT = 150.0  # seconds in which workers have to start, or to choose a cell
CELL_LIMIT, TIMES_COST = 30.0, 2.0  # a cell hangs after so long, and so many times its cost
LOOK_EVERY = 0.2
QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


@dataclass(frozen=True)
class Folder:
    """Where the rows, the workers' log and the results are."""

    path: Path

    @property
    def rows(self) -> Path:
        return self.path / "rows.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "workers.log"

    @property
    def rates(self) -> Path:
        return self.path / "rates.yaml"

    def add(self, row: str, **values: Any) -> None:
        add_row(self.rows, {"row": row, **values})


class Progress:
    """Shows how far it is: a line for each cell that ends, and on a terminal what runs now."""

    def __init__(self, console: Console, began: float, minutes: float):
        self.console = console
        self.began = began
        self.minutes = minutes
        self.now = "starting"
        self.status = console.status("") if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.status:
            self.status.stop()

    def clock(self) -> str:
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60:2}:{seconds % 60:02} of {self.minutes:g} min"

    def tick(self) -> None:
        if self.status:
            self.status.update(f"{self.clock()}  {self.now} ...")

    def doing(self, text: str) -> None:
        self.now = text
        self.tick()
        if not self.status:
            self.say(f"{text} ...")

    def say(self, text: str) -> None:
        self.console.print(f"{self.clock()}  {text}", markup=False)


class Measuring:
    """Starts workers, again after each fault, until there is nothing left to measure or no time.

    Args:
        command: the command line of a number of workers, without their one argument.
        deadline: of `time.monotonic()`; nothing runs any more then.
        asked: more for the workers' argument.
    """

    def __init__(
        self,
        folder: Folder,
        plan: Plan,
        deadline: float,
        command: Callable[[int], list[str]],
        progress: Progress,
        asked: dict[str, Any],
    ):
        self.folder, self.plan, self.deadline = folder, plan, deadline
        self.command, self.progress, self.asked = command, progress, asked
        self.job: subprocess.Popen | None = None
        self._log_before = 0  # bytes of the log when the workers were started

    def run(self) -> None:
        """Measures.

        Raises:
            RunError: workers do not start.
        """
        while next_cell(self.plan, self._rows(), self._left(), has_started=False):
            before = len(self._rows())
            results = Results(self.plan, self._rows())
            self.progress.doing(f"starting {results.team} worker(s)")
            self._start(results.team)
            try:
                problem = self._watch(before)
            finally:
                self.end()
            if problem is None and len(self._rows()) == before:
                problem = "they measured nothing"
            if problem is None:
                continue
            said = self._last_words()
            if results.team == 1:
                raise RunError(f"no worker starts ({problem}): {said}\nsee {self.folder.log}")
            # One worker needs no other; what it measures is better than nothing.
            self._failed(Cell("check"), ENDED, f"workers do not start ({problem}): {said}")

    def _rows(self) -> list[dict[str, Any]]:
        return read_rows(self.folder.rows)

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _start(self, team: int) -> None:
        asked = {
            **self.asked,
            "plan": asdict(self.plan),
            "rows": str(self.folder.rows),
            "deadline": self.deadline,
            "started": time.monotonic(),
        }
        command = [*self.command(team), json.dumps(asked)]
        # Workers that import from a slow disk may start far apart; Horovod waits 30 s by itself.
        patience = {"HOROVOD_GLOO_TIMEOUT_SECONDS": f"{START_LIMIT:.0f}"}
        with self.folder.log.open("ab") as log:
            self._log_before = log.tell()
            # A session of its own, so that Ctrl-C reaches this process alone.
            self.job = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=patience | for_modules(),
            )

    def _last_words(self) -> str:
        """What the workers that were started last have said."""
        with self.folder.log.open("rb") as log:
            log.seek(self._log_before)
            return last_words(log.read().decode(errors="replace"))

    def _watch(self, seen: int) -> str | None:
        """Follows the workers to their end; what is wrong where they did not even start."""
        assert self.job
        cell: Cell | None = None
        is_ready, since = False, time.monotonic()
        while True:
            status = self.job.poll()  # before the rows: all that it wrote is then read
            for row in self._rows()[seen:]:
                seen += 1
                since, is_ready = time.monotonic(), True
                self._show(row)
                if row["row"] == "failed":
                    return None
                cell = Cell(**row["cell"]) if row["row"] == "begin" else None
            if status is not None:
                if not is_ready:
                    return f"status {status}"
                if cell:
                    self._died(cell, status)
                return None
            now = time.monotonic()
            if now >= self.deadline:
                if cell:
                    self._failed(cell, CUT, "")
                return None
            limit = self.limit(cell)
            if now - since > limit:
                if not is_ready:
                    return f"no sign of life for {limit:.0f} s"
                text = f"no sign of life for {limit:.0f} s; the workers were ended"
                self._failed(cell or Cell("check"), HUNG, text)
                return None
            self.progress.tick()
            time.sleep(LOOK_EVERY)

    def limit(self, cell: Cell | None) -> float:
        """Seconds without a row after which the workers hang: in a cell, or outside of one."""
        if cell is None:
            return START_LIMIT
        return CELL_LIMIT + TIMES_COST * Results(self.plan, self._rows()).cost(cell)

    def _died(self, cell: Cell, status: int) -> None:
        """Notes a cell in which the workers ended without a word of their own."""
        said = self._last_words()
        reason = MEMORY if is_about_memory(said) and cell.what == "step" else ENDED
        self._failed(cell, reason, f"the workers ended with status {status}: {said}")

    def _failed(self, cell: Cell, reason: str, text: str) -> None:
        team = Results(self.plan, self._rows()).team
        row = {"cell": asdict(cell), "reason": reason, "text": text, "workers": team}
        self.folder.add("failed", **row, seconds=0.0)
        self._show(self._rows()[-1])

    def _show(self, row: dict[str, Any]) -> None:
        cell = Cell(**row["cell"]) if "cell" in row else None
        if cell is None:
            self.progress.say(f"the workers are ready after {row['seconds']:.1f} s")
        elif row["row"] == "begin":
            self.progress.doing(cell.words)
        elif row["row"] == "done":
            result, more = report.words_of(cell, row["found"], row["workers"])
            self.progress.say(f"{cell.words}: {result} ({more})")
            self._write_rates()
        else:
            why = report.NOTES.get(row["reason"], "FAILED")
            self.progress.say(f"{cell.words}: {why}. {row['text']}")

    def _write_rates(self) -> None:
        rows = self._rows()
        machine = rows[0]
        found = report.rates(Results(self.plan, rows), machine["hardware"], machine["packages"])
        if found:
            text = yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=100)
            files.write(self.folder.rates, f"# Measured; the input may be slower.\n{text}")

    def end(self) -> None:
        """Ends the workers that run, and all processes below them."""
        if self.job is None:
            return
        processes = below(self.job.pid)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.job.wait()
        # Only a process that is gone has given its GPU's memory back.
        psutil.wait_procs(processes, timeout=20)
        self.job = None


def gpus_here() -> list[str]:
    """The name, memory and driver of each GPU, as nvidia-smi says; those that are visible."""
    try:
        said = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        # A container may have the devices without the command.
        said = "\n".join("GPU, unknown" for _ in Path("/dev").glob("nvidia[0-9]*"))
    names = [line.strip() for line in said.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    return names[: len([part for part in visible.split(",") if part.strip() not in ("", "-1")])]


def worker_command(team: int) -> list[str]:
    """Starts this many workers on this machine."""
    # Verbose: Horovod says which worker ended first.
    launcher = [*horovodrun(team), "--verbose"] if team > 1 else []
    return [*launcher, sys.executable, str(WORKER)]


def hardware(gpus: Sequence[str], plan: Plan) -> str:
    """Such as `8 NVIDIA H100 80GB HBM3`, or the number of cores without a GPU."""
    if not plan.needs_gpu:
        return f"no GPU, {len(os.sched_getaffinity(0))} cores, a miniature"
    return f"{plan.workers} {gpus[0].split(',')[0]}"


@click.command()
@click.option("--minutes", type=click.FloatRange(min=1), default=10, show_default=True)
@click.option("--output", type=Path, help="A new folder; by default one in runs/.")
@click.option("--workers", type=click.IntRange(1), help="By default one for each GPU.")
@click.option("--data_dir", type=Path, help="Records in `160` and `320`; by default made ones.")
@click.option("--price", type=click.FloatRange(0), help="Price of an hour of this machine.")
def main(
    minutes: float,
    output: Path | None,
    workers: int | None,
    data_dir: Path | None,
    price: float | None,
) -> None:
    """Measures this machine, and prints a table, the best setting and times of the presets."""
    began = time.monotonic()
    gpus = gpus_here()
    plan = replace(Plan() if gpus else MINIATURE, workers=workers or len(gpus) or 1)
    if gpus and plan.workers > len(gpus):
        raise UserError(f"--workers {workers}: this machine has {len(gpus)} GPU(s)")
    folder = Folder(output or Path("runs") / f"device-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.path.exists() and any(folder.path.iterdir()):
        raise UserError(f"--output {folder.path}: holds something already; name a new folder")
    folder.path.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    name = hardware(gpus, plan)
    folder.add(
        "machine",
        hardware=name,
        gpus=gpus,
        cores=len(os.sched_getaffinity(0)),
        packages=versions(PACKAGES),
        arguments=sys.argv[1:],
        started=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )
    console.print(f"{name}; {plan.workers} worker(s); at most {minutes:g} minutes", markup=False)
    if not gpus:
        console.print(
            "No GPU was found: this is a miniature, to see that everything works. Its figures say "
            "nothing of a GPU."
        )
    for gpu in gpus:
        console.print(f"  {gpu}", markup=False)
    console.print(f"what was measured so far is in {folder.path}", markup=False)

    problem = None
    with (
        tempfile.TemporaryDirectory() as scratch,
        Progress(console, began, minutes) as progress,
    ):
        asked = {"data_dir": str(data_dir.resolve()) if data_dir else None, "scratch": scratch}
        deadline = began + 60 * minutes - REPORT_SECONDS
        measuring = Measuring(folder, plan, deadline, worker_command, progress, asked)
        try:
            measuring.run()
        except RunError as error:
            problem = str(error)
        except KeyboardInterrupt:
            problem = "interrupted"
        finally:
            measuring.end()
    works = show(folder, plan, price, console)
    if problem or not works:
        raise RunError(problem or "no step could be measured; the table says why")


def show(folder: Folder, plan: Plan, price: float | None, console: Console) -> bool:
    """Prints what was measured and keeps it beside the rows; whether there are rates."""
    rows = read_rows(folder.rows)
    results = Results(plan, rows)
    machine = rows[0]
    found = report.rates(results, machine["hardware"], machine["packages"])
    with (folder.path / "report.txt").open("w", encoding="utf-8") as file:
        for target in (console, Console(file=file, width=160)):
            target.print(report.table(results))
            for line in (report.best_words(results), *report.left_out(plan, results)):
                target.print(line, markup=False, highlight=False, soft_wrap=True)
            if found:
                target.print(report.projections(found, price))
                target.print(
                    "These times are projections from the rates above: a run waits where its "
                    f"input is slower.\nThe rates are in {folder.rates}, for `python recipe.py "
                    f"plan --recipe NAME --workers {found['workers']} --throughput "
                    f"{folder.rates}`.",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    return found is not None


if __name__ == "__main__":
    try:
        main()
    except (UserError, RunError) as error:
        sys.exit(f"device.py: error: {error}")
