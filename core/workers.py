"""The team of workers, what they exchange, and the one place that imports Horovod.

A process without Horovod, or that Horovod did not launch, is the only worker. Each
function works there too, so that callbacks and optimizers work anywhere.
"""

import functools
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from core.environment import has_gpu_driver
from core.errors import OtherWorkerEnded, RunError, SharedUserError, UserError

T = TypeVar("T")

LAUNCHED_RANK = "HOROVOD_RANK"  # horovodrun sets it for each process that it launches
LAUNCHED_SIZE = "HOROVOD_SIZE"
# How many cores are this worker's own, if that is known: `launch/rendezvous.py` sets it.
OWN_CORES = "RECIPE_OWN_CORES"

# Horovod warns when the others have waited this long for a worker. After its default, 60,
# a run that hangs has already been ended.
STALL_WARNING_SECONDS = "30"

# Workers that wait together for one of them meet this often: before Horovod warns, and before
# a supervisor takes the wait for a hang.
MEET_EVERY_SECONDS = 5.0

# Horovod's thread asks the other workers for news each cycle, of 1 ms by default. On a CPU
# that trains, it takes a sixth of the cores: 2 workers on 2 cores trained 895 images/s with
# 1 ms and 1,170 with 20 ms.
CPU_CYCLE_TIME = "20"

# Elements of the tensors that `check_all_reduce` averages in one buffer.
CHECKED_SIZES = (1, 255, 1025)
GPU_ADVICE = (
    "look with nvidia-smi whether the driver is 580 or newer; for an older driver or GPU, compile "
    "Horovod with CUDA 12: make clean, then HOROVOD_CUDA_HOME=/path/to/cuda-12 make setup. "
    "NCCL_DEBUG=INFO shows what NCCL does"
)


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers."""

    rank: int = 0  # the number of this worker, from 0
    size: int = 1  # the number of workers
    local_rank: int = 0  # the same among the workers of this host
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """True on rank 0, the worker that writes and prints for all."""
        return self.rank == 0


def launched_size() -> int:
    """Number of workers that a launcher started together; 1 without one."""
    return max(int(os.environ.get(name, "1")) for name in (LAUNCHED_SIZE, "OMPI_COMM_WORLD_SIZE"))


def launched_rank() -> int:
    """The rank that the launcher gave this process; 0 without one, and under mpirun."""
    return int(os.environ.get(LAUNCHED_RANK, "0"))


def join() -> Workers:
    """Starts Horovod and prepares this worker's devices, if several workers were launched.

    On GPUs, it checks that they exchange numbers correctly.

    Raises:
        UserError: no Horovod, or one that does not find the other workers: each worker
            would train a model alone; GPUs on some workers only; or a host whose name stands
            for no address.
        RunError: GPUs that do not average correctly.
    """
    if launched_size() > 1:
        launched = f"{launched_size()} workers were launched, but Horovod"
        try:
            import horovod.tensorflow as hvd
        except ImportError as error:
            message = f"{launched} does not import here ({error}); `make setup` builds it"
            raise UserError(message) from None
        if not has_gpu_driver():
            os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_TIME)
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", STALL_WARNING_SECONDS)
        # Copies on a GPU by CUDA itself, which reports errors; Horovod does not ask whether its
        # own kernel for them ran. With a driver that is too old it would not.
        os.environ.setdefault("HOROVOD_BATCH_D2D_MEMCOPIES", "0")
        if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in os.environ:
            from core.network.own_name import check_own_name, spans_hosts

            check_own_name(spans_hosts(os.environ))
        hvd.init()
        if hvd.size() != launched_size():
            raise UserError(
                f"{launched} finds {hvd.size()}; use horovodrun, or build Horovod with "
                "HOROVOD_WITH_MPI=1 to launch with mpirun"
            )
        # The first collective starts TensorFlow, and then it is too late for this.
        from core.devices import prepare_devices
        from core.network.links import links

        prepare_devices(team := current())
        links.place(team.rank, team.local_rank, gather(links.watch()))
        check_gpus()
    return current()


def _horovod(process_set: Any = None) -> Any:
    """Horovod's module; None for the only worker, and for one that is not in `process_set`."""
    # A process that never imported Horovod does not pay for the import.
    hvd = sys.modules.get("horovod.tensorflow")
    if hvd is None or not hvd.is_initialized() or hvd.size() == 1:
        return None
    return hvd if process_set is None or process_set.included() else None


def current() -> Workers:
    """This process's place among the workers. Starts nothing."""
    if (hvd := _horovod()) is None:
        return Workers()
    return Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())


def gather(value: Any) -> list[Any]:
    """Every worker's `value`, by rank; a collective, in the main thread."""
    if _horovod() is None:
        return [value]
    # It travels as JSON, so that no worker can run code on another.
    return [json.loads(data) for data in gather_bytes(json.dumps(value).encode())]


def gather_bytes(data: bytes) -> list[bytes]:
    """Every worker's `data`, by rank; a collective, in the main thread."""
    if (hvd := _horovod()) is None:
        return [data]
    import tensorflow as tf

    own = np.frombuffer(data, dtype=np.uint8)
    with tf.device("CPU:0"):  # so the workers can still talk when the way over the GPUs fails
        sizes = hvd.allgather(np.array([own.size], np.int64), name="gather_sizes").numpy()
        joined = hvd.allgather(own, name="gather_data").numpy()
    return [part.tobytes() for part in np.split(joined, np.cumsum(sizes)[:-1])]


def gather_beside(numbers: Sequence[float]) -> list[list[float]]:
    """Every worker's `numbers`, by rank; a collective in one thread beside the training."""
    if _horovod() is None:
        return [list(numbers)]
    return _gather_beside()(np.array([numbers], np.float64)).numpy().tolist()


@functools.cache
def _gather_beside() -> Any:
    """A graph that gathers rows of float64.

    Horovod matches the workers' requests by name, and refuses two of the same name at a
    time. An eager op loses its name: everything that the main thread gathers is called
    `HorovodAllgather`. In a graph, the op keeps its name.
    """
    import tensorflow as tf

    hvd = _horovod()

    @tf.function(input_signature=[tf.TensorSpec([1, None], tf.float64)], autograph=False)
    def gather_rows(own: Any) -> Any:
        with tf.device("CPU:0"):  # the rows are there; nobody waits for the device
            return hvd.allgather(own, name="gather_beside", ignore_name_scope=True)

    return gather_rows


def gather_arrays(arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Every worker's arrays, by rank, bfloat16 (which NumPy lacks) as float32; a collective."""
    own = [a.astype(np.float32) if a.dtype.kind == "V" else a for a in arrays]
    if _horovod() is None:
        return [own]
    packed = io.BytesIO()
    np.savez(packed, *own)
    gathered = []
    for data in gather_bytes(packed.getvalue()):
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            gathered.append([loaded[name] for name in loaded.files])
    return gathered


def from_first(value: Any) -> Any:
    """Rank 0's `value` on every worker; a collective."""
    return gather(value)[0]


def gather_in_time(look: Callable[[float], Any], sign: Callable[[], Any]) -> list[Any]:
    """Every worker's answer, by rank, once all have one; a collective, in the main thread.

    All meet every few seconds, so that none waits long without a sign of life.

    Args:
        look: waits at most that many seconds for this worker's answer; None if there is none.
        sign: called on every worker each time that an answer is missing.
    """
    seconds = 0.0
    while None in (found := gather(look(seconds))):
        sign()
        seconds = MEET_EVERY_SECONDS
    return found


def by_first(action: Callable[[], Any]) -> Any:
    """What `action` returns on rank 0, as JSON, on every worker; a collective, in the main thread.

    The others wait for as long as it takes. All meet every few seconds, so that the wait does
    not look like a hang; where there are others, `action` runs in a thread.

    Raises:
        SharedUserError: on every worker, what `action` raised as a `UserError`.
        RunError: the same, as a `RunError` or an `OSError`.
    """
    team = current()
    if team.size == 1:
        return action()
    answer: Future = Future()

    def act() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:
            answer.set_exception(error)

    def look(seconds: float) -> dict[str, Any] | None:
        if not team.is_first:
            return {}
        try:
            return {"result": answer.result(seconds)}
        except (UserError, RunError) as error:
            return {"error": str(error), "user": isinstance(error, UserError)}
        except OSError as error:  # a `TimeoutError`, too
            where = f"'{error.filename}': " if error.filename else ""
            text = f"{where}{error.strerror or error}"
            return {"error": text, "user": False} if answer.done() else None

    if team.is_first:
        threading.Thread(target=act, daemon=True).start()
    found, *_ = gather_in_time(look, lambda: None)
    if "error" in found:
        raise (SharedUserError if found["user"] else RunError)(found["error"])
    return found["result"]


def together(action: Callable[[], T]) -> T:
    """Runs `action` on every worker; fails on all of them if it fails on one.

    Without it, the workers that succeed would wait for the others in their next collective.

    Raises:
        SharedUserError: it names the workers that failed, unless all failed alike.
    """
    result, problem = None, None
    try:
        result = action()
    except UserError as error:
        problem = str(error)
    problems = gather(problem)
    if not any(problems):
        return result  # type: ignore[return-value]
    if len(set(problems)) == 1:
        raise SharedUserError(problems[0])
    ranks: dict[str, list[str]] = {}
    for rank, text in enumerate(problems):
        if text:
            ranks.setdefault(text, []).append(str(rank))
    lines = [f"worker {', '.join(failed)}: {text}" for text, failed in ranks.items()]
    raise SharedUserError("\n".join(lines))


def check_gpus() -> None:
    """Checks, where workers have GPUs, that all have one and that they average; a collective.

    Raises:
        SharedUserError: some workers have a GPU and others none.
        UserError, RunError, OtherWorkerEnded: as `check_all_reduce`.
    """
    import tensorflow as tf

    counts = gather(len(tf.config.get_visible_devices("GPU")))
    without = [str(rank) for rank, count in enumerate(counts) if not count]
    if not without:
        check_all_reduce()
    elif len(without) < len(counts):
        raise SharedUserError(
            f"worker {', '.join(without)}: no GPU was found, but other workers have one; run "
            "nvidia-smi on that host, or set CUDA_VISIBLE_DEVICES= everywhere to train on CPUs"
        )


def check_all_reduce() -> None:
    """Averages known values over the workers, as training averages gradients; a collective.

    A fused group in float32, and one in float16. Horovod does not look at the errors of its own
    CUDA kernels. If they do not run, because the driver is too old for them or because they were
    not compiled for this GPU, training gets wrong gradients and no error.

    Raises:
        RunError: a worker got wrong means; on every worker.
        UserError: the all-reduce itself failed; on this worker.
        OtherWorkerEnded: another worker has ended.
    """
    if (hvd := _horovod()) is None:
        return
    found = [_wrong_mean(hvd, dtype) for dtype in ("float32", "float16")]
    wrong = {r: text for r, text in enumerate(gather("; ".join(filter(None, found)))) if text}
    if wrong:
        rank, text = next(iter(wrong.items()))
        raise RunError(
            f"the all-reduce gives wrong numbers on worker {', '.join(map(str, wrong))} "
            f"(worker {rank}, {text}); {GPU_ADVICE}"
        )


def _wrong_mean(hvd: Any, dtype: str) -> str | None:
    """Averages the known values in a dtype; the first wrong mean in words, or None."""
    import tensorflow as tf

    team = current()
    own = [tf.constant(values, dtype) for values in _known_values(team.rank)]
    try:
        found = hvd.grouped_allreduce(own, op=hvd.Average, name=f"known_values_{dtype}")
        averages = np.concatenate([average.numpy() for average in found])
    except tf.errors.OpError as error:
        if "Horovod has been shut down" in error.message:
            raise OtherWorkerEnded(error.message) from None
        reason = error.message.splitlines()[0]
        raise UserError(f"the first all-reduce failed: {reason}; {GPU_ADVICE}") from None
    means = np.mean([np.concatenate(_known_values(rank)) for rank in range(team.size)], axis=0)
    # All are positive: each addition and the division round by half an epsilon at most. This
    # allows twice as much.
    tolerance = (team.size + 2) * float(np.finfo(dtype).eps) * means
    wrong = np.flatnonzero(~(np.abs(averages - means) <= tolerance))  # with those that are NaN
    if not wrong.size:
        return None
    first = wrong[0]
    return f"{dtype}: {averages[first]:g} for a mean of {means[first]:g}"


def _known_values(rank: int) -> list[np.ndarray]:
    """A worker's part of the check, float64: whole numbers from 1 to 21, which float16 holds.

    Neighbours differ, and so do a worker and the next.
    """
    ramp = 1.0 + np.arange(sum(CHECKED_SIZES)) % 7
    return np.split((1 + rank % 3) * ramp, np.cumsum(CHECKED_SIZES)[:-1])


def means(variables: Sequence[Any]) -> list[np.ndarray]:
    """The mean of each Keras variable over the workers; a collective."""
    if (hvd := _horovod()) is None or not variables:
        return [variable.numpy() for variable in variables]
    found = hvd.grouped_allreduce([v.value for v in variables], op=hvd.Average, name="means")
    return [mean.numpy() for mean in found]


def broadcast_variables(variables: Sequence[Any], root: int = 0) -> None:
    """Sets each Keras variable to its value on worker `root`; a collective."""
    if hvd := _horovod():
        # Not the states of Keras's random seeds, which are uint32: Horovod cannot send them,
        # and they should differ between workers.
        sent = [v.value for v in variables if v.dtype != "uint32"]
        hvd.broadcast_variables(sent, root_rank=root)


def allreduce_gradients(
    gradients: Sequence[Any],
    *,
    compression: str = "none",
    sparse_as_dense: bool = False,
    process_set: Any = None,
) -> list[Any]:
    """Mean of each gradient over the workers, in one group; usable in a graph.

    Args:
        gradients: dense tensors or `tf.IndexedSlices`, the same on every worker.
        compression: `"fp16"` sends floating-point gradients as float16.
        sparse_as_dense: turn `IndexedSlices` into dense tensors before sending.
        process_set: a `horovod.tensorflow.ProcessSet`; all workers by default.
    """
    if (hvd := _horovod(process_set)) is None:
        return list(gradients)
    import tensorflow as tf

    process_set = process_set or hvd.global_process_set
    # Names of our own: Horovod takes its default from the tensors' names, which differ
    # between workers as soon as one of them has built another model before.
    shared = {"process_set": process_set, "ignore_name_scope": True}
    reduced = list(gradients)
    dense: dict[int, Any] = {}
    for i, g in enumerate(gradients):
        if isinstance(g, tf.IndexedSlices) and not sparse_as_dense:
            # Apart from the dense ones: Horovod 0.28 mixes up their shapes in one call.
            values = g.values / tf.cast(process_set.size(), g.values.dtype)
            values = hvd.allgather(values, name=f"gradient_{i}_values", **shared)
            indices = hvd.allgather(g.indices, name=f"gradient_{i}_indices", **shared)
            reduced[i] = tf.IndexedSlices(values, indices, dense_shape=g.dense_shape)
        else:
            dense[i] = tf.convert_to_tensor(g)
    kind = hvd.Compression.fp16 if compression == "fp16" else hvd.Compression.none
    means = hvd.grouped_allreduce(
        list(dense.values()), compression=kind, op=hvd.Average, name="gradients", **shared
    )
    for i, mean in zip(dense, means, strict=True):
        reduced[i] = mean
    return reduced


def all_true(flag: Any, process_set: Any = None) -> Any:
    """Whether the boolean tensor `flag` is true on every worker; usable in a graph."""
    if (hvd := _horovod(process_set)) is None:
        return flag
    import tensorflow as tf

    shared = {"process_set": process_set or hvd.global_process_set, "ignore_name_scope": True}
    number = tf.cast(flag, tf.int32)
    (least,) = hvd.grouped_allreduce([number], op=hvd.Min, name="all_true", **shared)
    return tf.cast(least, tf.bool)
