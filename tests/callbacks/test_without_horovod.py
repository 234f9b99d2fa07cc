"""Callbacks and optimizer in somebody else's project, where Horovod is not installed."""

PROJECT = """
import sys
sys.modules["horovod"] = None  # as where it is not installed
import keras, numpy as np
from callbacks.agreement import BroadcastFromFirst, MetricAverage, SameWeights
from callbacks.phase_scheduler import PhaseScheduler
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.wall_clock import ProgressBar, WallClock
from optimizers.distributed import DistributedOptimizer

model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(),
                          keras.layers.Dropout(0.5), keras.layers.Dense(1)])
model.compile(DistributedOptimizer(keras.optimizers.Adam()), "mse")
rows = []
x, y = np.ones((32, 3)), np.ones((32, 1))
history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[
    MetricAverage(), BroadcastFromFirst(), PhaseScheduler(lambda step: 0.1 / (1 + step)),
    SameWeights(), StepCheckpoint("{step}.keras", every=8),
    WallClock(rows.append, every=4, batch_size=4), ProgressBar(16, disable=True)])
assert [row["step"] for row in rows] == [4, 8, 12, 16], rows
assert len(history.history["loss"]) == 2
print("trained")
"""


def test_all_callbacks_train_a_model(run_process, tmp_path, root):
    ran = run_process("-c", PROJECT, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "trained"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.keras", "8.keras"]
