"""The devices of one worker: its GPU, its share of the cores, its dtype policy."""

import ctypes
import functools
import os

import keras
import tensorflow as tf

from core.workers import Workers


def threads_for(workers: Workers) -> int:
    """Cores of this host that one of its workers may use.

    TensorFlow gives every process all cores; several workers would fight for them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers.local_size)


@functools.cache
def prepare_devices(workers: Workers) -> int:
    """Gives this worker its GPU, or its share of the cores.

    Has to come before TensorFlow runs anything; asked again, it only answers.

    Returns:
        Number of threads for the worker's computation, and as many for its pipeline.
    """
    threads = threads_for(workers)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        own = gpus[workers.local_rank % len(gpus)]
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)
    else:
        _keep_freed_memory()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return threads


def _keep_freed_memory() -> None:
    """Lets the allocator keep what a training step frees, for the next one.

    TensorFlow takes a step's activations on a CPU from malloc, which gives large blocks
    back to the system and has them zeroed again a step later. Constants of glibc's
    malloc.h; with another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 2**26)


def avoid_overrun(model: keras.Model) -> None:
    """Has oneDNN use plainer kernels for a model with which its newer ones damage memory.

    The gradient of a strided convolution by its input (oneDNN's `brgconv_strided`, in
    TensorFlow 2.18.1) writes whole blocks of 8 channels with AVX2 and of 16 with AVX-512,
    past the end of the buffer where the input has fewer: runs of a model with 4 and 8
    channels there ended in "corrupted size vs. prev_size", and do not with AVX. Images
    need no gradient, so their 3 channels do no harm. It has to come before the first
    convolution runs; a setting of the user's stands. Half precision needs the newer
    kernels and is left alone.
    """
    if any(
        isinstance(layer, keras.layers.Conv2D)
        and layer.compute_dtype == "float32"
        and max(layer.strides) > 1
        and layer.input.shape[-1] > 3
        and layer.input.shape[-1] % 16
        for layer in model.layers
    ):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")


def choose_policy(recipes: str, asked: str | None = None) -> tuple[str, str | None]:
    """The dtype policy to train with, and a line to say where it is not the recipe's.

    float16 on a CPU was measured 30 times slower than float32, so a machine without a
    GPU falls back to float32 unless a policy is asked for.
    """
    if asked:
        return asked, None
    if "16" in recipes and not tf.config.list_physical_devices("GPU"):
        return "float32", f"no GPU: training in float32, not in the recipe's {recipes}"
    return recipes, None


def set_numerics(policy: str, seed: int, xla: bool, deterministic: bool = False) -> None:
    """Makes `policy` Keras's default and `seed` that of initial weights.

    Deterministic ops give the same bits in each run on the same number of workers and
    threads, at some cost in speed.

    XLA, where asked for, comes as auto-clustering: `jit_compile` would have it compile
    Horovod's all-reduce, too, and it cannot.
    """
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if xla:
        tf.config.optimizer.set_jit("autoclustering")
