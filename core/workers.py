"""The workers of a run, and the one place that imports Horovod.

Everything that crosses worker boundaries goes through here. Without Horovod, or in
a process that was not launched by it, there is one worker and each function does
the obvious thing, so that callbacks and optimizers work anywhere.
"""

import functools
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from core.errors import SharedUserError, UserError

T = TypeVar("T")

# Set by horovodrun, and by Open MPI's mpirun, for each process that they launch.
LAUNCHED_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE")
LAUNCHED_RANK = "HOROVOD_RANK"  # by horovodrun alone

# Horovod warns after so many seconds of a worker that the others wait for; by default
# after 60, when a run that hangs has been ended already.
STALL_WARNING_SECONDS = "30"

# Workers that wait for one of them together meet so often: before Horovod warns, and before
# a supervisor takes it for a hang.
MEET_EVERY_SECONDS = 5.0

# Horovod's thread asks the other workers for news each cycle, of 1 ms by default. Where
# the cores that it takes for this are those that train, that is a sixth of them: 2
# workers on 2 cores trained 1,170 images/s instead of 895 with 20 ms.
CPU_CYCLE_TIME = "20"
GPU_DRIVER = "/dev/nvidiactl"


@dataclass(frozen=True)
class Workers:
    """Where this process stands among the workers.

    Attributes:
        rank: number of this worker, from 0.
        size: number of workers.
        local_rank, local_size: the same among the workers of this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """True on rank 0, the worker that writes and speaks for all."""
        return self.rank == 0


def launched_size() -> int:
    """Number of workers that horovodrun or mpirun launched; 1 without. Imports nothing."""
    return max(int(os.environ.get(name, "1")) for name in LAUNCHED_SIZES)


def has_gpu_driver() -> bool:
    """Whether this host has NVIDIA's driver. Imports nothing."""
    return os.path.exists(GPU_DRIVER)


def join() -> Workers:
    """Starts Horovod where this process was launched by it, on its share of the host.

    Raises:
        UserError: launched as one of several workers, but Horovod does not import, or
            does not find the others; going on would train as many separate models.
    """
    if launched_size() > 1:
        try:
            import horovod.tensorflow as hvd
        except ImportError as error:
            raise UserError(
                f"{launched_size()} workers were launched, but Horovod does not import "
                f"here ({error}); `make setup` builds it"
            ) from None
        if not has_gpu_driver():
            os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_TIME)
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", STALL_WARNING_SECONDS)
        hvd.init()
        if hvd.size() != launched_size():
            raise UserError(
                f"{launched_size()} workers were launched, but Horovod finds {hvd.size()}; use "
                "horovodrun, or build Horovod with HOROVOD_WITH_MPI=1 to launch with mpirun"
            )
        # The first collective starts TensorFlow, and then it is too late for this.
        from core.devices import prepare_devices

        prepare_devices(current())
    return current()


def _horovod() -> Any:
    """Horovod's module where it has been started with several workers, else None.

    Looked up among the loaded modules: a process that never imported Horovod has
    not started it, and should not pay for the import.
    """
    hvd = sys.modules.get("horovod.tensorflow")
    return hvd if hvd is not None and hvd.is_initialized() and hvd.size() > 1 else None


def current() -> Workers:
    """This process's place among the workers, without starting anything."""
    hvd = _horovod()
    if hvd is None:
        return Workers()
    return Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())


def gather(value: Any) -> list[Any]:
    """Every worker's `value`, by rank; a collective, in the main thread.

    The value goes as JSON: what one worker sends can never run code on another.
    """
    if _horovod() is None:
        return [value]
    return [json.loads(data) for data in gather_bytes(json.dumps(value).encode())]


def gather_bytes(data: bytes) -> list[bytes]:
    """Every worker's `data`, by rank; a collective, in the main thread."""
    hvd = _horovod()
    if hvd is None:
        return [data]
    own = np.frombuffer(data, dtype=np.uint8)
    sizes = hvd.allgather(np.array([own.size], np.int64), name="gather_sizes").numpy()
    joined = hvd.allgather(own, name="gather_data").numpy()
    return [part.tobytes() for part in np.split(joined, np.cumsum(sizes)[:-1])]


def gather_beside(numbers: Sequence[float]) -> list[list[float]]:
    """Every worker's `numbers`, by rank; a collective in a thread beside the training.

    One thread may do so at a time.
    """
    if _horovod() is None:
        return [list(numbers)]
    return _gather_beside()(np.array([numbers], np.float64)).numpy().tolist()


@functools.cache
def _gather_beside() -> Any:
    """A graph that gathers rows of float64.

    Horovod matches the workers' requests by name, and refuses two of one name at a time.
    Run eagerly, an op loses the name that it is given: all that the main thread gathers
    goes as `HorovodAllgather`. In a graph it keeps it.
    """
    import tensorflow as tf

    hvd = _horovod()

    @tf.function(input_signature=[tf.TensorSpec([1, None], tf.float64)], autograph=False)
    def gather_rows(own: Any) -> Any:
        with tf.device("CPU:0"):  # they are the host's, and nobody waits for the device
            return hvd.allgather(own, name="gather_beside", ignore_name_scope=True)

    return gather_rows


def gather_arrays(arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Every worker's arrays, by rank; a collective.

    Those of a type that NumPy itself has not (bfloat16) come back as float32.
    """
    own = [a.astype(np.float32) if a.dtype.kind == "V" else a for a in arrays]
    if _horovod() is None:
        return [own]
    packed = io.BytesIO()
    np.savez(packed, **{str(i): a for i, a in enumerate(own)})
    gathered = []
    for data in gather_bytes(packed.getvalue()):
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            gathered.append([loaded[str(i)] for i in range(len(loaded.files))])
    return gathered


def from_first(value: Any) -> Any:
    """Rank 0's `value` on every worker; a collective."""
    return gather(value)[0]


def gather_in_time(look: Callable[[float], Any], sign: Callable[[], Any]) -> list[Any]:
    """Every worker's answer, by rank, when each has one; a collective, in the main thread.

    Those that have theirs do not wait in silence for the others: all meet every few seconds.

    Args:
        look: waits for this worker's answer, a number of seconds at most; returns None
            where it is not there yet.
        sign: called on every worker each time that an answer is not there yet.
    """
    seconds = 0.0
    while None in (found := gather(look(seconds))):
        sign()
        seconds = MEET_EVERY_SECONDS
    return found


def together(action: Callable[[], T]) -> T:
    """Runs `action` on every worker; fails on all of them if it fails on one.

    Without it, the workers that succeed would wait for the others in their next
    collective. Each worker raises the same error, so rank 0 can print it for all.

    Raises:
        SharedUserError: some worker's; it names the workers where not all failed alike.
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
    found = {text: [r for r, t in enumerate(problems) if t == text] for text in problems if text}
    lines = [f"worker {', '.join(map(str, ranks))}: {text}" for text, ranks in found.items()]
    raise SharedUserError("\n".join(lines))


def average(values: Sequence[float]) -> list[float]:
    """Mean of each number over the workers; a collective."""
    hvd = _horovod()
    if hvd is None or not values:
        return list(values)
    sent = np.asarray(values, np.float64)
    return hvd.allreduce(sent, op=hvd.Average, name="average").numpy().tolist()


def means(variables: Sequence[Any]) -> list[np.ndarray]:
    """The mean of each Keras variable over the workers; a collective."""
    hvd = _horovod()
    if hvd is None or not variables:
        return [variable.numpy() for variable in variables]
    found = hvd.grouped_allreduce([v.value for v in variables], op=hvd.Average, name="means")
    return [mean.numpy() for mean in found]


def broadcast_variables(variables: Sequence[Any], root: int = 0) -> None:
    """Sets each Keras variable to its value on worker `root`; a collective.

    uint32 variables are left alone: they are the states of Keras's random seeds,
    which Horovod cannot send and which should differ between workers.
    """
    hvd = _horovod()
    if hvd is not None:
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
    hvd = _horovod()
    if hvd is None:
        return list(gradients)
    import tensorflow as tf

    process_set = process_set or hvd.global_process_set
    if not process_set.included():
        return list(gradients)
    reduced = [
        tf.convert_to_tensor(g) if sparse_as_dense and isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]
    sparse = [i for i, g in enumerate(reduced) if isinstance(g, tf.IndexedSlices)]
    dense = [i for i, g in enumerate(reduced) if not isinstance(g, tf.IndexedSlices)]
    # Names of our own: Horovod's default comes from the tensors' names, which differ
    # between workers as soon as one of them has built another model before. Sparse and
    # dense go apart, since Horovod 0.28 mixes up their shapes in one call.
    for i in sparse:
        g = reduced[i]
        reduced[i] = tf.IndexedSlices(
            hvd.allgather(
                g.values / tf.cast(process_set.size(), g.values.dtype),
                name=f"gradient_{i}_values",
                process_set=process_set,
                ignore_name_scope=True,
            ),
            hvd.allgather(
                g.indices,
                name=f"gradient_{i}_indices",
                process_set=process_set,
                ignore_name_scope=True,
            ),
            dense_shape=g.dense_shape,
        )
    means = hvd.grouped_allreduce(
        [reduced[i] for i in dense],
        compression=hvd.Compression.fp16 if compression == "fp16" else hvd.Compression.none,
        op=hvd.Average,
        process_set=process_set,
        name="gradients",
        ignore_name_scope=True,
    )
    for i, mean in zip(dense, means, strict=True):
        reduced[i] = mean
    return reduced


def all_true(flag: Any, process_set: Any = None) -> Any:
    """Whether the boolean tensor `flag` is true on every worker; usable in a graph."""
    hvd = _horovod()
    if hvd is None:
        return flag
    import tensorflow as tf

    process_set = process_set or hvd.global_process_set
    if not process_set.included():
        return flag
    least = hvd.grouped_allreduce(
        [tf.cast(flag, tf.int32)],
        op=hvd.Min,
        process_set=process_set,
        name="all_true",
        ignore_name_scope=True,
    )[0]
    return tf.cast(least, tf.bool)
