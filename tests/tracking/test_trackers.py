"""Whole runs at the real trackers: MLflow's server on SQLite, and W&B offline.

They run by the interpreter of .venv-tracking, which has the two packages beside all others.
"""

import csv
import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from core.clock import BUCKETS
from tests.profiles import traced_steps
from tests.waiting import HANG_SECONDS, until
from tracking.news import started_at
from training.recipes import PRESETS
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-tracking" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="no trackers here; `make test-extras` installs them"
)

SMALL = {"batch_size": 50, "image_size": [20, 20], "data_dir": "20", "lr_method": "linear"}
STRATEGY = [
    {"epoch": [0, 0.25], "lr": [0.01, 0.1], **SMALL},
    {"epoch": [0.25, 0.5], "lr": [0.1, 0.0], **SMALL, "image_size": [16, 16]},
]
STEPS = [5, 10, 15, 20]  # of two workers: 4,000 digits are 40 steps of 2 x 50
EXPERIMENT = "digits"


def python(*arguments, workers=1, **environment):
    """Runs the overlay's Python in the project's folder, by several workers under our launcher."""
    command = [str(PYTHON), *map(str, arguments)]
    if workers > 1:
        launcher = [str(PYTHON), "-m", "launch.horovodrun", "-np", str(workers), "--gloo"]
        command = [*launcher, *command]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=HANG_SECONDS
    )


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """MLflow's own server, asked by its REST interface."""

    def __init__(self, folder):
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        }
        command = [PYTHON, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        command += ["--artifacts-destination", folder / "artifacts"]
        command += ["--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]]
        with (folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def answers(self):
        assert self.process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{self.uri}/health") as answer:
                return answer.read() == b"OK"
        except OSError:
            return False

    def ask(self, what, body=None, **query):
        url = f"{self.uri}/api/2.0/mlflow/{what}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, body and json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def runs(self, name):
        experiment = self.ask("experiments/get-by-name", experiment_name=EXPERIMENT)
        found = self.ask(
            "runs/search",
            {
                "experiment_ids": [experiment["experiment"]["experiment_id"]],
                "filter": f"attributes.run_name = '{name}'",
            },
        )
        return found.get("runs", [])

    def history(self, run, metric):
        """Steps, values and times of a metric, in the order of the steps."""
        number = run["info"]["run_id"]
        found = self.ask("metrics/get-history", run_id=number, metric_key=metric)["metrics"]
        points = [(int(p.get("step", 0)), p["value"], int(p["timestamp"])) for p in found]
        return sorted(points)

    def stop(self):
        processes = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in processes:
            process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = yaml.safe_load((PRESETS / "demo.yaml").read_text())
    recipe |= {"name": "tiny", "training_strategy": STRATEGY, "checkpoint_every": 10}
    recipe |= {"log_every": 5, "model_arguments": {"widths": [8, 8, 8]}}
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def tracked(server, recipe, digits, tmp_path_factory):
    """A run of two workers whose tracker hangs: it accepts connections and never answers."""
    folder = tmp_path_factory.mktemp("two") / "digits-by-two"
    command = ["recipe.py", "--recipe", recipe, "--data_dir", digits, "--run_dir", folder]
    command += ["--track", "mlflow", "--profile", "4:12"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = {"MLFLOW_TRACKING_URI": uri, "RECIPE_TRACK_SECONDS": "1"}
        ran = python(*command, workers=2, **variables)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        silent.settimeout(HANG_SECONDS)
        silent.accept()[0].close()  # it was asked
    return folder, ran


def test_a_run_ends_although_its_tracker_hangs(tracked):
    folder, ran = tracked
    (line,) = [line for line in ran.stdout.splitlines() if "tracking: " in line]
    assert line.startswith("tracking: mlflow lacks settings, 7 row(s), ")
    assert f"recipe.py track {folder} --to mlflow` sends it" in line
    log = (folder / "tracking" / "mlflow.log").read_text()
    assert log.count("mlflow: not done after 1 s; ended") == 1  # rank 1 has started none
    running = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [words for words in running if "tracking.follow" in words and str(folder) in words]


def test_rank_0_traces_the_chosen_steps_of_both_stages(tracked):
    folder, ran = tracked
    assert traced_steps(folder / "tensorboard") == [[4, 5, 6, 7, 8, 9], [10, 11]]
    assert ran.stdout.count("profile of steps") == 2


@pytest.fixture(scope="module")
def sent(server, tracked):
    """The command that the run has named, when the server answers; then MLflow's run."""
    until(server.answers)
    folder, _ = tracked
    ran = python("recipe.py", "track", folder, "--to", "mlflow", **server.environment)
    assert ran.returncode == 0, ran.stderr
    (run,) = server.runs(folder.name)
    assert ran.stdout.splitlines()[-1].endswith(f"file(s); {address(server, run)}")
    assert "mlflow: sent settings, 7 row(s), " in ran.stdout
    return run


def address(server, run):
    info = run["info"]
    return f"{server.uri}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}"


def milliseconds(folder, seconds):
    """A time on the run's clock, as MLflow counts."""
    return round((started_at(RunFolder(folder)) + seconds) * 1000)


def test_a_run_at_mlflow_is_the_run(server, tracked, sent):
    folder, _ = tracked
    assert sent["info"]["status"] == "FINISHED"
    assert sent["info"]["start_time"] == milliseconds(folder, 0)
    buckets = [float(table(folder / "clock.csv")[-1][name]) for name in BUCKETS]
    assert sent["info"]["end_time"] == milliseconds(folder, sum(buckets))
    params = {pair["key"]: pair["value"] for pair in sent["data"]["params"]}
    assert params["name"] == "tiny"
    assert params["training_strategy.2.image_size"] == "[16, 16]"
    assert params["optimizer.arguments.momentum"] == "0.9"
    tags = {pair["key"]: pair["value"] for pair in sent["data"]["tags"]}
    assert tags["workers"] == "2"
    assert tags["packages.keras"].startswith("3.")
    for name, group, columns in (
        ("train.csv", "train", ("loss", "total_loss", "learning_rate", "top5", "seconds")),
        ("evaluation.csv", "validation", ("top1", "top5", "loss")),
    ):
        rows = sorted(table(folder / name), key=lambda row: int(row["step"]))
        for column in columns:
            assert server.history(sent, f"{group}/{column}") == [
                (
                    int(row["step"]),
                    float(row[column]),
                    milliseconds(folder, float(row["seconds"])),
                )
                for row in rows
            ]
    assert [step for step, _, _ in server.history(sent, "train/loss")] == STEPS
    assert [step for step, _, _ in server.history(sent, "validation/top1")] == [0, 10, 20]


def test_the_files_of_a_run_are_at_mlflow(server, tracked, sent):
    folder, _ = tracked
    listed = server.ask("artifacts/list", run_id=sent["info"]["run_id"])["files"]
    sizes = {file["path"]: int(file["file_size"]) for file in listed}
    here = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    del here["state.json"]
    assert sizes == {name: size for name, size in here.items() if not name.startswith(".")}
    assert {"model.keras", "recipe.yaml", "accuracy_vs_time.png", "evaluation.csv"} <= set(sizes)
    query = {"run_uuid": sent["info"]["run_id"], "path": "model.keras"}
    url = f"{server.uri}/get-artifact?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == (folder / "model.keras").read_bytes()


# What rank 0 does with its trackers, without the training between.
RANK_0 = """
import sys
from tracking.beside import Followers
from training.run_folder import RunFolder

followers = Followers(["mlflow"])
followers.start(RunFolder(sys.argv[1]), lambda line: print(line, flush=True))
sys.stdin.readline()
followers.finish()
"""


def test_a_resumed_run_is_the_same_run(server, tracked, sent, tmp_path):
    """The follower sees steps that were sent and then new ones, as they are written."""
    run = RunFolder(shutil.copytree(tracked[0], tmp_path / tracked[0].name))
    rows = run.train_rows()
    run.take_up(10, workers=2, now=2)
    process = subprocess.Popen(
        [PYTHON, "-c", RANK_0, run.path],
        env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    where = address(server, sent)
    assert process.stdout.readline() == f"tracking: mlflow: {where}\n"
    (now,) = server.runs(run.path.name)
    assert now["info"]["status"] == "RUNNING"
    run.write_train_row({**rows[2], "loss": 9.0})  # step 15, with another loss
    run.write_train_row({**rows[2], "step": 18, "loss": 9.0})
    run.write_train_row({**rows[3], "step": 25, "loss": 0.5})
    said, _ = process.communicate("\n")
    assert process.returncode == 0
    assert said == f"tracking: mlflow has all of the run: {where}\n"
    (after,) = server.runs(run.path.name)
    assert after["info"]["run_id"] == sent["info"]["run_id"]
    assert after["info"]["status"] == "KILLED"  # it was not concluded
    assert [(step, loss) for step, loss, _ in server.history(after, "train/loss")] == [
        *((row["step"], row["loss"]) for row in rows),
        (25, 0.5),
    ]


def test_wandb_gets_the_run_and_a_server_that_is_not_there_is_one_message(tracked, tmp_path):
    folder = shutil.copytree(tracked[0], tmp_path / "run")
    variables = {"WANDB_MODE": "offline"}
    variables |= {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ran = python("recipe.py", "track", folder, "--to", "wandb", "--to", "mlflow", **variables)
    assert ran.returncode == 1
    assert "wandb: sent settings, 7 row(s), " in ran.stdout
    (message,) = [line for line in ran.stderr.splitlines() if line.startswith("recipe.py: ")]
    assert message.startswith("recipe.py: error: mlflow: ")
    assert "run the same command to try again" in message
    assert "Traceback" not in ran.stderr

    (local,) = (folder / "tracking" / "wandb").glob("offline-run-*")
    read = python("-m", "wandb", "leet", "inspect", "--json", local)  # W&B's own reader
    assert read.returncode == 0, read.stderr
    records = [json.loads(line) for line in read.stdout.splitlines()]

    def of(kind):
        return [record[kind] for record in records if record["type"] == kind]

    config = of("config")[-1]["update"]
    assert config["training_strategy"][1]["image_size"] == [16, 16]
    assert config["environment"]["workers"] == 2
    history = [record["item"] for record in of("history")]
    assert [row["_step"] for row in history] == list(range(len(history)))
    for name, group in (("train.csv", "train"), ("evaluation.csv", "validation")):
        found = [
            (r["step"], r["seconds"], r[f"{group}/loss"]) for r in history if f"{group}/loss" in r
        ]
        assert found == [
            (int(row["step"]), float(row["seconds"]), float(row["loss"]))
            for row in table(folder / name)
        ]
    pictures = [row for row in history if "pictures/accuracy_vs_time.path" in row]
    assert [(row["step"], row["pictures/accuracy_vs_time.format"]) for row in pictures] == [
        (20, "png")
    ]
    (model,) = of("artifact")
    (content,) = model["manifest"]["contents"]
    assert (model["type"], content["path"]) == ("model", "model.keras")
    assert int(content["size"]) == (folder / "model.keras").stat().st_size
    files = {file["path"] for record in of("files") for file in record["files"]}
    assert {"recipe.yaml", "train.csv", "train.log", "report.json"} <= files
    assert of("exit")[0].get("exit_code", 0) == 0
