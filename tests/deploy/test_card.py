"""The model card: its metadata as the Hub's documentation has them, and only what the run says."""

import re
from dataclasses import replace
from importlib import metadata

import pytest
import yaml

from deploy.card import escaped, model_card
from deploy.comparison import Checked, Comparison
from deploy.formats import FORMATS
from deploy.source import find_source
from tests.deploy.conftest import write_run

# The keys of https://github.com/huggingface/hub-docs/blob/main/modelcard.md and of
# https://huggingface.co/docs/hub/model-cards; required inside a result are those with True.
KEYS = {"language", "license", "library_name", "pipeline_tag", "tags", "datasets", "metrics"}
KEYS |= {"model-index", "base_model"}
RESULT = {
    "task": {"type": True, "name": False},
    "dataset": {"type": True, "name": True, "config": False, "split": False},
    "metrics": {"type": True, "value": True, "name": False, "config": False},
}


@pytest.fixture
def source_of(tmp_path, digits):
    def make(**changes):
        run = write_run(tmp_path / "run", digits, **changes)
        run.model.touch()
        return find_source(run.path, None)

    return make


def written(*names):
    return [Checked(FORMATS[name], 1234567, Comparison(100, 100, 2.5e-7)) for name in names]


def parts(card):
    """The metadata, and the sections by their headings."""
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return yaml.safe_load(front), dict(zip(sections[1::2], sections[2::2], strict=True))


def rows_of(section):
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_metadata_are_those_that_the_hub_documents(source_of):
    found, _ = parts(model_card(source_of(), written("onnx", "litert", "saved_model")))
    assert set(found) <= KEYS
    assert found["library_name"] == "keras"
    assert found["pipeline_tag"] == "image-classification"
    assert found["tags"] == ["image-classification", "resnet8", "onnx", "tflite"]
    assert found["metrics"] == ["accuracy"]
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "small"
    for name, known in RESULT.items():
        for item in result[name] if name == "metrics" else [result[name]]:
            assert {key for key, required in known.items() if required} <= set(item) <= set(known)
    assert result["task"]["type"] == "image-classification"
    assert [(m["value"], m["name"]) for m in result["metrics"]] == [
        (0.95, "Top-1 accuracy"),
        (1.0, "Top-5 accuracy"),
    ]
    assert "license" not in found  # nothing knows it


def test_the_times_are_those_of_the_clocks_by_hand(source_of):
    """Of 70 s in steps, 10 s before them, 4 s for the checkpoints. One was worse than before it."""
    _, sections = parts(model_card(source_of(), []))
    assert rows_of(sections["Accuracy, and the time to it"]) == [
        ["0", "10.00%", "50.00%", "0.0 s", "10.0 s", "11.0 s"],
        ["360", "90.00%", "99.00%", "30.0 s", "40.0 s", "42.0 s"],
        ["810", "95.00%", "100.00%", "70.0 s", "80.0 s", "84.0 s"],
    ]


def test_what_the_run_says_stands_in_its_section(source_of):
    _, sections = parts(model_card(source_of(), written("onnx")))
    assert rows_of(sections["Files"]) == [
        ["`model.onnx`", "onnx", "1,234,567", "2.5e-07", "100 of 100 images"]
    ]
    assert rows_of(sections["Data"])[0] == ["28/train (training)", "4,000", "8 files, 0a1b"]
    assert "10 classes" in sections["Data"]
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in sections["Data"]
    assert rows_of(sections["Recipe"])[1] == [
        *("2 to 9", "0.15 to 0.05, linear", "50", "20 x 20", "20/train", ""),
    ]
    assert "`name: TF1Momentum, arguments: {momentum: 0.9, nesterov: true}" in sections["Recipe"]
    versions = dict(rows_of(sections["Versions and hardware"]))
    assert versions["keras"] == metadata.version("keras")
    assert versions["tensorflow"] == metadata.version("tensorflow")


def test_a_phases_other_settings_are_shown(source_of):
    phase = {"epoch": [0, 18], "lr": [0.1, 0.0], "lr_method": "polynomial", "power": 3}
    phase |= {"batch_size": 50, "image_size": 28, "data_dir": "28", "momentum": [0.9, 0.95]}
    phase |= {"augmentation": {"flip": True}}
    _, sections = parts(model_card(source_of(training_strategy=[phase]), []))
    (row,) = rows_of(sections["Recipe"])
    assert row[1] == "0.1 to 0, polynomial"
    assert row[-1] == "power: 3.0, momentum: [0.9, 0.95], augmentation: {flip: true}"


def test_a_model_whose_last_checkpoint_was_not_evaluated_has_no_accuracy(source_of):
    source = source_of()
    text = source.run.evaluation_csv.read_text().splitlines(keepends=True)
    source.run.evaluation_csv.write_text("".join(text[:-1]))
    found, sections = parts(model_card(source, []))
    assert not {"model-index", "metrics"} & set(found)
    assert "was not evaluated" in sections["Accuracy, and the time to it"]
    assert "90.00%" not in model_card(source, [])


def test_what_an_accuracy_was_measured_with_is_a_limit_of_the_files(source_of):
    evaluation = {"image_size": 28, "data_dir": "28", "flip": True, "shift": 1}
    card = model_card(source_of(evaluation=evaluation, loss="binary_cross_entropy"), [])
    _, sections = parts(card)
    assert "those of `centre+flip+shift1` views" in sections["Limits"]
    assert "do not add up to 1" in sections["Limits"]
    assert "a sigmoid for each class" in sections["Load and predict"]


def test_the_crop_of_larger_records_is_that_of_the_evaluation(source_of):
    """288 of 320 pixels are 90 %: 5 % go at each side."""
    source = source_of(evaluation={"image_size": 288, "data_dir": "28"})
    card = model_card(replace(source, records_size=320), [])
    assert "ImageOps.fit(image, (288, 288), Image.Resampling.LANCZOS, bleed=0.05)" in card
    assert "short side had 320 pixels" in card
    assert "bleed" not in model_card(source, [])


def test_names_that_are_markdown_are_shown_as_they_are(source_of):
    source = source_of()
    names = ["a_b_c", "<b>", "x|y", *map(str, range(7))]
    source.run.write_classes(names)
    assert r"a\_b\_c, \<b\>, x\|y, 0, 1" in model_card(source, [])
    assert escaped("plain name, 2") == "plain name, 2"
