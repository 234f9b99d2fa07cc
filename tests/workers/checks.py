"""Run by test_two_workers.py under `horovodrun -np 2`: runs checks and writes their results.

Each check returns plain data; the expectations are in the test. The order is the same on
both workers, as the collectives need it to be.
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core import environment

environment.prepare()

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from keras.optimizers import SGD

from callbacks.agreement import (
    BroadcastFromFirst,
    MetricAverage,
    SameWeights,
    average_over_workers,
    digest,
)
from callbacks.finite_loss import FiniteLoss
from callbacks.step_checkpoint import Journal, StepCheckpoint, mean_moving_statistics
from core import workers
from core.errors import RunError, UserError
from core.keras_patches import jit_gradients
from models.registry import build_model
from models.whitening import whiten
from optimizers.distributed import DistributedOptimizer
from optimizers.groups import Group, OptimizerGroups
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum
from training import resume

workers.MEET_EVERY_SECONDS = 0.01
FIRST_ONLY = hvd.ProcessSet([0])
os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
LOOKED, look = [], workers.check_gpus
workers.check_gpus = lambda: [LOOKED.append("for GPUs"), look()]
workers.join()
workers.check_gpus = look
hvd.add_process_set(FIRST_ONLY)
RANK = hvd.rank()


def small_model(seed=0, batch_norm=False):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((6,)), keras.layers.Dense(5, activation="tanh")]
    layers += [keras.layers.BatchNormalization()] if batch_norm else []
    return keras.Sequential([*layers, keras.layers.Dense(3, dtype="float32")])


def images(seed, count=64):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(count, 6)).astype("float32"),
        generator.integers(0, 3, count).astype("int32"),
    )


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def applied(optimizer, gradients, value=0.0, in_graph=False):
    """The values of a variable after each of the gradients was applied."""
    variable = keras.Variable(np.full(np.shape(gradients[0]), value, "float32"))
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    run = tf.function(step) if in_graph else step
    seen = []
    for gradient in gradients:
        run(tf.convert_to_tensor(gradient, tf.float32))
        seen.append(variable.numpy().tolist())
    return seen


def different_data(distributed):
    model = small_model(seed=RANK)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(
        DistributedOptimizer(optimizer) if distributed else optimizer, loss(), jit_compile=False
    )
    x, y = images(seed=RANK)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[BroadcastFromFirst()])
    return digest(model.trainable_variables)


def in_groups():
    """Muon on the kernels, SGD elsewhere, and what is done once for all variables."""
    kernels = Group("kernel", Muon(momentum=0.6), rate=0.1)
    return OptimizerGroups(SGD(momentum=0.9), [kernels], 0.3, global_clipnorm=0.1, use_ema=True)


def half_a_batch_each(make=lambda: TF1Momentum(0.3)):
    """How far two workers end from one with the whole batch, and a digest of all state."""
    x, y = images(seed=7, count=64)
    model = small_model()
    model.compile(DistributedOptimizer(make()), loss(), jit_compile=False)
    alone = small_model()
    alone.compile(make(), loss(), jit_compile=False)
    for begin in range(0, 64, 16):
        own = slice(begin + 8 * RANK, begin + 8 * RANK + 8)
        model.train_on_batch(x[own], y[own])
        alone.train_on_batch(x[begin : begin + 16], y[begin : begin + 16])
    pairs = zip(model.trainable_variables, alone.trainable_variables, strict=True)
    apart = max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)
    return [apart, digest([*model.trainable_variables, *model.optimizer.variables])]


def by_xla():
    """How far steps by XLA end from those without it, and a digest of what both workers share.

    Each worker has its own half of a batch, and BatchNorm its own statistics.
    """
    models = [small_model(batch_norm=True) for _ in range(2)]
    for model in models:
        model.compile(DistributedOptimizer(TF1Momentum(0.3)), loss(), jit_compile=False)
    jit_gradients(models[1])
    x, y = images(seed=7, count=64)
    for begin in range(8 * RANK, 64, 16):
        for model in models:
            model.train_on_batch(x[begin : begin + 8], y[begin : begin + 8])
    state = [[*model.variables, *model.optimizer.variables] for model in models]
    apart = max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in zip(*state, strict=True))
    return [apart, digest([*models[1].trainable_variables, *models[1].optimizer.variables])]


def infinity_on_one_worker(gradient_accumulation_steps=None, xla=False):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
        inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=gradient_accumulation_steps)
        model.compile(DistributedOptimizer(inner), loss(), jit_compile=False)
    finally:
        keras.config.set_dtype_policy("float32")
    if xla:
        jit_gradients(model)
    x, y = images(seed=RANK, count=16)
    before = digest(model.trainable_variables)
    bad = x.copy()
    bad[0] = np.inf if RANK == 1 else x[0]
    seen = []
    for batch in (bad, x, x):
        model.train_on_batch(batch, y)
        seen.append(
            {
                "moved": digest(model.trainable_variables) != before,
                "scale": float(model.optimizer.dynamic_scale.numpy()),
                "iterations": int(model.optimizer.iterations.numpy()),
            }
        )
    return {"steps": seen, "weights": digest(model.trainable_variables)}


def clipping():
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0, global_clipnorm=1.0))
    return applied(optimizer, [[3.0] if RANK == 0 else [0.0]])


def clipping_while_accumulating(in_a_loss_scale=False):
    inner = keras.optimizers.SGD(1.0, global_clipnorm=1.0, gradient_accumulation_steps=2)
    if in_a_loss_scale:
        inner = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0)
    gradients = [[4.0], [2.0]] if RANK == 0 else [[0.0], [0.0]]
    return applied(DistributedOptimizer(inner), gradients, in_graph=True)


def compression(kind):
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), compression=kind)
    return applied(optimizer, [[1e-9, 1 / 3]])


def sparse(as_dense):
    embedding = keras.Variable(np.zeros((4, 2), "float32"))
    bias = keras.Variable(np.zeros((2,), "float32"))
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), sparse_as_dense=as_dense)
    optimizer.build([bias, embedding])

    @tf.function
    def step():
        rows = tf.IndexedSlices(
            tf.constant([[1.0, 2.0], [3.0, 4.0]]),
            tf.constant([0, 1 + RANK]),
            dense_shape=tf.constant([4, 2]),
        )
        optimizer.apply([tf.constant([2.0, 4.0]) * RANK, rows], [bias, embedding])

    step()
    return [bias.numpy().tolist(), embedding.numpy().tolist()]


def accumulation():
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2))
    return applied(optimizer, [[1.0 + 4 * RANK], [3.0 + 4 * RANK]], in_graph=True)


def collectives_outside_the_applied_step():
    """All-reduces that every micro-batch runs, counted in the traced graph."""
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2))
    variable = keras.Variable([0.0])
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply([g], [variable]))
    graph = step.get_concrete_function(tf.TensorSpec((1,))).graph
    everywhere = [op for op in graph.get_operations() if "Horovod" in op.type]
    library = graph.as_graph_def().library.function
    inside = [node for f in library for node in f.node_def if "Horovod" in node.op]
    return [len(everywhere), len(inside)]


def collectives_of_groups():
    """All-reduces of a step, and the gradients in them."""
    variables = [keras.Variable([[0.0]], name=name) for name in ("kernel", "bias")]
    optimizer = DistributedOptimizer(in_groups())
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, variables))
    operations = step.get_concrete_function(*[tf.TensorSpec((1, 1))] * 2).graph.get_operations()
    return [len(op.outputs) for op in operations if "Horovod" in op.type]


def process_set():
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), process_set=FIRST_ONLY)
    return applied(optimizer, [[1.0 + RANK]])


def broadcast():
    model = small_model(seed=RANK, batch_norm=True)
    model.compile(keras.optimizers.Adam(0.01 * (1 + RANK)), loss(), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    for variable in (*model.non_trainable_variables, *model.optimizer.variables):
        variable.assign(np.full(variable.shape, RANK + 1))
    callback = BroadcastFromFirst()
    callback.set_model(model)
    callback.on_train_begin()
    statistics = [float(v.numpy().mean()) for v in model.non_trainable_variables]
    state = {float(v.numpy().mean()) for v in model.optimizer.variables}
    return {"weights": digest(model.variables), "statistics": statistics, "state": sorted(state)}


def whitening():
    """Digests of a frozen kernel: as rank 0 set it, and after the broadcast."""
    model = build_model("whitened_cnn", (16, 16), 3, widths=(2, 2, 2))
    model.compile("sgd", loss(), jit_compile=False)
    kernel = model.get_layer("whitening").kernel
    if RANK == 0:
        whiten(model, [np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3))])
    before = digest([kernel])
    callback = BroadcastFromFirst()
    callback.set_model(model)
    callback.on_train_begin()
    return [before, digest([kernel])]


def statistics():
    model = small_model(batch_norm=True)
    for variable in model.non_trainable_variables:
        variable.assign(np.full(variable.shape, 1.0 + 2 * RANK))
    return [mean.tolist() for _, mean in mean_moving_statistics(model)]


def metrics():
    logs = {"loss": 1.0 + RANK, "accuracy": 0.5 * RANK}
    MetricAverage().on_epoch_end(0, logs)
    return [logs, average_over_workers({"b": RANK, "a": 4.0 * RANK})]


def differing_weights():
    model = small_model(seed=RANK)
    model.compile(keras.optimizers.SGD(0.1), loss(), jit_compile=False)
    x, y = images(seed=0)
    try:
        model.fit(x, y, verbose=0, callbacks=[SameWeights()])
    except RunError as error:
        return str(error)
    return "not found"


def weights_that_differ_by_rounding():
    """Worker 1 has one weight that is the next float32; what both have afterwards."""
    model = small_model(seed=0)
    model.compile(keras.optimizers.SGD(0.1), loss(), jit_compile=False)
    kernel = model.trainable_variables[0]
    values = np.array(kernel)
    values.flat[0] = 0.5  # the next float32 is 2 ** -24 above it
    if RANK == 1:
        values.flat[0] = np.nextafter(values.flat[0], np.float32(1))
    kernel.assign(values)
    lines = []
    callback = SameWeights(steps=[0], note=lines.append)
    callback.set_model(model)
    callback.before_step(0)
    return [lines, float(np.array(kernel).flat[0])]


def trouble_of_one():
    def action():
        if RANK == 1:
            raise UserError("the disk is full")

    try:
        workers.together(action)
    except UserError as error:
        return [str(error), error.shared]
    return "not raised"


def by_first():
    """What rank 0 does alone, while the other waits: an answer, and its troubles."""
    met, gather = [], workers.gather
    workers.gather = lambda value: [met.append(value), gather(value)][1]

    def slowly():
        while len(met) < 3:  # they meet meanwhile
            time.sleep(0.001)
        return {"rank": RANK, "thread": threading.current_thread() is threading.main_thread()}

    def fails(error):
        def action():
            raise error

        try:
            return workers.by_first(action)
        except (UserError, RunError) as raised:
            return [type(raised).__name__, str(raised)]

    try:
        found = workers.by_first(slowly)
    finally:
        workers.gather = gather
    troubles = [UserError("no such folder"), RunError("died"), OSError(28, "No space", "a file")]
    return [found, [fails(error) for error in troubles], fails(TimeoutError("late"))]


def disagreement(recipe=None, data=None, policy="float32", steps=10):
    """The message if worker 1 is about to do something else."""
    asked = {"recipe": {"seed": 0, **(recipe or {})}, "data": data or {}, "policy": policy}
    try:
        resume.agree(workers.current(), asked, steps)
    except UserError as error:
        return [str(error), error.shared]
    return "nothing"


def two_gathers_at_a_time():
    """The main thread gathers while a gather in another thread is not complete."""
    with ThreadPoolExecutor(1) as thread:
        if RANK == 0:
            beside = thread.submit(workers.gather_beside, [0.0, 0.5])
            while not beside.running():
                time.sleep(0.01)
            # By now the thread should wait for worker 1, which gathers later. On a slow
            # machine it may not be there yet; the check then shows less, and passes.
            time.sleep(0.5)
        gathered = workers.gather(RANK)
        if RANK == 1:
            beside = thread.submit(workers.gather_beside, [1.0, 1.5])
        return [gathered, beside.result()]


def refused(action):
    """The name of the error that an action raises, and its message; or that it raises none."""
    try:
        action()
    except (UserError, RunError) as error:
        return [type(error).__name__, str(error)]
    return "nothing"


def checked_with(all_reduce):
    """What the check says with another all-reduce of groups."""
    real, hvd.grouped_allreduce = hvd.grouped_allreduce, all_reduce
    try:
        return refused(workers.check_all_reduce)
    finally:
        hvd.grouped_allreduce = real


def all_reduce_where(change):
    """What the check says where worker 1 gets something else in float16."""
    real = hvd.grouped_allreduce

    def all_reduce(tensors, **options):
        found = real(tensors, **options)
        return change(found) if RANK == 1 and tensors[0].dtype == tf.float16 else found

    return checked_with(all_reduce)


def failing_all_reduce(tensors, **options):
    raise tf.errors.InternalError(None, None, "ncclAllReduce failed\nat a line")


def gpus_on(*ranks):
    """Whether the check runs, and what is said, where only some workers see a GPU."""
    checked, see, check = [], tf.config.get_visible_devices, workers.check_all_reduce
    tf.config.get_visible_devices = lambda kind: [kind] if RANK in ranks else []
    workers.check_all_reduce = lambda: checked.append("checked")
    try:
        return [refused(workers.check_gpus), *checked]
    finally:
        tf.config.get_visible_devices, workers.check_all_reduce = see, check


def until_the_other_has_waited(name, waits_first):
    """A `sign` for both workers, and a function that returns after three of `waits_first`'s."""
    waited = Path(sys.argv[1]).with_name(name)
    signs = []

    def sign():
        signs.append(RANK)
        if waits_first == RANK and len(signs) == 3:
            waited.touch()

    def end(*_):
        until = time.monotonic() + 60
        while not waited.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return [f"{name}.jpg"]

    return signs, sign, end


def slow_checkpoint():
    """Signs on both workers while the first one's disk is slow."""
    signs, sign, end = until_the_other_has_waited("slow_checkpoint", waits_first=1)
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1), loss(), jit_compile=False)
    path = Path(sys.argv[1]).with_name("{step}.keras")
    journal = Journal()
    journal.saved = end
    peer = keras.callbacks.Callback()
    peer.waiting = sign
    checkpoint = StepCheckpoint(path, every=100, peers=[peer], journal=journal)
    model.fit(*images(seed=0), verbose=0, callbacks=[checkpoint])
    return len(signs) >= 3


def slow_names():
    """Signs on both workers while the second reads its batch's names; and the message."""
    signs, sign, end = until_the_other_has_waited("slow_names", waits_first=0)
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1), loss(), jit_compile=False)
    x, y = images(seed=0)
    finite = FiniteLoss(every=1, names=end, sign=sign)
    try:
        model.fit(x + (np.inf if RANK == 1 else 0), y, verbose=0, callbacks=[finite])
    except RunError as error:
        return [len(signs) >= 3, str(error).splitlines()[0]]
    return "not found"


CHECKS = {
    "different_data": lambda: different_data(distributed=True),
    "different_data_without": lambda: different_data(distributed=False),
    "half_a_batch_each": half_a_batch_each,
    "half_a_batch_each_in_groups": lambda: half_a_batch_each(in_groups),
    "collectives_of_groups": collectives_of_groups,
    "infinity": infinity_on_one_worker,
    "infinity_while_accumulating": lambda: infinity_on_one_worker(2),
    "by_xla": by_xla,
    "infinity_by_xla": lambda: infinity_on_one_worker(xla=True),
    "clipping": clipping,
    "clipping_while_accumulating": clipping_while_accumulating,
    "clipping_in_a_loss_scale": lambda: clipping_while_accumulating(in_a_loss_scale=True),
    "compression_none": lambda: compression("none"),
    "compression_fp16": lambda: compression("fp16"),
    "compression_class": lambda: compression(hvd.Compression.fp16),
    "sparse": lambda: sparse(as_dense=False),
    "sparse_as_dense": lambda: sparse(as_dense=True),
    "accumulation": accumulation,
    "collectives": collectives_outside_the_applied_step,
    "process_set": process_set,
    "broadcast": broadcast,
    "whitening": whitening,
    "statistics": statistics,
    "metrics": metrics,
    "differing_weights": differing_weights,
    "weights_that_differ_by_rounding": weights_that_differ_by_rounding,
    "trouble_of_one": trouble_of_one,
    "agreement": disagreement,
    "another_recipe": lambda: disagreement(recipe={"seed": RANK}),
    "other_data": lambda: disagreement(data={"32/train": {"images": 50 - RANK}}),
    "another_policy": lambda: disagreement(policy=("float32", "bfloat16")[RANK]),
    "other_steps": lambda: disagreement(steps=10 + RANK),
    "gather": lambda: workers.gather({"rank": RANK, "text": "é" * RANK}),
    "two_gathers": two_gathers_at_a_time,
    "slow_checkpoint": slow_checkpoint,
    "slow_names": slow_names,
    "by_first": by_first,
    "place": lambda: [workers.current().rank, workers.current().size],
    "joined": lambda: [LOOKED, os.environ["HOROVOD_BATCH_D2D_MEMCOPIES"]],
    "all_reduce": lambda: refused(workers.check_all_reduce),
    "all_reduce_wrong": lambda: all_reduce_where(lambda found: [*found[:-1], found[-1] + 1]),
    "all_reduce_nan": lambda: all_reduce_where(lambda found: [found[0] * np.nan, *found[1:]]),
    "all_reduce_fails": lambda: checked_with(failing_all_reduce),
    "gpus": lambda: [gpus_on(), gpus_on(1), gpus_on(0, 1)],
}

if __name__ == "__main__":
    results = {name: check() for name, check in CHECKS.items()}
    everyone = workers.gather(results)
    if RANK == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(everyone, file)
    workers.gather(None)  # no worker ends before the results are written
