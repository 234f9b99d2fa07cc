"""A whole run as a user starts it, with one worker and with two."""

import csv
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from core import devices
from evaluation import predictions
from evaluation.run import evaluate_run
from training.run_folder import RunFolder

# Small enough for a test, and with all that a run has: three stages, of which the first
# holds two phases; all kinds of rates; momentum that moves; several image sizes, two
# batches, two folders; a phase with frozen layers and an augmentation of its own.
SMALL = {"batch_size": 50, "image_size": [20, 20], "data_dir": "20"}
LARGE = {"batch_size": 25, "image_size": [28, 28], "data_dir": "28"}
STRATEGY = [
    {"epoch": [0, 0.5], "lr": [0.01, 0.1], "lr_method": "linear", "momentum": [0.9, 0.8], **SMALL},
    {"epoch": [0.5, 1], "lr": [0.1, 0.05], "lr_method": "exp", "momentum": [0.8, 0.9], **SMALL},
    {"epoch": [1, 1.25], "lr": [0.05, 0.01], "lr_method": "cosine", **LARGE}
    | {"freeze": ["stem_*", "stage1_*"], "augmentation": {"padding": 0.05}}
    | {"momentum": [0.95, 0.85]},
    {"epoch": [1.25, 1.5], "lr": [0.01, 0.001], "lr_method": "polynomial", **LARGE}
    | {"image_size": [24, 24], "momentum": [0.9, 0.9]},
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The demo's recipe, cut short."""
    from training.recipes import PRESETS

    recipe = yaml.safe_load((PRESETS / "demo.yaml").read_text())
    recipe |= {
        "name": "small",
        "training_strategy": STRATEGY,
        "checkpoint_every": 30,
        "log_every": 20,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
    }
    recipe.pop("embedded_data", None)
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def changed(recipe, path, **changes):
    path.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))
    return path


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def two_workers(run_process, small, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    command = ["recipe.py", "--recipe", small, "--data_dir", digits, "--run_dir", folder]
    ran = run_process(*command, workers=2, horovodrun=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder, ran


# 4,000 digits: 40 steps an epoch of 2 x 50, 80 of 2 x 25.
STEPS = [(0, 20), (20, 40), (40, 60), (60, 80)]


def test_train_csv_has_the_columns_and_the_schedule(two_workers):
    found = rows(two_workers[0] / "train.csv")
    columns = "step epoch images_per_second loss total_loss learning_rate batch_size image_size"
    columns += " top5 seconds skipped_steps workers"
    assert list(found[0]) == columns.split()
    assert [r["step"] for r in found] == ["20", "40", "60", "80"]
    assert [r["batch_size"] for r in found] == ["50", "50", "25", "25"]
    assert [r["image_size"] for r in found] == ["20", "20", "28", "24"]
    assert [float(r["learning_rate"]) for r in found] == [0.1, 0.05, 0.01, 0.001]
    assert [float(r["epoch"]) for r in found] == [0.5, 1, 1.25, 1.5]
    for row in found:
        assert float(row["total_loss"]) > float(row["loss"]) > 0
    seconds = [float(r["seconds"]) for r in found]
    assert seconds == sorted(seconds)


def test_the_log_has_the_originals_lines(two_workers):
    log = (two_workers[0] / "train.log").read_text()
    train = re.findall(
        r"^Log @train: steps@\d+ epoch@[\d.]+ im/s@[\d.]+ loss@[\d.]+ total_loss@[\d.]+ "
        r"lr@[\d.]+ bs@\d+ sz@\d+ top5@[\d.]+ tm@[\d.]+$",
        log,
        re.M,
    )
    evaluated = re.findall(
        r"^Log @eval: count@ *\d+ step@ *\d+ top1@ *[\d.]+ top5@ *[\d.]+ loss@ *[\d.]+ "
        r"time@[-\d]+ [:\d]+$",
        log,
        re.M,
    )
    assert (len(train), len(evaluated)) == (4, 4)
    for line in train + evaluated:
        assert line in two_workers[1].stdout


def test_every_checkpoint_is_there_and_evaluated(two_workers, digits):
    folder = two_workers[0]
    steps = [0, 30, 60, 80]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        f"step-{step:08d}-workers-2.keras" for step in steps
    ]
    found = rows(folder / "evaluation.csv")
    assert sorted(int(r["step"]) for r in found) == steps
    assert {r["images"] for r in found} == {"1000"}
    own = json.loads((folder / "environment.json").read_text())["validation"]
    assert {(r["data"], r["folder"]) for r in found} == {(own, str(digits / "28"))}


def buckets(row):
    names = ("start_up", "data", "tracing", "steps", "checkpoints", "evaluation")
    return {name: float(row[name]) for name in names}


def test_the_clock_adds_up(two_workers):
    folder = two_workers[0]
    found = rows(folder / "clock.csv")
    assert [f"{r['step']} {r['event']}" for r in found] == [
        "0 checkpoint",
        "20 phase",
        "30 checkpoint",
        "40 phase",
        "60 phase",
        "60 checkpoint",
        "80 phase",
        "80 checkpoint",
        "80 end",
    ]
    written = {r["step"]: float(r["seconds"]) for r in rows(folder / "checkpoints.csv")}
    for row in found:
        if row["event"] == "checkpoint":
            assert sum(buckets(row).values()) == pytest.approx(written[row["step"]], abs=0.2)
    assert all(seconds > 0 for seconds in buckets(found[-1]).values())


def test_a_run_ends_with_its_report(two_workers, run_command, tmp_path):
    folder = two_workers[0]
    for name in (
        "accuracy_vs_time.svg",
        "schedule_vs_steps.png",
        "time_buckets.png",
        "report.html",
    ):
        assert (folder / name).stat().st_size > 0
    ran = run_command("report", folder, "--clock", "everything", "--json", "--output", tmp_path)
    assert ran.returncode == 0, ran.stderr
    (found,) = json.loads(ran.stdout)["runs"]
    last = rows(folder / "clock.csv")[-1]
    assert found["total"]["seconds"] == pytest.approx(sum(buckets(last).values()))
    assert [p["steps"] for p in found["phases"]] == [list(steps) for steps in STEPS]
    assert all(p["images_per_second"] > 0 for p in found["phases"])


def test_the_evaluation_is_what_the_saved_model_does(two_workers, digits):
    """Counted here from the records, with NumPy's ranking of the logits."""
    folder = two_workers[0]
    model = keras.saving.load_model(folder / "model.keras")
    images, labels = [], []
    for raw in tf.data.TFRecordDataset(sorted(map(str, (digits / "28").glob("validation-*")))):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        encoded = features["image/encoded"].bytes_list.value[0]
        images.append(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)
    logits = model.predict(np.stack(images), verbose=0)
    ranks = (np.argsort(-logits, axis=1) == np.array(labels)[:, None]).argmax(axis=1)
    (last,) = (r for r in rows(folder / "evaluation.csv") if r["step"] == "80")
    assert float(last["top1"]) == pytest.approx((ranks < 1).mean(), abs=1e-6)
    assert float(last["top5"]) == pytest.approx((ranks < 5).mean(), abs=1e-6)
    kept = predictions.read(folder / "predictions.csv")
    assert kept.checkpoint[:2] == (80, 2)
    assert kept.labels.tolist() == labels
    assert kept.records.tolist() == list(range(1000))
    # By probabilities: the workers' kernels may round otherwise, and two classes be nearly equal.
    probabilities = keras.ops.softmax(logits).numpy()
    sure = -np.sort(-probabilities, axis=1)[:, :5]
    np.testing.assert_allclose(kept.probabilities, sure, rtol=1e-3)
    named = np.take_along_axis(probabilities, kept.classes, axis=1)
    np.testing.assert_allclose(named, sure, rtol=1e-3)


def test_one_worker_keeps_the_predictions_of_two_once(two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "prepare_devices", lambda team: 1)  # TensorFlow has run before
    run = RunFolder(tmp_path / "run")
    shutil.copytree(two_workers[0], run.path)
    run.predictions_csv.unlink()
    evaluated = run.evaluation_csv.read_bytes()

    def evaluate(**choices):
        evaluate_run(run.path, None, follow=False, patience=1.0, choices=choices)
        return run.predictions_csv.exists()

    assert not evaluate(image_size=24)  # not how the recipe evaluates
    run.evaluation_csv.write_bytes(evaluated)
    run.write_state("training")
    assert not evaluate()  # a later checkpoint may come
    run.write_state("trained")
    assert evaluate()
    one, two = (predictions.read(path / "predictions.csv") for path in (run.path, two_workers[0]))
    for name in ("checkpoint", "files", "names"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("records", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    # This process has other threads and kernels than the workers had: classes that are nearly
    # equal may change places.
    np.testing.assert_allclose(one.probabilities, two.probabilities, rtol=1e-4)
    assert (one.classes == two.classes).mean() > 0.999
    before = run.predictions_csv.stat().st_mtime_ns
    assert evaluate()
    assert run.predictions_csv.stat().st_mtime_ns == before
    assert run.evaluation_csv.read_bytes() == evaluated


def test_half_precision_from_end_to_end(small, digits, run_process, tmp_path):
    """The recipe's own policy, which a machine without a GPU uses only on request.

    It is about thirty times slower there, so the model, its batches and the validation set,
    the first hundred of its images, are small.
    """
    data = tmp_path / "data"
    (data / "few").mkdir(parents=True)
    for folder in ("20", "28"):
        (data / folder).symlink_to(digits / folder)
    files = sorted(map(str, (digits / "28").glob("validation-*")))
    with tf.io.TFRecordWriter(str(data / "few" / "validation-00000-of-00001")) as writer:
        for record in tf.data.TFRecordDataset(files).take(100):
            writer.write(record.numpy())
    few = {"image_size": 28, "data_dir": "few", "batch_size": 50}
    strategy = [
        STRATEGY[0] | {"epoch": [0, 0.04], "batch_size": 20},
        STRATEGY[2] | {"epoch": [0.04, 0.06], "batch_size": 10, "lr": [0.1, 0.05]},
    ]
    recipe = changed(
        small,
        tmp_path / "half.yaml",
        training_strategy=strategy,
        evaluation=few,
        log_every=4,
        name="not-synthetic",  # the name alone does not make it a run on noise
        # Not narrower: in half precision oneDNN writes past the end of smaller layers.
        model_arguments={"widths": [16, 16, 16], "initial_scale": 2.0},
    )
    command = ["recipe.py", "--recipe", recipe, "--data_dir", data]
    command += ["--run_dir", tmp_path / "run", "--policy", "mixed_float16"]
    ran = run_process(*command, workers=2, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 worker(s), mixed_float16" in ran.stdout
    evaluated = rows(tmp_path / "run" / "evaluation.csv")
    assert {(r["step"], r["images"]) for r in evaluated} == {("0", "100"), ("8", "100")}
    found = rows(tmp_path / "run" / "train.csv")
    assert [r["step"] for r in found] == ["4", "8"]
    assert all(np.isfinite(float(r["total_loss"])) for r in found)
    checkpoints = tmp_path / "run" / "checkpoints"
    first, last = (
        keras.saving.load_model(checkpoints / f"step-{step:08d}-workers-2.keras", compile=False)
        for step in (0, 8)
    )
    convolutions = [layer for layer in last.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.dtype_policy.name for layer in convolutions} == {"mixed_float16"}
    kernels = [
        (a, b) for a, b in zip(first.weights, last.weights, strict=True) if "kernel" in a.path
    ]
    assert all(np.isfinite(b).all() and not np.array_equal(a, b) for a, b in kernels)
    result = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert {layer.dtype_policy.name for layer in result.layers} == {"float32"}


def test_the_model_is_plain(two_workers, run_process, tmp_path):
    shutil.copy(two_workers[0] / "model.keras", tmp_path)
    code = (
        "import keras, numpy as np\n"
        "m = keras.saving.load_model('model.keras')\n"
        "assert type(m) is keras.Model or type(m).__name__ == 'Functional'\n"
        "assert not m.compiled and m.dtype_policy.name == 'float32'\n"
        "assert m.predict(np.zeros((2, 33, 31, 3), 'uint8'), verbose=0).shape == (2, 10)\n"
    )
    ran = run_process("-c", code, cwd=tmp_path, PYTHONPATH="")
    assert ran.returncode == 0, ran.stderr


def test_it_ends_by_saying_where_things_are(two_workers):
    folder, ran = two_workers
    for name in ("model.keras", "train.log", "accuracy_vs_time.png", "report.html"):
        assert str(folder / name) in ran.stdout
        assert (folder / name).stat().st_size > 0
    assert "float32, not in the recipe's mixed_float16" in ran.stdout
    (events,) = (folder / "tensorboard").glob("events*")
    scalars = {
        (value.tag, event.step): value.simple_value
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    for row in rows(folder / "train.csv"):
        assert scalars["train/top5", int(row["step"])] == pytest.approx(float(row["top5"]), 1e-5)
    for row in rows(folder / "evaluation.csv"):
        top1 = scalars["validation/top1", int(row["step"])]
        assert top1 == pytest.approx(float(row["top1"]), 1e-5)
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["name"] == "small"


def test_in_a_pipe_there_is_no_progress_bar(two_workers):
    assert "80/80" not in two_workers[1].stderr
    assert "\r" not in two_workers[1].stderr


def no_data(small, digits, folder):
    return ["--recipe", small, "--data_dir", folder / "nowhere"], "nowhere"


def no_data_named(small, digits, folder):
    return ["--recipe", small], "--data_dir is missing"


def empty_folder(small, digits, folder):
    (folder / "data" / "20").mkdir(parents=True)
    shutil.copytree(digits / "28", folder / "data" / "28")
    return ["--recipe", small, "--data_dir", folder / "data"], str(folder / "data" / "20")


def unknown_recipe(small, digits, folder):
    return ["--recipe", "nope", "--data_dir", digits], "recipe 'nope'"


def too_few_classes(small, digits, folder):
    recipe = changed(small, folder / "r.yaml", classes=9)
    return ["--recipe", recipe, "--data_dir", digits], "10 classes, but the recipe has classes: 9"


def label_outside(small, digits, folder):
    shutil.copytree(digits, folder / "data")
    for size in ("20", "28"):
        (folder / "data" / size / "manifest.json").unlink()
    recipe = changed(small, folder / "r.yaml", classes=9)
    return (
        ["--recipe", recipe, "--data_dir", folder / "data"],
        "its labels run from 1 to 10, which 9 classes have neither from 0",
    )


def unknown_model(small, digits, folder):
    recipe = changed(small, folder / "r.yaml", model="resnet9")
    return ["--recipe", recipe, "--data_dir", digits], "resnet9"


def unknown_optimizer(small, digits, folder):
    recipe = changed(small, folder / "r.yaml", optimizer={"name": "Sdg"})
    return ["--recipe", recipe, "--data_dir", digits], "'Sdg'; use TF1Momentum, Muon, LARS or"


def batch_too_large(small, digits, folder):
    phase = {**STRATEGY[0], "epoch": [0, 1], "batch_size": 4001}
    recipe = changed(small, folder / "r.yaml", training_strategy=[phase])
    return ["--recipe", recipe, "--data_dir", digits], "phase 1, key 'batch_size': received 4001"


def mpirun_without_mpi(small, digits, folder):
    """Open MPI sets `MPIRUN` for each process; without a common Horovod, each would train alone."""
    message = "2 workers were launched, but Horovod finds 1; use horovodrun, or build Horovod with"
    return ["--recipe", small, "--data_dir", digits], message


MPIRUN = {"OMPI_COMM_WORLD_SIZE": "2"}


def a_run_that_is_there(small, digits, folder):
    return (  # put there by `made`
        ["--recipe", small, "--data_dir", digits],
        "already holds a run; --resume resumes it, --overwrite deletes it",
    )


MISTAKES = [
    no_data,
    no_data_named,
    empty_folder,
    unknown_recipe,
    too_few_classes,
    label_outside,
    unknown_model,
    unknown_optimizer,
    batch_too_large,
    a_run_that_is_there,
    mpirun_without_mpi,
]
MISTAKES_OF_TWO = [no_data, empty_folder, unknown_recipe, label_outside, a_run_that_is_there]

# The command lines one after the other in one process: its start takes longer than they do.
SERIES = """
import json, os, sys
import recipe
from launch import supervisor
from launch.supervisor import exit_status

patience = supervisor.SILENCE_SECONDS

def series():
    lines = json.loads(sys.argv[1])
    for number, (line, variables) in enumerate(lines, 1):
        sys.argv[1:] = line
        os.environ.update(variables)
        # Rank 0 has not ended before the last one.
        supervisor.SILENCE_SECONDS = patience if number == len(lines) else 0
        status = exit_status(recipe.main)
        print("ended with", status, file=sys.stderr, flush=True)
    return status

sys.exit(supervisor.supervise(series))
"""


def made(mistakes, run_process, small, digits, finished, folder, workers):
    """For each mistake: its message, what the workers said, and what was in its folder."""
    shutil.copytree(finished, folder / a_run_that_is_there.__name__ / "run")
    lines, messages, before = [], {}, {}
    for mistake in mistakes:
        own = folder / mistake.__name__
        own.mkdir(exist_ok=True)
        arguments, messages[mistake] = mistake(small, digits, own)
        line = [*map(str, arguments), "--run_dir", str(own / "run")]
        lines.append((line, MPIRUN if mistake is mpirun_without_mpi else {}))
        before[mistake] = contents(own)
    ran = run_process("-c", SERIES, json.dumps(lines), workers=workers)
    assert ran.returncode == 2, ran.stderr
    said = {mistake: [] for mistake in mistakes}
    for rank in range(workers):
        start = f"[{rank}] " if rank else ""
        rest = iter([line for line in ran.stderr.splitlines() if is_of(rank, line)])
        for mistake in mistakes:
            for line in rest:
                said[mistake].append(line.removeprefix(start))
                if said[mistake][-1].startswith("ended with"):
                    break
    return {m: (messages[m], said[m], folder / m.__name__, before[m]) for m in mistakes}


def is_of(rank, line):
    """Whether our launcher shows this line as of worker `rank` of two."""
    return line.startswith("[1] ") == (rank == 1)


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made_by_one(run_process, small, digits, two_workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return made(MISTAKES, run_process, small, digits, two_workers[0], folder, workers=1)


@pytest.fixture(scope="module")
def made_by_two(run_process, small, digits, two_workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return made(MISTAKES_OF_TWO, run_process, small, digits, two_workers[0], folder, workers=2)


def check_that_one_message_is_all(made, mistake):
    message, said, folder, before = made[mistake]
    (found,) = [line for line in said if "recipe.py: error: " in line]
    assert message in found
    # With two workers, the launcher ends rank 1 when rank 0 ends with the last mistake.
    assert {line for line in said if line.startswith("ended with")} == {"ended with 2"}
    assert "Traceback" not in "\n".join(said)
    assert contents(folder) == before  # no run was started, and none was overwritten


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(made_by_one, mistake):
    check_that_one_message_is_all(made_by_one, mistake)


@pytest.mark.parametrize("mistake", MISTAKES_OF_TWO)
def test_a_mistake_is_one_message_from_two_workers(made_by_two, mistake):
    check_that_one_message_is_all(made_by_two, mistake)
