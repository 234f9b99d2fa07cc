"""A worker of `device.py`: measures cell by cell, with a row in a file before and after each.

`device.py` starts it, alone or under horovodrun, with one JSON object. All workers measure the
same cell; rank 0 chooses it and writes its rows. A worker that fails writes why, and ends: the
others would wait for it, and after an error TensorFlow may not give back its memory.
"""

import gc
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from core import environment

os.environ.update(environment.settings())

import keras
import numpy as np
import tensorflow as tf

from benchmarks.on_device.faults import in_a_line, is_about_memory
from benchmarks.on_device.photographs import stored_for, write_records
from benchmarks.on_device.plan import ERROR, MEMORY, MODES, Cell, Plan, next_cell
from benchmarks.on_device.rows import add_row, read_rows
from benchmarks.step_overhead import overhead
from benchmarks.throughput import measure, seconds_to_save
from core import devices, workers
from core.errors import OtherWorkerEnded, RunError, UserError
from core.settings import Augmentation
from core.workers import Workers
from datasets.input.pipeline import ReadPlan, training_pipeline
from datasets.records.manifest import shard_files
from datasets.records.schema import Records
from datasets.records.survey import detect_keys
from training import model
from training.recipes import Recipe, load_recipe

RECIPE = "imagenet104"  # its loss, decay and optimizer
MOST_STEPS, REPEATS = 100, 3
MESSAGES = [1 << power for power in (12, 16, 20, 24, 26, 28)]  # bytes of an all-reduce
REDUCTIONS = 10  # in one timing


@dataclass(frozen=True)
class Job:
    """What this worker was started for."""

    plan: Plan
    rows: Path
    deadline: float  # of `time.monotonic()`, which all processes of a machine share
    started: float  # when `device.py` started the workers
    data_dir: Path | None  # records for the input pipeline; by default they are made
    scratch: Path
    team: Workers
    threads: int

    def write(self, row: str, **values: Any) -> None:
        add_row(self.rows, {"row": row, "workers": self.team.size, **values})


def recipe_of(plan: Plan, cell: Cell) -> Recipe:
    """The recipe of a cell's model, policy and mode."""
    settings = load_recipe(RECIPE).model_dump(mode="json")
    settings |= {"model": plan.model, "model_arguments": dict(plan.model_arguments)}
    return Recipe.model_validate({**settings, "policy": cell.policy, **MODES[cell.mode]})


def start_with(policy: str) -> None:
    """Has the next model compute by a policy, and begin with the same weights as all others."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)


def compiled(plan: Plan, cell: Cell) -> tuple[keras.Model, Recipe]:
    """A new model, compiled as a run of the recipe compiles it, the same on all workers."""
    recipe = recipe_of(plan, cell)
    start_with(cell.policy)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, cell.policy)
    workers.broadcast_variables([*net.variables, *net.optimizer.variables])
    return net, recipe


def check(job: Job, cell: Cell) -> dict[str, Any]:
    """Whether known values add up over the workers; raises where they do not."""
    workers.check_all_reduce()
    return {}


def all_reduce(job: Job, cell: Cell) -> dict[str, Any]:
    """Seconds of an all-reduce by its bytes, and of the model's gradients as a run sends them."""
    sizes = [size for size in MESSAGES if size <= job.plan.largest_message]
    net, _ = compiled(job.plan, Cell("step", 0, 0, "float32", "plain"))
    gradients = [tf.ones(variable.shape) for variable in net.trainable_variables]
    return {
        "sizes": [[size, seconds_to_reduce([tf.ones(size // 4)])] for size in sizes],
        "gradient_bytes": sum(4 * math.prod(g.shape) for g in gradients),
        "gradients": seconds_to_reduce(gradients),
        "gradients_fp16": seconds_to_reduce(gradients, "fp16"),
    }


def seconds_to_reduce(tensors: Sequence[Any], compression: str = "none") -> float:
    """Seconds of an all-reduce of float32 tensors in one group; the median of the repeats."""

    @tf.function(autograph=False)
    def reduced() -> Any:
        means = workers.allreduce_gradients(tensors, compression=compression)
        # One number of each, so that reading it waits for all of them and copies none.
        return tf.add_n([tf.reshape(mean, [-1])[0] for mean in means])

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            last = reduced()
        last.numpy()
        return (time.perf_counter() - began) / count

    run(2)
    return float(np.median([run(REDUCTIONS) for _ in range(REPEATS)]))


def step(job: Job, cell: Cell) -> dict[str, Any]:
    """Images a second of training on one batch, with the all-reduce and the copy to the device."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        tf.config.experimental.reset_memory_stats("GPU:0")
    net, recipe = compiled(job.plan, cell)
    options = {"steps": MOST_STEPS, "repeats": REPEATS, "seconds": job.plan.seconds}
    first, seconds = measure(net, cell.size, cell.batch, recipe.classes, **options)
    # The rate is 0, so each step computes the loss of the initial weights.
    loss = float(net.get_metrics_result()["cross_entropy"])
    if not math.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss}")
    found = {
        "images_per_second": cell.batch * job.team.size / seconds,
        "step": seconds,
        "first": first,
        "loss": loss,
        "checkpoint": seconds_to_save(net) if job.team.is_first else 0.0,
    }
    if gpus:
        found["gib"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    return found


def input_rate(job: Job, cell: Cell) -> dict[str, Any]:
    """Images a second of the workers' input pipelines, which run side by side on all cores."""

    def make() -> str:
        root = job.scratch / "records"
        if not root.exists():
            write_records(root, job.plan.photographs)
        return str(root)

    root = job.data_dir or Path(workers.by_first(make))
    files = shard_files(root, str(stored_for(cell.size)), "train")
    # Labels do not matter here, and of a user's records the number of classes is not known.
    records = Records(tuple(files), 0, label_offset=0, keys=detect_keys(files[0]))
    endless = range(10**6)
    seed = job.team.rank
    reading = ReadPlan(cell.batch, len(endless), seed, shuffle_buffer=256, threads=job.threads)
    batches = iter(
        training_pipeline(
            records,
            reading,
            endless,
            image_size=(cell.size, cell.size),
            classes=10**6,
            augmentation=Augmentation(),
        )
    )
    for _ in range(job.threads + 4):  # as many may lie ready when the timing begins
        next(batches)
    workers.gather(None)
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < 3 * job.plan.seconds:
        images += len(next(batches)[1])
    rates = workers.gather(images / (time.perf_counter() - began))
    cores = job.threads * job.team.local_size
    return {"images_per_second": sum(rates), "cores": cores, "made": job.data_dir is None}


def loop(job: Job, cell: Cell) -> dict[str, Any]:
    """Milliseconds that all callbacks of a run add to a step of a small model."""
    start_with("float32")
    found = overhead(*job.plan.loop_blocks, batch_size=job.plan.batch)
    return {"added": float(np.median(found.added)), "report_every": job.plan.loop_blocks[1]}


MEASURES: dict[str, Callable[[Job, Cell], dict[str, Any]]] = {
    "check": check,
    "all_reduce": all_reduce,
    "step": step,
    "input": input_rate,
    "loop": loop,
}


def run(job: Job, cell: Cell) -> None:
    """Measures a cell and writes its rows; where it fails, the process ends."""
    named = {"cell": asdict(cell)}
    if job.team.is_first:
        job.write("begin", **named)
    began = time.monotonic()
    try:
        found = MEASURES[cell.what](job, cell)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        text, seconds = in_a_line(error), time.monotonic() - began
        reason = MEMORY if is_about_memory(f"{type(error).__name__}: {error}") else ERROR
        job.write("failed", **named, reason=reason, text=text, seconds=seconds)
        os._exit(1)  # at once: Horovod would wait for the others, and they for this one
    # Models hold their train functions, which hold them.
    keras.backend.clear_session()
    gc.collect()
    if job.team.is_first:
        job.write("done", **named, found=found, seconds=time.monotonic() - began)


def main() -> None:
    """Measures what is worth most, until nothing is left that fits into the time."""
    asked = json.loads(sys.argv[1])
    try:
        team = workers.join()
    except (UserError, RunError, OtherWorkerEnded) as error:  # GPUs that do not add up rightly, too
        row = {"row": "failed", "cell": asdict(Cell("check")), "workers": workers.launched_size()}
        add_row(Path(asked["rows"]), {**row, "reason": ERROR, "text": str(error), "seconds": 0.0})
        os._exit(1)  # at once: the others may wait for this one
    threads = devices.prepare_devices(team)
    data_dir = Path(asked["data_dir"]) if asked["data_dir"] else None
    paths = {"rows": Path(asked["rows"]), "scratch": Path(asked["scratch"]), "data_dir": data_dir}
    times = {"deadline": asked["deadline"], "started": asked["started"]}
    job = Job(Plan(**asked["plan"]), **paths, **times, team=team, threads=threads)
    gpus = tf.config.list_logical_devices("GPU")
    if job.plan.needs_gpu and not gpus:
        sys.exit(
            "error: TensorFlow finds no GPU, though the machine has one: is it a build with CUDA? "
            "`make setup DEVICE=gpu` installs one"
        )
    if team.is_first:
        job.write("ready", seconds=time.monotonic() - job.started)

    def choose() -> dict[str, Any] | None:
        if not team.is_first:
            return None
        left = job.deadline - time.monotonic()
        cell = next_cell(job.plan, read_rows(job.rows), left, has_started=True)
        return asdict(cell) if cell else None

    while chosen := workers.from_first(choose()):
        run(job, Cell(**chosen))


if __name__ == "__main__":
    main()
