"""The loop over stages: one static trace each, and memory that does not grow."""

import json

import pytest
import yaml

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


@pytest.fixture(scope="module")
def watched(run_process, root, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    phase = {"lr": [0.01, 0.01], "lr_method": "linear"}
    kinds = (
        phase | {"batch_size": 100, "image_size": [20, 20], "data_dir": "20"},
        phase | {"batch_size": 50, "image_size": [28, 28], "data_dir": "28"},
    )
    phases = [kinds[i % 2] | {"epoch": [i / 8, (i + 1) / 8]} for i in range(6)]
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {"training_strategy": phases, "checkpoint_every": 1000, "log_every": 1000}
    path = folder / "six.yaml"
    path.write_text(yaml.safe_dump(recipe))
    arguments = ("--recipe", path, "--data_dir", digits, "--run_dir", folder / "run")
    ran = run_process("-c", WATCHED_RUN, folder / "out.json", *arguments)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "out.json").read_text())


def test_each_stage_is_traced_once_at_its_own_static_shape(watched):
    assert watched["traces"] == [
        [stage, [100, 20, 20, 3] if stage % 2 == 0 else [50, 28, 28, 3]] for stage in range(6)
    ]


def test_the_last_stages_peak_is_the_seconds(watched):
    assert len(watched["peaks"]) == 6
    assert watched["peaks"][5] <= 1.05 * watched["peaks"][1]
