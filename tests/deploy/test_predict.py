"""`recipe.py predict`: the classes of image files, as the evaluation finds them in the records."""

import csv
import io
import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

from core.errors import RunError, UserError
from core.settings import Evaluation
from datasets.build.sources.layouts import BuildOptions
from datasets.build_imagenet_data import build
from datasets.input.validation import evaluation_pipeline
from deploy.predict import find_images, find_trained, predict
from evaluation.evaluator import Evaluator
from launch import commands
from training import model
from training.inputs import find_validation
from training.recipes import load_recipe
from training.run_folder import RunFolder

NAMES = [f"digit, {number}" for number in range(10)]  # a comma, for CSV


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo").model_copy(
        update={"model_arguments": {"widths": [16, 16, 16], "initial_scale": 2.0}}
    )


def write_run(path, recipe, data_dir):
    run = RunFolder(path)
    run.start(recipe, {"data_dir": str(data_dir)})
    run.write_classes(NAMES)
    keras.utils.set_random_seed(0)
    net = model.build(recipe)
    for variable in net.variables:  # so that probabilities differ
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, variable.shape)
        variable.assign(variable.numpy() + noise)
    net.save(run.model)
    return run


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Images as people have them, of all modes and shapes; one for each class."""
    tree = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (6, 8, 4), "uint8"), "RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a right angle
    rgb = noise.convert("RGB").resize((80, 60), Image.Resampling.BICUBIC)
    for number, (name, image, options) in enumerate(
        [
            ("plain.jpg", rgb, {}),
            ("turned.jpg", rgb, {"exif": turned}),
            ("cmyk.jpg", rgb.convert("CMYK"), {}),
            ("transparent.png", noise.resize((50, 90)), {}),
            ("grey.png", rgb.convert("L").convert("I;16"), {}),
            ("wide.webp", rgb.resize((120, 40)), {}),
            ("palette.gif", rgb.convert("P"), {}),
            ("small.bmp", rgb.resize((20, 12)), {}),
            ("upright.jpg", rgb.resize((40, 60)), {"progressive": True}),
            ("square.jpg", rgb.resize((28, 28)), {}),
        ]
    ):
        for split in ("train", "val"):
            (folder := tree / split / str(number)).mkdir(parents=True)
            image.save(folder / name, **options)
    return tree


@pytest.mark.parametrize(
    "settings",
    [{}, {"rectangular": True, "flip": True}, {"image_size": 20, "shift": 1}],
    ids=["centre", "rectangular", "shifted"],
)
def test_a_file_gets_the_prediction_of_its_record(photographs, recipe, tmp_path, settings):
    """The builder makes records of the files, and the evaluation reads those."""
    if not (root := photographs / "records").exists():
        build(BuildOptions(photographs, root, (28,), processes=1, progress=False, quality=70))
    evaluation = Evaluation.model_validate(recipe.evaluation.model_dump() | settings)
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    run = write_run(tmp_path / "run", recipe, root)
    records = find_validation(root, recipe)

    def batches(share, shares, placed):
        return evaluation_pipeline(records, evaluation, 10, share, shares, 1, placed)

    net = keras.saving.load_model(run.model)
    nothing = Evaluator(net, lambda _: None, batches, evaluation.flip, evaluation.shift)
    expected = {name: rest for _, name, _, *rest in nothing.predict(run.model)}
    paths = find_images([photographs / "val"])
    found = list(predict(find_trained(run.path), paths, 5))
    assert [one.image for one in found] == paths
    assert len(expected) == len(found) == 10
    for one in found:
        classes, probabilities = expected[one.image.name]
        names, sure = zip(*one.likeliest, strict=True)
        assert sure == pytest.approx(probabilities, rel=1e-4)
        assert list(names) == [NAMES[i] for i in classes]


def test_without_the_records_their_size_is_that_of_the_folders_name(photographs, recipe, tmp_path):
    run = write_run(tmp_path / "run", recipe, tmp_path / "gone")
    trained = find_trained(run.model)  # the file in the folder will do
    assert (trained.short_side, trained.quality) == (28, None)
    assert trained.classes == tuple(NAMES)
    run.classes_file.unlink()
    assert find_trained(run.path).classes == tuple("0123456789")
    evaluation = recipe.evaluation.model_copy(update={"data_dir": "."})
    other = write_run(tmp_path / "b", recipe.model_copy(update={"evaluation": evaluation}), "gone")
    # An image keeps its size, as in records that were made elsewhere.
    trained = find_trained(other.path)
    assert trained.short_side is None
    (one,) = predict(trained, [photographs / "val" / "0" / "plain.jpg"], 1)
    assert len(one.likeliest) == 1


@pytest.fixture
def odd(photographs, tmp_path):
    """A folder with two images, three files that are none, and one that is hidden."""
    folder = tmp_path / "odd"
    (folder / "below").mkdir(parents=True)
    good = (photographs / "val" / "0" / "plain.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(good)
    (folder / "below" / "a.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").write_text("neither")
    return folder


def call(*arguments):
    commands.predict.main([str(argument) for argument in arguments], standalone_mode=False)


def test_bad_files_are_named_and_the_others_predicted(recipe, digits, odd, tmp_path, capsys):
    run = write_run(tmp_path / "run", recipe, digits)
    with pytest.raises(RunError, match="3 of 5 files could not be predicted"):
        call(run.path, odd, "--format", "csv", "--top", 2)
    told = capsys.readouterr()
    assert [line.split(": ")[0] for line in told.err.splitlines()] == [
        str(odd / name) for name in ("cut.jpg", "empty.png", "notes.txt")
    ]
    assert "empty.png: empty file" in told.err
    assert "notes.txt: not an image: JPEG, PNG" in told.err
    header, *rows = csv.reader(io.StringIO(told.out))
    assert header == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row[0] for row in rows] == [str(odd / "b.jpg"), str(odd / "below" / "a.jpg")]
    assert rows[0][1:] == rows[1][1:]
    assert rows[0][1] in NAMES

    call(run.path, odd / "b.jpg", "--format", "json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == str(odd / "b.jpg")
    likeliest = [(one["class"], one["probability"]) for one in found["likeliest"]]
    assert [likeliest[0][0], likeliest[1][0]] == [rows[0][1], rows[0][3]]
    assert likeliest[0][1] == pytest.approx(float(rows[0][2]), rel=1e-5)
    assert len(likeliest) == 5

    call(run.path, odd / "b.jpg", "--top", 30)
    table = capsys.readouterr().out
    assert table.index(rows[0][1]) < table.index(rows[0][3])
    assert all(name in table for name in NAMES)
    assert len(re.findall(r"\d+\.\d\d%", table)) == 10


def no_run(run, odd):
    run.recipe_file.unlink()
    return [run.path, odd], "there is no recipe.yaml in"


def no_model(run, odd):
    run.model.unlink()
    return [run.path, odd], "there is no model.keras yet; it is written when the run ends"


def nowhere(run, odd):
    return [run.path / "gone", odd], "gone: no such file or folder; name the folder of a run"


def no_image(run, odd):
    return [run.path, odd / "b.jpg", odd / "c.jpg"], "c.jpg: no such file or folder"


def empty_folder(run, odd):
    (odd / "nothing").mkdir()
    return [run.path, odd / "nothing"], "nothing: holds no files"


@pytest.mark.parametrize("mistake", [no_run, no_model, nowhere, no_image, empty_folder])
def test_a_mistake_is_one_message(recipe, odd, tmp_path, mistake):
    run = RunFolder(tmp_path / "run")
    run.start(recipe, {})
    run.model.touch()
    arguments, message = mistake(run, odd)
    with pytest.raises(UserError, match=re.escape(message)):
        call(*arguments)


def test_a_model_that_does_not_fit_is_one_message(recipe, odd, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(recipe, {})
    run.model.write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(UserError, match=r"model\.keras' cannot be loaded: "):
        call(run.path, odd / "b.jpg")
    run = write_run(tmp_path / "other", recipe, "gone")
    run.write_classes(NAMES[:9])
    with pytest.raises(UserError, match="has 10 classes, but its run's folder names 9"):
        call(run.path, odd / "b.jpg")


def test_a_mistake_is_reported_before_tensorflow_is_imported(run_process, tmp_path):
    code = (
        "import sys\n"
        f"sys.argv = ['recipe.py', 'predict', {str(tmp_path)!r}, 'a.jpg']\n"
        "import recipe\n"
        "from launch.supervisor import exit_status\n"
        "status = exit_status(recipe.main)\n"
        "assert not {'tensorflow', 'keras', 'horovod', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(status)\n"
    )
    ran = run_process("-c", code)
    assert ran.returncode == 2, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"recipe.py: error: {tmp_path}: there is no recipe.yaml")
