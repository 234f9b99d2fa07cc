"""SageMaker's variables, and whole jobs under its training toolkit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from core.errors import UserError
from launch import sagemaker
from launch.sagemaker import for_click, launcher, metric_definitions, read_job
from tests.waiting import HANG_SECONDS
from training.run_folder import RunFolder

# The toolkit's variables for a job with one channel and two hyperparameters, on one GPU.
VARIABLES = {
    "SM_MODEL_DIR": "/opt/ml/model",
    "SM_OUTPUT_DIR": "/opt/ml/output",
    "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
    "SM_CHANNELS": '["training"]',
    "SM_CHANNEL_TRAINING": "/opt/ml/input/data/training",
    "SM_HPS": '{"policy":"float32","recipe":"cifar10"}',
    "SM_NUM_GPUS": "1",
    "SM_HOSTS": '["algo-1"]',
    "SM_CURRENT_HOST": "algo-1",
}
ARGUMENTS = ["--policy", "float32", "--recipe", "cifar10"]


def job(**changes):
    return read_job(VARIABLES | changes)


def test_outside_sagemaker_nothing_changes():
    assert read_job({"HOME": "/root"}) is None
    assert for_click(["plan", "--recipe", "demo"], None) == {
        "args": ["plan", "--recipe", "demo"],
        "default_map": {},
    }


def test_the_folders_and_hyperparameters_become_defaults():
    found = for_click(ARGUMENTS, job())
    assert found["args"] == ["train", *ARGUMENTS]
    assert found["default_map"]["train"] == {
        "recipe_name": "cifar10",
        "data_dir": Path("/opt/ml/input/data/training"),
        "run_dir": Path("/opt/ml/checkpoints/run"),
        "policy": "float32",
        "resume": False,
    }


def test_another_command_line_stays_unchanged():
    found = for_click(["train", "--data_dir", "/fsx"], job())
    assert found["args"] == ["train", "--data_dir", "/fsx"]
    assert found["default_map"]["train"]["recipe_name"] == "cifar10"


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("true", "false")])
def test_flags_and_what_is_not_an_option(yes, no):
    """The toolkit writes `True` as Python does, the SDK's drivers as JSON does. The
    TensorFlow estimator adds model_dir."""
    arguments = f"--model_dir s3://b/m --overwrite {yes} --recipe demo --resume {no} --workers 4"
    hyperparameters = {"recipe": "demo", "overwrite": True, "resume": False, "workers": 4}
    found = job(SM_HPS=json.dumps({**hyperparameters, "model_dir": "s3://b/m"}))
    assert for_click(arguments.split(), found)["args"] == [
        "train",
        "--recipe",
        "demo",
        "--overwrite",
    ]
    assert launcher(found, [])[3:5] == ["-np", "4"]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ({}, None),
        ({"code": "/in/code", "sm_drivers": "/in/sm_drivers"}, None),
        ({"records": "/in/records"}, "/in/records"),
        ({"training": "/in/training", "recipes": "/in/recipes"}, "/in/training"),
        ({"160": "/in/160", "320": "/in/320"}, "/in"),
        ({"160": "/in/160", "320": "/elsewhere/320"}, None),
    ],
)
def test_channels_become_the_data_folder(channels, expected):
    variables = {k: v for k, v in VARIABLES.items() if not k.startswith("SM_CHANNEL_")}
    variables |= {f"SM_CHANNEL_{name.upper()}": folder for name, folder in channels.items()}
    assert read_job(variables).data_dir == (expected and Path(expected))


def test_a_run_that_was_left_behind_is_resumed(tmp_path):
    found = job(SM_MODEL_DIR=str(tmp_path / "model"))
    assert not for_click(ARGUMENTS, found)["default_map"]["train"]["resume"]
    folder = tmp_path / "checkpoints" / "run"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").touch()
    assert for_click(ARGUMENTS, found)["default_map"]["train"]["resume"]


def test_one_worker_for_each_gpu_and_no_launcher_under_a_launcher(monkeypatch):
    assert launcher(job(), ["train"]) is None
    command = launcher(job(SM_NUM_GPUS="8"), ["train"])
    assert command[1:6] == ["-m", "launch.horovodrun", "-np", "8", "--gloo"]  # the guarded one
    assert command[-1] == "train"
    for variable in ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "8")
            assert launcher(job(SM_NUM_GPUS="8"), ["train"]) is None


def test_the_process_becomes_a_launcher_that_finds_the_project_from_any_folder(
    monkeypatch, root, tmp_path
):
    became = []
    for name in ("execv", "execve"):
        monkeypatch.setattr(os, name, lambda *arguments: became.append(arguments))
    for name, value in (VARIABLES | {"SM_NUM_GPUS": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [str(root / "recipe.py"), *ARGUMENTS])
    monkeypatch.chdir(tmp_path)
    sagemaker.start()
    ((program, command, environment),) = became
    assert program == command[0] == sys.executable
    assert command[-7:] == [sys.executable, str(root / "recipe.py"), "train", *ARGUMENTS]
    assert str(root) in environment["PYTHONPATH"].split(os.pathsep)
    assert environment["SM_HPS"] == VARIABLES["SM_HPS"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SM_HPS": "{recipe: demo}"}, "SM_HPS: received '{recipe: demo}'; it should be an object"),
        ({"SM_HPS": "[]"}, "SM_HPS: received '[]'"),
        ({"SM_HOSTS": "algo-1"}, "SM_HOSTS: received 'algo-1'; it should be a list"),
        ({"SM_NUM_GPUS": "many"}, "SM_NUM_GPUS: received 'many'; it should be a whole number"),
        ({"SM_HPS": '{"workers":0}'}, "'workers': received 0; give a whole number above 0"),
        ({"SM_HPS": '{"workers":"two"}'}, "'workers': received 'two'"),
        ({"SM_HOSTS": '["algo-1","algo-2"]'}, "SM_HOSTS: 2 hosts"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        launcher(job(**changes), [])


def test_the_files_of_a_failed_run_are_delivered(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    for path in (run.recipe_file, run.log, run.checkpoint(60), run.path / ".train.csv"):
        path.write_text(path.name)
    (run.path / "gone.log").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    sagemaker.deliver(run, job(SM_MODEL_DIR=str(tmp_path / "model"), SM_OUTPUT_DATA_DIR=str(out)))
    assert sorted(p.name for p in out.iterdir()) == ["recipe.yaml", "train.log"]
    assert list((tmp_path / "model").iterdir()) == []


# Lines of the published log (https://github.com/mzhangatge/imagenet104, hvd_train.txt), some
# of them as horovodrun and the toolkit pass on a worker's output.
PUBLISHED = {
    "Log @train: steps@625 epoch@2.9 im/s@14493.47 loss@3.598 total_loss@4.343 lr@1.48225 "
    "bs@740 sz@128 top5@0.5000 tm@275.59": {
        "train:epoch": 2.9,
        "train:images_per_second": 14493.47,
        "train:loss": 3.598,
        "train:total_loss": 4.343,
        "train:learning_rate": 1.48225,
        "train:batch_size": 740,
        "train:image_size": 128,
        "train:top5": 0.5,
        "train:seconds": 275.59,
    },
    "[1,mpirank:0,algo-1]<stdout>:Log @eval: count@    5 step@ 3125 top1@43.419 top5@ 70.23 "
    "loss@  2.99 time@2018-12-30 17:06:43": {
        "validation:top1": 43.419,
        "validation:top5": 70.23,
        "validation:loss": 2.99,
    },
    "Log @eval: count@   23 step@14375 top1@75.062 top5@ 92.65 loss@  1.00 "
    "time@2018-12-30 18:23:22": {
        "validation:top1": 75.062,
        "validation:top5": 92.65,
        "validation:loss": 1.0,
    },
    "Log: Finished in Log: 7963.819097042084": {},
    "Log @train: steps@20 epoch@0.5 im/s@1.0 loss@nan total_loss@nan lr@0.1 bs@5 sz@2 top5@0.0 "
    "tm@9.0": {
        "train:epoch": 0.5,
        "train:images_per_second": 1,
        "train:learning_rate": 0.1,
        "train:batch_size": 5,
        "train:image_size": 2,
        "train:top5": 0,
        "train:seconds": 9,
    },
}


def metrics_of(line):
    """As SageMaker does: each expression searches each line for its one group."""
    found = {d["Name"]: re.search(d["Regex"], line) for d in metric_definitions()}
    return {name: float(match[1]) for name, match in found.items() if match}


@pytest.mark.parametrize("line", PUBLISHED)
def test_the_metrics_of_the_published_log(line):
    assert metrics_of(line) == PUBLISHED[line]


def test_metric_definitions_are_printed_and_within_sagemakers_limits():
    """The limits of CreateTrainingJob's MetricDefinitions."""
    ran = CliRunner().invoke(sagemaker.main, ["metric_definitions"])
    found = json.loads(ran.output)
    assert found == metric_definitions()
    assert len(found) <= 40
    assert all(len(d["Name"]) <= 255 and len(d["Regex"]) <= 500 for d in found)
    assert all(re.compile(d["Regex"]).groups == 1 for d in found)


TRAIN = Path(__file__).parents[2] / ".venv-sagemaker" / "bin" / "train"
needs_toolkit = pytest.mark.skipif(
    not TRAIN.exists(), reason="no SageMaker toolkit; `make .venv-sagemaker/.ready` installs it"
)


@pytest.fixture
def container(root, tmp_path):
    """A folder as SageMaker mounts it at /opt/ml, and the toolkit's `train` for it."""

    class Container:
        base = tmp_path / "ml"

        def train(self, hyperparameters, channels=(), gpus=0):
            self.configure(hyperparameters, channels)
            tools = tmp_path / "bin"
            tools.mkdir(exist_ok=True)
            smi = tools / "nvidia-smi"  # the toolkit counts the GPUs by its lines
            smi.write_text("#!/bin/sh\n" + "".join(f"echo GPU {i}: V100\n" for i in range(gpus)))
            smi.chmod(0o755)
            environment = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
            environment |= {
                "SAGEMAKER_BASE_DIR": str(self.base),
                "PATH": f"{tools}:{os.environ['PATH']}",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            return subprocess.run(
                [TRAIN], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
            )

        def configure(self, hyperparameters, channels):
            code, config = self.base / "code", self.base / "input" / "config"
            if not code.exists():
                code.mkdir(parents=True)
                config.mkdir(parents=True)
                for name in ("model", "output", "checkpoints"):
                    (self.base / name).mkdir()
                for path in root.iterdir():
                    if path.is_dir() and (path / "__init__.py").exists():
                        shutil.copytree(path, code / path.name)
                    elif path.name in ("recipe.py", "requirements.txt", "recipes"):
                        (shutil.copytree if path.is_dir() else shutil.copy)(path, code / path.name)
            settings = {"sagemaker_program": "recipe.py", **hyperparameters}
            for name, content in (
                ("hyperparameters", {k: json.dumps(v) for k, v in settings.items()}),
                ("inputdataconfig", {c: {"TrainingInputMode": "File"} for c in channels}),
                ("resourceconfig", {"hosts": ["localhost"], "current_host": "localhost"}),
            ):
                (config / f"{name}.json").write_text(json.dumps(content))

        def channel(self, name, source):
            folder = self.base / "input" / "data" / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(source)

    return Container()


@needs_toolkit
def test_the_toolkit_runs_a_recipe_to_an_artifact(container, root, digits, tmp_path):
    """Ten steps with two workers, since the toolkit counts two GPUs."""
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    phase = recipe["training_strategy"][0]
    recipe |= {
        "training_strategy": [{**phase, "epoch": [0, 0.25]}],
        "evaluation": {**recipe["evaluation"], "image_size": 20, "data_dir": "20"},
        "model_arguments": {"widths": [16, 16, 16]},
        "log_every": 5,
        "checkpoint_every": 10,
        "name": "ten-steps",
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    container.channel("training", digits)
    ran = container.train({"recipe": str(path), "policy": "float32"}, ["training"], gpus=2)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "ten-steps: resnet8, 2 worker(s), float32, 10 steps" in said
    assert (container.base / "output" / "success").exists()

    model = keras.saving.load_model(container.base / "model" / "model.keras")
    assert model.predict(np.zeros((1, 28, 28, 3), "uint8"), verbose=0).shape == (1, 10)
    made = {p.name for p in (container.base / "output" / "data").iterdir()}
    assert {"train.log", "train.csv", "evaluation.csv", "accuracy_vs_time.png"} <= made
    assert not {"checkpoints", "model.keras"} & made

    found = [metrics_of(line) for line in said.splitlines() if "Log @" in line]
    names = {d["Name"] for d in metric_definitions()}
    assert set().union(*found) == names
    rows = pd.read_csv(container.base / "output" / "data" / "evaluation.csv")
    assert [m["validation:top1"] for m in found if "validation:top1" in m] == pytest.approx(
        100 * rows["top1"], abs=1e-3
    )


@needs_toolkit
def test_a_mistake_becomes_the_jobs_failure_reason(container):
    ran = container.train({"recipe": "nope"})
    assert ran.returncode != 0
    assert "recipe 'nope'" in (container.base / "output" / "failure").read_text()
    assert not list((container.base / "model").iterdir())
