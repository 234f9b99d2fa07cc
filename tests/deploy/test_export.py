"""Exports of a run, as each runtime reads them, and what is left where one goes wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from core import workers
from core.errors import RunError, UserError
from deploy import export as exports
from deploy import runtimes, writers
from deploy.formats import FORMATS
from deploy.source import find_source
from launch import commands
from tests.deploy.conftest import PYTHON, write_run
from tests.waiting import HANG_SECONDS

needs_runtimes = pytest.mark.skipif(
    not PYTHON.exists(), reason="no runtimes; `make test-extras` installs them"
)
KERAS_FILES = {"config.json", "metadata.json", "model.weights.h5"}
ALWAYS = KERAS_FILES | {"classes.txt", "export.json", "recipe.yaml", "README.md"}


@pytest.fixture(scope="module")
def images(digits):
    """Five digits that no export was compared on: the last of the validation records."""
    (records,) = sorted((digits / "28").glob("validation-*"))
    found = []
    for raw in tf.data.TFRecordDataset(str(records)).skip(995):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        jpeg = features["image/encoded"].bytes_list.value[0]
        found.append(tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"))
    return np.stack(found)


@pytest.fixture(scope="module")
def expected(finished, images):
    """SciPy's softmax of what Keras makes of the run's model."""
    logits = keras.saving.load_model(finished.model).predict(images, verbose=0)
    return scipy.special.softmax(logits.astype("float64"), axis=1)


def test_tensorflow_serves_batches_of_any_size(exported, images, expected):
    loaded = tf.saved_model.load(exported[0] / "saved_model")
    for count in (1, 3, 5):
        found = loaded.serve(tf.constant(images[:count])).numpy()
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    signature = loaded.signatures["serving_default"]
    assert signature.inputs[0].dtype == tf.uint8
    assert signature.inputs[0].shape.as_list() == [None, 28, 28, 3]
    assert {output.dtype for output in signature.outputs} == {tf.float32}


def test_litert_in_tensorflow_predicts_the_same(exported, images, expected):
    interpreter = tf.lite.Interpreter(str(exported[0] / "model.tflite"))
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert image["dtype"] == np.uint8
    interpreter.resize_tensor_input(image["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], images)
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(output["index"]), expected, atol=1e-5)


def test_the_folder_loads_by_keras_as_it_would_from_the_hub(exported, images, expected):
    assert {path.name for path in exported[0].iterdir()} > ALWAYS
    model = keras.saving.load_model(exported[0])  # what Keras calls on a snapshot of hf://
    logits = model.predict(images, verbose=0).astype("float64")
    np.testing.assert_allclose(scipy.special.softmax(logits, axis=1), expected, atol=1e-5)
    assert model(np.zeros((1, 20, 24, 3), "uint8")).shape == (1, 10)


def test_the_code_of_the_card_finds_the_class(
    exported, finished, digits, tmp_path, monkeypatch, capsys
):
    """The code of the README.md in the folder, on a digit, as it stands."""
    shutil.copytree(exported[0], tmp_path, dirs_exist_ok=True)
    (records,) = sorted((digits / "28").glob("validation-*"))
    (raw,) = tf.data.TFRecordDataset(str(records)).take(1)
    feature = tf.train.Example.FromString(raw.numpy()).features.feature["image/encoded"]
    (tmp_path / "image.jpg").write_bytes(feature.bytes_list.value[0])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 9
    exec(code, {})
    pixels = tf.io.decode_jpeg(feature.bytes_list.value[0], channels=3).numpy()
    logits = keras.saving.load_model(finished.model)(pixels[np.newaxis])
    assert capsys.readouterr().out.split() == [str(int(np.argmax(logits)))]


def test_the_names_of_the_classes_are_inside(exported):
    names = "".join(f"{digit}\n" for digit in range(10))
    folder = exported[0]
    assert (folder / "classes.txt").read_text() == names
    assert (folder / "saved_model" / "assets.extra" / "classes.txt").read_text() == names
    assert zipfile.ZipFile(folder / "model.tflite").read("classes.txt").decode() == names


def test_no_path_of_this_machine_is_in_the_folder(exported, root, digits):
    folder = exported[0]
    for file in (path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        for path in (root, digits.parent, folder.parent.parent, Path(sys.prefix)):
            assert str(path).encode() not in data, file


USE = """
import json, os, sys
import numpy as np
exec(open(sys.argv[2]).read())
assert not {"keras", "tensorflow"} & set(sys.modules)
from deploy.runtimes import RUNTIMES
images = np.load(sys.argv[1])
files = {"onnx": "model.onnx", "openvino": "openvino", "litert": "model.tflite"}
for name, file in files.items():
    predict = RUNTIMES[name](__import__("pathlib").Path(file))
    np.save(f"{name}.npy", np.concatenate([predict(images[:2]), predict(images[2:])]))
import openvino
print(openvino.Core().read_model("openvino/model.xml").get_rt_info(["model_info", "classes"]).value)
assert not {"keras", "tensorflow"} & set(sys.modules)
"""


def test_the_command_shows_what_each_runtime_found(exported):
    """100 images of real records, in two batches."""
    folder, said = exported
    rows = [line.split("│") for line in said.splitlines() if "100 of 100 images" in line]
    formats = ["keras", *(FORMATS if PYTHON.exists() else ("saved_model", "litert"))]
    assert [row[1].strip() for row in rows] == formats
    assert max(float(row[4]) for row in rows) < 1e-5
    files = {row[2].strip() for row in rows[1:]}
    assert {path.name for path in folder.iterdir()} == ALWAYS | files
    assert ("`pip install -r requirements-export.txt`" in said) == (not PYTHON.exists())


@needs_runtimes
def test_onnx_openvino_and_litert_without_keras(root, exported, images, expected, tmp_path):
    """By their own runtimes in a process without Keras; ONNX as docs/export.md shows it."""
    shutil.copytree(exported[0], tmp_path, dirs_exist_ok=True)
    (shown,) = re.findall(r"```python\n(.*?)```", (root / "docs/export.md").read_text(), re.DOTALL)
    (tmp_path / "shown.py").write_text(shown)
    (tmp_path / "use.py").write_text(USE)
    np.save(tmp_path / "images.npy", images)
    Image.fromarray(images[0]).save(tmp_path / "image.jpg", quality=100, subsampling=0)
    ran = subprocess.run(
        [PYTHON, "use.py", "images.npy", "shown.py"],
        **{"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(root)}, "text": True},
        **{"capture_output": True, "timeout": HANG_SECONDS},
    )
    assert ran.returncode == 0, ran.stderr
    for name in ("onnx", "openvino", "litert"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-5)
    *likeliest, names = ran.stdout.splitlines()
    assert json.loads(names) == [str(digit) for digit in range(10)]
    assert [line.split()[1] for line in likeliest] == [str(n) for n in np.argsort(-expected[0])[:5]]


@pytest.fixture
def quick(monkeypatch):
    """A small model and noise in the place of the run's, to try what is around them."""
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(10, kernel_initializer="ones")(pooled))
    model.layers[-1].bias.assign(np.arange(10.0))
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 3), dtype="uint8")
    monkeypatch.setattr(exports, "load_model", lambda source: model)
    monkeypatch.setattr(exports, "validation_images", lambda source: noise)
    fake("saved_model", monkeypatch)
    fake("litert", monkeypatch)


def fake(name, monkeypatch, predict=None, fail=False):
    """A format that is written at once; its runtime answers as Keras does, or otherwise."""

    def write(model, names, folder):
        (folder / FORMATS[name].files[0]).write_bytes(b"half")
        if fail:
            raise OSError(28, "No space left on device")
        write.model = model

    answer = predict or (lambda images: write.model(images).numpy())
    monkeypatch.setitem(writers.WRITERS, name, write)
    monkeypatch.setitem(runtimes.RUNTIMES, name, lambda path: answer)


def batches_of_one(images):
    if len(images) > 1:
        raise ValueError(f"{len(images)} images")
    return np.eye(10, dtype="float32")[:1]


def invoke(*arguments):
    return CliRunner().invoke(commands.export, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"fail": True}, r"litert: cannot be written and loaded: OSError: .*No space left"),
        (
            {"predict": lambda images: np.eye(10, dtype="float32")[np.arange(len(images)) % 10]},
            r"litert: differs from the Keras model: the same class first on \d+ of",
        ),
        (
            {"predict": batches_of_one},
            r"litert: cannot be written and loaded: ValueError: 99 images",
        ),
        ({"predict": lambda images: np.zeros((len(images), 9))}, r"returns \[100, 9\], not \[100,"),
    ],
)
def test_a_format_that_fails_is_left_out_and_the_others_are_kept(
    run, quick, monkeypatch, fault, said
):
    fake("litert", monkeypatch, **fault)
    result = invoke(run.path, "--format", "saved_model,litert")
    assert isinstance(result.exception, RunError)  # status 1
    assert re.search(said, str(result.exception))
    assert {path.name for path in run.export.iterdir()} == ALWAYS | {"saved_model"}
    assert "litert" not in (run.export / "README.md").read_text()


def test_a_new_export_replaces_the_old_one_and_nothing_else(run, quick):
    assert invoke(run.path, "--format", "saved_model").exit_code == 0
    (run.export / ".git").mkdir()
    (run.export / "notes.md").write_text("mine")
    (run.export / ".unfinished" / "onnx").mkdir(parents=True)  # an export was killed
    assert invoke(run.path, "--format", "litert").exit_code == 0
    found = {path.name for path in run.export.iterdir()}
    assert found == ALWAYS | {"model.tflite", ".git", "notes.md"}
    assert [row["format"] for row in json.loads((run.export / "export.json").read_text())] == [
        "keras",
        "litert",
    ]


def test_an_export_that_is_broken_off_leaves_the_old_one(run, quick, monkeypatch):
    source = find_source(run.path, None)
    exports.export(source, [FORMATS["saved_model"]], run.export)
    before = {path: path.stat() for path in run.export.rglob("*")}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(exports, "model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        exports.export(source, [FORMATS["saved_model"]], run.export)
    assert {path: path.stat() for path in run.export.rglob("*")} == before
    with pytest.raises(KeyboardInterrupt):
        exports.export(source, [], run.path / "new")
    assert not (run.path / "new").exists()


def test_of_several_workers_one_exports(run, monkeypatch):
    monkeypatch.setenv(workers.LAUNCHED_RANK, "1")
    assert invoke(run.path, "--format", "saved_model").exit_code == 0
    assert not run.export.exists()


def test_where_keras_does_not_load_it_nothing_is_exported(run, quick, monkeypatch):
    def damage(model, folder):
        model.save(str(folder), zipped=False)
        (folder / "model.weights.h5").write_bytes(b"")

    monkeypatch.setattr(writers, "write_keras", damage)
    with pytest.raises(RunError, match=r"model\.keras: cannot be written and loaded: "):
        exports.export(find_source(run.path, None), [], run.export)
    assert not run.export.exists()


def test_what_is_missing_is_said_and_ends_badly_only_where_it_was_asked_for(
    run, quick, monkeypatch
):
    monkeypatch.setattr(
        commands, "missing_packages", lambda format: ["x"] * (format.name[0] == "o")
    )
    monkeypatch.setattr(commands, "what_to_install", lambda formats: "not exported: onnx")
    result = invoke(run.path)
    assert (result.exit_code, "not exported: onnx" in result.output) == (0, True)
    assert {"saved_model", "model.tflite"} <= {path.name for path in run.export.iterdir()}
    result = invoke(run.path, "--format", "litert,onnx")
    assert isinstance(result.exception, RunError)
    assert isinstance(invoke(run.path, "--format", "onnx").exception, UserError)


@pytest.mark.parametrize("before", [None, "1"])
def test_openvino_reports_nothing_to_its_makers(monkeypatch, before):
    """Its converter is silent where the variable CI is "true"; the user's own comes back."""
    monkeypatch.delenv("CI", raising=False)
    if before:
        monkeypatch.setenv("CI", before)
    with writers._no_reports():
        assert os.environ["CI"] == "true"
    assert os.environ.get("CI") == before


@pytest.mark.parametrize("binary", [False, True])
def test_probabilities_are_those_of_the_loss(binary):
    logits = np.array([[0.0, 1.0, -2.0]])
    image = keras.Input((None, None, 3))
    layer = keras.layers.Dense(3, kernel_initializer="zeros")
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, layer(pooled))
    layer.bias.assign(logits[0])
    found = writers.classifier(model, 4, binary)(np.zeros((1, 4, 4, 3), "uint8")).numpy()
    by_scipy = scipy.special.expit(logits) if binary else scipy.special.softmax(logits)
    np.testing.assert_allclose(found, by_scipy, atol=1e-6)


def test_the_loss_of_the_recipe_chooses_the_probabilities(tmp_path, digits):
    for loss, apart in (("cross_entropy", False), ("binary_cross_entropy", True)):
        run = write_run(tmp_path / loss, digits, loss=loss)
        run.model.touch()
        assert find_source(run.path, None).recipe.classes_apart == apart


def test_mistakes_are_said_before_tensorflow_is_imported(run_process, tmp_path, digits):
    """In one process, since each start costs a second: what was typed, and what is to be read."""
    run = write_run(tmp_path / "run", digits)
    done = write_run(tmp_path / "done", digits)
    done.model.touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    cases = [
        ([tmp_path], "holds no run"),
        ([run.path], "holds no model.keras, which a run writes at its end; add --resume"),
        ([done.path, "--format", "h5"], "'h5' is not one of saved_model, onnx, litert, openvino"),
        ([done.path, "--output", done.model], "is a file; name a folder"),
        ([done.path, "--output", tmp_path / "mine"], "holds README.md, but no export"),
        ([done.path, "--data_dir", tmp_path / "gone"], "--data_dir names the folder where the run"),
    ]
    code = """
import json, sys
from click.testing import CliRunner
from launch.commands import export
for arguments in json.loads(sys.argv[1]):
    error = CliRunner().invoke(export, arguments).exception
    print(type(error).__name__, str(error).replace("\\n", " "))
assert "tensorflow" not in sys.modules
"""
    typed = json.dumps([[str(a) for a in arguments] for arguments, _ in cases])
    ran = run_process("-c", code, typed)
    assert ran.returncode == 0, ran.stderr
    for line, (_, said) in zip(ran.stdout.splitlines(), cases, strict=True):
        assert line.startswith(("UserError", "DataError"))
        assert said in line
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


def test_an_export_needs_the_records_that_the_model_knows(run, digits):
    run.write_classes(["zero", *map(str, range(1, 10))])
    with pytest.raises(UserError, match=r"its class 1 is '0', the model's is 'zero'"):
        find_source(run.path, None)


def test_a_model_of_another_recipe_is_refused(finished, tmp_path, digits):
    run = write_run(tmp_path / "run", digits, model_arguments={"widths": [8, 8, 16]})
    shutil.copy(finished.model, run.model)
    with pytest.raises(UserError, match=r"model\.keras': of another model than the run's recipe"):
        exports.load_model(find_source(run.path, None))
