"""A drill: a small real run is damaged at random moments and has to recover each time.

    python benchmarks/chaos.py --faults 50 --seed 0

Runs of two workers under horovodrun, as `launch` starts it, meet one fault after the
other. `--resume` follows each fault, unless the run has to survive it. At the end, the
weights and optimizer state of their last checkpoints are compared bit by bit with those of
an undisturbed run. `--first 11` starts with fault number 11 of the same seed, so that a
drill can be done in parts; `--out` collects the rows of the parts.

The disk that fills is a tmpfs of a few megabytes, mounted for the drill. Mounting needs
root; without it, the faults of that kind are left out.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import h5py
import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from core.checkpoints import BadCheckpoint, check, read_state
from datasets.build.digits import prepare_digits
from launch.command_line import horovodrun
from launch.launcher import below, that_work
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
EVERY = 10  # steps between checkpoints
DISK = "8m"
PATIENCE = 600.0  # seconds; whatever should happen takes less, even on a busy machine
SMALL = {"data_dir": "20", "image_size": [20, 20], "batch_size": 20}
LARGE = {"data_dir": "28", "image_size": [28, 28], "batch_size": 25}
STRATEGY = [
    {"epoch": [0, 0.3], "lr": [0.02, 0.1], "lr_method": "linear", **SMALL},
    {"epoch": [0.3, 0.6], "lr": [0.1, 0.02], "lr_method": "exp", "freeze": ["stage1_*"], **SMALL},
    {"epoch": [0.6, 0.9], "lr": [0.02, 0.01], "lr_method": "linear", **LARGE},
]
STEPS = 30 + 30 + 24  # 100 steps an epoch at 20 px, 80 at 28


@dataclass
class Row:
    """What a fault did.

    Attributes:
        at: the last step whose row was in train.csv.
        ended: seconds from the fault until no process of the run was left.
        status: of the launcher; None if the run survived the fault.
        resumed: the step from which the run resumed.
        lost: steps that were done again.
        recovered: seconds to the first new step, from the start of `--resume` or, if the
            run survived the fault, from the fault's end.
        equal: whether the final state of its run is bit-identical to that of the
            undisturbed run.
        message: what the run said about the fault.
    """

    number: int
    run: int
    fault: str
    at: int
    ended: float | None = None
    status: int | None = None
    resumed: int | None = None
    lost: int = 0
    recovered: float = 0.0
    equal: bool | None = None
    message: str = ""


def runs(process: psutil.Process) -> bool:
    """Whether it runs. A process that has ended, but is not waited for yet, does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Job:
    """The small run under horovodrun, and access to its processes."""

    def __init__(self, folder: Path, data: Path, recipe: Path):
        self.run = RunFolder(folder)
        self.data = data
        self.recipe = recipe
        self.said_before = ""  # by what was started before
        self._process: subprocess.Popen[bytes] | None = None
        self._known: list[psutil.Process] = []

    def start(self, resume: bool, workers: int = 2, restarts: int = 0) -> None:
        """Starts the workers; with `restarts`, by `recipe.py launch` and from another folder."""
        command = [*horovodrun(workers), sys.executable, ROOT / "recipe.py"]
        if restarts:
            command = [sys.executable, ROOT / "recipe.py", "launch", "-np", workers]
            command += ["--restarts", restarts]
        command += ["--recipe", self.recipe, "--data_dir", self.data, "--run_dir", self.run.path]
        self.said_before += self.said() if self._process else ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*map(str, command), *(["--resume"] if resume else [])],
            cwd=self.run.path.parent if restarts else ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def launcher(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """The launcher and its descendants, also those that have lost their parent."""
        self._known = list({*self._known, *below(self.launcher)})
        return [p for p in self._known if runs(p)]

    def workers(self) -> list[int]:
        """The processes that train."""
        return that_work(self.processes(), str(self.run.path))

    def step(self) -> int:
        """The last step that is in the log."""
        rows = self.run.train_rows()
        return rows[-1]["step"] if rows else 0

    def step_seconds(self) -> float:
        """How long a step takes at present."""
        rows = self.run.train_rows()[-2:]
        return (rows[-1]["seconds"] - rows[0]["seconds"]) / max(1, len(rows) - 1) if rows else 0.0

    def ended(self) -> int | None:
        """The launcher's status once all processes have ended, else None."""
        assert self._process is not None
        status = self._process.poll()
        return status if status is not None and not self.processes() else None

    def wait(self, until: Callable[[], bool], what: str) -> float:
        """Waits until a condition holds, and returns the seconds."""
        began = time.monotonic()
        while not until():
            self.processes()
            if time.monotonic() - began > PATIENCE:
                self.kill()
                raise click.ClickException(f"not within {PATIENCE:g} s: {what}\n{self.said()}")
            time.sleep(0.1)  # looking through all processes takes 10 ms
        return time.monotonic() - began

    def finish(self) -> None:
        """Waits for the end of the run, which has to be a good one."""
        self.wait(lambda: self.ended() is not None, "the run's end")
        if self.ended():
            raise click.ClickException(f"the run failed at its end:\n{self.said()}")

    def kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def message(self) -> str:
        """Our own lines of the output, each with the command below it."""
        lines = re.sub(r"^\[\d+\] ", "", self.said(), flags=re.MULTILINE).splitlines()
        ours = [i for i, line in enumerate(lines) if "recipe.py: " in line]
        return "\n".join("\n".join(lines[i : i + 2]) for i in ours)

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def final_state(run: RunFolder) -> str:
    """Digest of weights and optimizer state in the last checkpoint of a run."""
    total = hashlib.sha256()

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            total.update(name.encode() + np.asarray(item).tobytes())

    with zipfile.ZipFile(run.checkpoint(STEPS)) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r") as file:
        file.visititems(add)
    return total.hexdigest()


def newest_good(run: RunFolder) -> int:
    for path in run.checkpoint_files():
        with contextlib.suppress(BadCheckpoint):
            check(path)
            return read_state(path)["step"]
    return 0


class FaultInjector:
    """The faults; each method does one, and returns whether the run has to end from it."""

    def __init__(self, chance: random.Random):
        self.chance = chance

    def kill_one_worker(self, job: Job) -> bool:
        os.kill(self.chance.choice(job.workers()), signal.SIGKILL)
        return True

    def kill_all(self, job: Job) -> bool:
        job.kill()
        return True

    def kill_the_launcher(self, job: Job) -> bool:
        os.kill(job.launcher, signal.SIGKILL)
        return True

    def sigterm_to_a_worker(self, job: Job) -> bool:
        os.kill(self.chance.choice(job.workers()), signal.SIGTERM)
        return True

    def ctrl_c(self, job: Job) -> bool:
        os.kill(job.launcher, signal.SIGINT)
        return True

    def sigstop_for_a_while(self, job: Job) -> bool:
        worker = self.chance.choice(job.workers())
        os.kill(worker, signal.SIGSTOP)
        time.sleep(self.chance.uniform(1, 6))
        os.kill(worker, signal.SIGCONT)
        return False

    def disk_full(self, job: Job) -> bool:
        _fill(job.run.path.parent)
        time.sleep(self.chance.uniform(1, 5))
        (job.run.path.parent / "filler").unlink()
        return False

    def shard_deleted(self, job: Job) -> bool:
        """The worker that opens it next ends; if all have it open already, all are killed."""
        shard = self.chance.choice(sorted(job.data.glob("28/train-*")))
        shard.rename(shard.with_name("." + shard.name))
        began = time.monotonic()
        while job.ended() is None and time.monotonic() - began < 5:
            time.sleep(0.1)
        job.kill()
        return True

    def byte_flipped(self, job: Job) -> bool:
        job.kill()
        newest = job.run.checkpoint_files()
        if newest:
            data = bytearray(newest[0].read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            newest[0].write_bytes(data)
        return True

    def repair(self, job: Job) -> None:
        """Restores what a user would have to restore."""
        for shard in job.data.glob("28/.train-*"):
            shard.rename(shard.with_name(shard.name.removeprefix(".")))


def _fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(2**16)):
            pass


KINDS = (
    "kill_one_worker",
    "kill_all",
    "sigterm_to_a_worker",
    "ctrl_c",
    "sigstop_for_a_while",
    "disk_full",
    "shard_deleted",
    "byte_flipped",
    "kill_the_launcher",
)
FAULTS_A_RUN = 5


def plan(seed: int, faults: int, kinds: Sequence[str]) -> list[tuple[str, int, int]]:
    """For each fault: its kind, the step at which it happens, and a seed of its own."""
    chance = random.Random(seed)
    order = [kind for _ in range(-(-faults // len(kinds))) for kind in kinds][:faults]
    chance.shuffle(order)
    planned = []
    for begin in range(0, faults, FAULTS_A_RUN):
        part = order[begin : begin + FAULTS_A_RUN]
        moments = sorted(chance.sample(range(1, STEPS - 5), len(part)))
        planned += [
            (kind, at, chance.randrange(2**31)) for kind, at in zip(part, moments, strict=True)
        ]
    return planned


def strike(job: Job, number: int, kind: str, at: int, seed: int) -> Row:
    """Waits for the moment, does the damage, and lets the run recover."""
    faults = FaultInjector(random.Random(seed))
    job.wait(lambda: job.step() >= at or job.ended() is not None, f"step {at}")
    time.sleep(faults.chance.uniform(0, job.step_seconds()))  # not always at the end of a step
    row = Row(number, (number - 1) // FAULTS_A_RUN + 1, kind.replace("_", " "), job.step())
    if job.ended() is not None:
        raise click.ClickException(f"the run ended before fault {number}:\n{job.said()}")
    ends = getattr(faults, kind)(job)
    began = time.monotonic()
    if not ends:
        reached = job.step()
        row.recovered = job.wait(
            lambda: job.step() > reached or job.ended() is not None, "another step"
        )
        row.resumed = reached
        return row
    row.ended = job.wait(lambda: job.ended() is not None, "the end of all processes")
    row.status, row.message = job.ended(), job.message()
    faults.repair(job)
    row.at = max(row.at, job.step())
    row.resumed = newest_good(job.run)
    row.lost = max(0, row.at - row.resumed)
    began = time.monotonic()
    job.start(resume=True)
    target = row.resumed
    job.wait(
        lambda: f"resuming after step {target}" in job.said() or job.ended() is not None,
        f"'resuming after step {target}'",
    )
    job.wait(lambda: job.step() > target or job.ended() is not None, "a new step")
    row.recovered = time.monotonic() - began
    return row


@click.command()
@click.option("--faults", default=50, show_default=True)
@click.option("--first", default=1, show_default=True, help="Number of the first fault to do.")
@click.option("--last", type=int, help="Number of the last fault to do; by default all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--kinds", default=",".join(KINDS), help="Which faults; by default all kinds.")
@click.option("--out", type=Path, help="Rows as JSON lines; earlier parts are printed, too.")
def main(
    faults: int, first: int, last: int | None, seed: int, kinds: str, out: Path | None
) -> None:
    """Does the damage and prints the table."""
    if (first - 1) % FAULTS_A_RUN:
        raise click.UsageError(f"--first: a run has {FAULTS_A_RUN} faults; begin with its first")
    earlier = out.read_text().splitlines() if out and out.exists() else []
    rows = [Row(**json.loads(line)) for line in earlier]
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, _disk(Path(name) / "disk") as disk:
        data = prepare_digits(Path(name) / "data")
        recipe = small_recipe(Path(name) / "chaos.yaml")
        possible = [kind for kind in kinds.split(",") if disk or kind != "disk_full"]
        planned = plan(seed, faults, possible)
        last = last or len(planned)
        print(f"undisturbed run of {STEPS} steps", flush=True)
        whole = Job(Path(name) / "undisturbed", data, recipe)
        whole.start(resume=False)
        whole.finish()
        for begin in range(first - 1, last, FAULTS_A_RUN):
            folder = (disk or Path(name)) / f"run-{begin}"
            job = Job(folder, data, recipe)
            job.start(resume=False)
            found = []
            for number in range(begin, min(begin + FAULTS_A_RUN, last)):
                found.append(strike(job, number + 1, *planned[number]))
                print(_line(found[-1]), flush=True)
            job.finish()
            equal = same_end(job.run, whole.run)
            print(f"run {found[0].run}: {'equal' if equal else 'NOT EQUAL'}", flush=True)
            for row in found:
                row.equal = equal
            rows += found
            if out:
                out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
            shutil.rmtree(folder)
    if disk is None:
        print("no tmpfs could be mounted (that takes root): no disk was filled")
    show(rows)
    sys.exit(0 if all(row.equal for row in rows) else 1)


def same_end(run: RunFolder, whole: RunFolder) -> bool:
    """Whether the weights, the optimizer's state and train.csv are the same, but for the times."""

    def rows(folder: RunFolder) -> list[dict[str, float]]:
        timed = ("seconds", "images_per_second")
        return [{k: v for k, v in r.items() if k not in timed} for r in folder.train_rows()]

    return final_state(run) == final_state(whole) and rows(run) == rows(whole)


# All kinds of state that an optimizer may have, beside the demo's.
GROUPS = [
    {"variables": "conv.*/kernel", "name": "Muon", "rate": 0.1, "arguments": {"momentum": 0.6}},
    {"variables": "/beta$", "name": "Adam", "rate": 0.1},
]


def small_recipe(path: Path) -> Path:
    recipe = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text())
    recipe |= {
        "name": "chaos",
        "policy": "float32",
        "deterministic": True,
        "log_every": 1,
        "model_arguments": {"widths": [8, 16, 16], "initial_scale": 2.0},
        "optimizer": {"groups": GROUPS},
        "ema": 0.9,
        "checkpoint_every": EVERY,
        "keep_newest": 3,
        "training_strategy": STRATEGY,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


@contextlib.contextmanager
def _disk(folder: Path):
    """A small tmpfs; None if it cannot be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def _line(row: Row) -> str:
    return json.dumps(asdict(row))


def show(rows: list[Row]) -> None:
    """Prints the table of docs/fault_tolerance.md."""
    names = "no,run,fault,at step,all ended (s),resumed at,lost steps,recovered (s),equal"
    table = Table(*names.split(","), box=None)
    for row in rows:
        ended = "lived on" if row.ended is None else f"{row.ended:.1f}"
        cells = [row.number, row.run, row.fault, row.at, ended, row.resumed, row.lost]
        equal = "yes" if row.equal else "NO"
        table.add_row(*map(str, cells), f"{row.recovered:.1f}", equal)
    console = Console(width=110)
    console.print(table)
    recovered = sum(bool(row.equal) for row in rows)
    console.print(
        f"{len(rows)} faults, {recovered} recovered bit for bit; at most "
        f"{max(row.lost for row in rows)} steps lost with a checkpoint every {EVERY}"
    )


if __name__ == "__main__":
    main()
