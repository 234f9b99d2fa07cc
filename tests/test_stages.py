"""A run of six stages: one trace for each, memory that does not grow, and a resume of its own.

It alternates between two sizes, and its fifth phase has frozen layers.
"""

import csv
import json
import shutil
from itertools import pairwise

import keras
import numpy as np
import pytest
import yaml

from training.run_folder import RunFolder

# Runs the real command line, and notes what Keras traces and what the kernel counts.
WATCHED_RUN = """
import json, re, sys
import keras
import recipe

traces, peaks = [], []

def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True,
                 compute=keras.Model.compute_loss):
    if training:
        traces.append([len(peaks), list(x.shape)])
    return compute(self, x, y, y_pred, sample_weight, training)

def fit(self, *arguments, fit=keras.Model.fit, **options):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak
    history = fit(self, *arguments, **options)
    with open("/proc/self/status") as file:
        peaks.append(int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1]))
    return history

keras.Model.compute_loss, keras.Model.fit = compute_loss, fit
recipe.main(sys.argv[2:], standalone_mode=False)
with open(sys.argv[1], "w") as file:
    json.dump({"traces": traces, "peaks": peaks}, file)
"""

# 40 steps an epoch of 100, 80 of 50: stages of 5, 10, 5, 10, 20 and 10 steps.
SMALL = {"batch_size": 100, "image_size": [20, 20], "data_dir": "20"}
LARGE = {"batch_size": 50, "image_size": [28, 28], "data_dir": "28"}
FROZEN = {"freeze": ["stem_*", "stage1_*"], "augmentation": {"padding": 0.05}}
STRATEGY = [
    {"epoch": [0, 1 / 8], "lr": [0.01, 0.1], "lr_method": "linear", "momentum": [0.9, 0.8]} | SMALL,
    {"epoch": [1 / 8, 2 / 8], "lr": [0.1, 0.05], "lr_method": "exp", "momentum": [0.8, 0.9]}
    | LARGE,
    {"epoch": [2 / 8, 3 / 8], "lr": [0.05, 0.05], "lr_method": "linear", "momentum": [0.9, 0.9]}
    | SMALL,
    {"epoch": [3 / 8, 4 / 8], "lr": [0.05, 0.05], "lr_method": "linear", "momentum": [0.9, 0.95]}
    | LARGE,
    {"epoch": [4 / 8, 8 / 8], "lr": [0.05, 0.01], "lr_method": "cosine", "momentum": [0.95, 0.85]}
    | (SMALL | FROZEN),
    {"epoch": [8 / 8, 9 / 8], "lr": [0.01, 0.001], "lr_method": "polynomial"}
    | (LARGE | {"momentum": [0.9, 0.9]}),
]
BEGIN_OF_FROZEN, END_OF_FROZEN, END = 30, 50, 60


@pytest.fixture(scope="module")
def arguments(root, digits, tmp_path_factory):
    """Of the run's command line, but for its folder."""
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {"training_strategy": STRATEGY, "checkpoint_every": 10, "log_every": 10}
    path = tmp_path_factory.mktemp("stages") / "six.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ("--recipe", path, "--data_dir", digits, "--run_dir")


@pytest.fixture(scope="module")
def whole(run_process, arguments, tmp_path_factory):
    """The run, from its start to its end, and what was watched."""
    folder = tmp_path_factory.mktemp("whole")
    ran = run_process("-c", WATCHED_RUN, folder / "out.json", *arguments, folder / "run")
    assert ran.returncode == 0, ran.stderr
    return RunFolder(folder / "run"), json.loads((folder / "out.json").read_text())


def test_each_stage_is_traced_once_at_its_own_static_shape(whole):
    assert whole[1]["traces"] == [
        [stage, [100, 20, 20, 3] if stage % 2 == 0 else [50, 28, 28, 3]] for stage in range(6)
    ]


def test_the_last_stages_peak_is_the_seconds(whole):
    peaks = whole[1]["peaks"]
    assert len(peaks) == 6
    assert peaks[5] <= 1.05 * peaks[1]


@pytest.fixture(scope="module")
def resumed(run_process, arguments, whole, tmp_path_factory):
    """The same run after it lost all checkpoints but the early ones; the last is of a frozen phase.

    Returns:
        The run, and what it said when it was resumed.
    """
    run = RunFolder(tmp_path_factory.mktemp("resumed") / "run")
    shutil.copytree(whole[0].path, run.path)
    for step in (END_OF_FROZEN, END):
        run.checkpoint(step).unlink()
    ran = run_process("recipe.py", *arguments, run.path, "--resume")
    assert ran.returncode == 0, ran.stderr
    return run, ran.stdout


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_broke_off_ends_as_one_that_did_not(whole, resumed):
    (one, _), (other, said) = whole, resumed
    assert "resuming after step 40" in said
    models = [keras.saving.load_model(run.model) for run in (one, other)]
    for a, b in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4)
    for name in ("train.csv", "evaluation.csv"):
        steps = [[r["step"] for r in rows(run.path / name)] for run in (one, other)]
        assert steps[0] == steps[1]
    for a, b in zip(*(rows(run.path / "train.csv") for run in (one, other)), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-2)


def kernels(run, step):
    """By layer, those of a checkpoint, which is all trainable."""
    model = keras.saving.load_model(run.checkpoint(step), compile=False)
    assert all(layer.trainable for layer in model.layers)
    return {
        layer.name: np.array(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")
    }


def test_a_frozen_phase_leaves_its_layers_also_after_a_resume_inside_it(whole, resumed):
    rest = {"stage2_block1_conv1", "stage3_block1_conv2", "logits"}
    stays = {"stem_conv", "stage1_block1_conv1", "stage1_block1_conv2"}
    for run, _ in (whole, resumed):
        found = [kernels(run, step) for step in (20, BEGIN_OF_FROZEN, END_OF_FROZEN, END)]
        trained = [
            {name for name in one if not np.array_equal(one[name], other[name])}
            for one, other in pairwise(found)
        ]
        assert trained[0] >= rest | stays
        assert trained[1] >= rest
        assert not trained[1] & stays
        assert trained[2] >= rest | stays


def test_the_clock_goes_on_from_the_checkpoints(whole, resumed):
    """Like the seconds of the checkpoints."""
    (one, _), (other, _) = whole, resumed
    (last,) = (row for row in rows(other.path / "clock.csv") if row["event"] == "end")
    *_, written = rows(other.path / "checkpoints.csv")
    names = ("start_up", "data", "tracing", "steps", "checkpoints")
    first = rows(one.path / "clock.csv")[0]
    assert float(last["start_up"]) > float(first["start_up"])
    assert sum(float(last[name]) for name in names) >= float(written["seconds"]) - 0.2
