"""The devices of one worker: its GPU, its share of the cores, its dtype policy."""

import ctypes
import functools
import os

import keras
import tensorflow as tf

from core.workers import OWN_CORES, Workers


@functools.cache
def prepare_devices(workers: Workers) -> int:
    """Gives this worker its GPU, or its share of the host's cores, before TensorFlow runs.

    TensorFlow gives every process all cores, and several workers would fight for them. It
    returns the number of threads for the computation; the pipeline gets as many.
    """
    share = len(os.sched_getaffinity(0)) // workers.local_size
    threads = max(1, int(os.environ.get(OWN_CORES, share)))
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
    """Makes malloc keep the memory of a training step's activations for the next step.

    By default it returns large blocks to the system, which zeroes them one step later. The
    constants are those of glibc's malloc.h; with another C library nothing happens.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 2**26)


def avoid_overrun(model: keras.Model) -> None:
    """Makes oneDNN use its older kernels for a model on which the newer ones damage memory.

    The gradient of a strided convolution by its input (oneDNN's `brgconv_strided`, in
    TensorFlow 2.18.1) writes whole blocks of 8 channels with AVX2 and of 16 with AVX-512.
    If the input has fewer channels, it writes past the end of the buffer: runs of a model
    with 4 and 8 channels there ended in "corrupted size vs. prev_size", and do not with
    AVX. Images need no gradient, so their 3 channels do no harm. Half precision needs the
    newer kernels. Call it before the first convolution runs; it keeps a user's own setting.
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
    """The dtype policy to train with, and a message if it is not the recipe's."""
    if asked:
        return asked, None
    # On a CPU, float16 was measured 30 times slower than float32.
    if "16" in recipes and not tf.config.list_physical_devices("GPU"):
        return "float32", f"no GPU: training in float32, not in the recipe's {recipes}"
    return recipes, None


def fuses_batch_norm(choice: str, xla: bool, deterministic: bool) -> bool:
    """Whether BatchNorm trains by TensorFlow's fused op, by a recipe's three keys.

    With `auto` it does on a GPU. XLA fuses Keras's own ops, and `deterministic` promises bits.
    """
    if choice != "auto":
        return choice == "fused"
    return not (xla or deterministic) and bool(tf.config.list_physical_devices("GPU"))


def set_numerics(policy: str, seed: int, deterministic: bool = False) -> None:
    """Sets Keras's dtype policy and random seed, and how TensorFlow computes."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    if deterministic:  # somewhat slower; the bits still depend on the workers and threads
        tf.config.experimental.enable_op_determinism()  # TensorFlow tells XLA, too
