"""Recipes from files of all kinds, and what is refused in them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from training.recipes import Recipe, load_recipe, presets

# As it stands in the original's source, spaces and all.
LITERAL = """training_strategy = [
{'epoch':[0,6], 'lr': [1.0,2.0],'lr_method':'linear','batch_size':740, 'image_size':(128, 128), 'data_dir':'160', 'prefix':'train'},
{'epoch':[6,21], 'lr': [2.0,0.45],'lr_method':'linear','batch_size':740, 'image_size':(128, 128), 'data_dir':'160', 'prefix':'train'},
{'epoch':[21,32], 'lr': [0.45,0.02],'lr_method':'exp','batch_size':256, 'image_size':(224, 224), 'data_dir':'320', 'prefix':'train'},
{'epoch':[32,36], 'lr': [0.02,0.004],'lr_method':'exp','batch_size':196, 'image_size':(224, 224), 'data_dir':'320', 'prefix':'train'},
{'epoch':[36,40], 'lr': [0.004,0.002],'lr_method':'exp','batch_size':128, 'image_size':(288, 288), 'data_dir':'320', 'prefix':'train'}
]
"""  # noqa: E501
PHASE = {
    "epoch": [0, 1],
    "lr": [0.1, 0.2],
    "lr_method": "linear",
    "batch_size": 8,
    "image_size": [32, 32],
    "data_dir": "32",
}


def test_the_presets_are_there_and_load():
    assert {"demo", "cifar10", "imagenet104"} <= set(presets())
    for name in presets():
        assert load_recipe(name).name == name


def test_imagenet104_has_the_published_settings():
    recipe = load_recipe("imagenet104")
    assert recipe.optimizer.arguments == {"momentum": 0.9, "nesterov": True}
    assert (recipe.l2, recipe.loss_scale, recipe.policy) == (2e-4, 256, "mixed_float16")
    assert (recipe.mean, recipe.std) == ((121, 115, 100), (70, 68, 71))
    assert (recipe.evaluation.image_size, recipe.evaluation.data_dir) == (288, "320")
    assert recipe.checkpoint_every == 625
    assert recipe.label_smoothing == 0


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".json", ".txt"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_originals_literal_loads_as_it_is(tmp_path, suffix, bare):
    path = tmp_path / f"mine{suffix}"
    path.write_text(LITERAL.removeprefix("training_strategy = ") if bare else LITERAL)
    recipe = load_recipe(path)
    assert recipe.training_strategy == load_recipe("imagenet104").training_strategy


def test_the_literal_inside_yaml_loads_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: 10\n" + LITERAL.replace(" = ", ": ", 1).replace("\n]", "\n  ]"))
    recipe = load_recipe(path)
    assert recipe.classes == 10
    assert recipe.training_strategy == load_recipe("imagenet104").training_strategy


def test_a_python_file_is_data_with_the_last_assignment_counting(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f'"""A recipe."""\nclasses = 7\nl2 = 1\n{LITERAL}\nl2 = 0.5  # rather\n')
    recipe = load_recipe(path)
    assert (recipe.classes, recipe.l2) == (7, 0.5)


def test_json_loads(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"classes": 3, "training_strategy": [PHASE]}))
    assert load_recipe(path).classes == 3


def test_python_is_never_run(tmp_path):
    touched = tmp_path / "touched"
    path = tmp_path / "mine.py"
    path.write_text(f"open({str(touched)!r}, 'w')\n{LITERAL}")
    with pytest.raises(UserError, match=r"line 1.*never run"):
        load_recipe(path)
    path.write_text(f"classes = len(open({str(touched)!r}, 'w').name)\n{LITERAL}")
    with pytest.raises(UserError, match=r"line 1: 'classes' is not a literal"):
        load_recipe(path)
    assert not touched.exists()


REFUSALS = {
    "yaml": ("a: [", r"not readable as a recipe"),
    "yaml tags": ("!!python/object/apply:os.system ['true']", "not readable as a recipe"),
    "a number": ("3", "received 3"),
    "no strategy": ("classes: 3", "key 'training_strategy' is missing"),
    "empty strategy": ("training_strategy: []", "training_strategy is empty"),
    "unknown key": ({"momentum": 1}, "key 'momentum' is not known here; received 1"),
    "unknown key within": ({"optimizer": {"nam": 1}}, "key 'optimizer.nam' is not known"),
    "one class": ({"classes": 1}, "key 'classes': received 1"),
    "policy": ({"policy": "float8"}, "key 'policy': received 'float8'.*mixed_float16"),
    "batch norm": ({"batch_norm": True}, "key 'batch_norm': received True.*'fused'"),
    "smoothing": ({"label_smoothing": 1.0}, "key 'label_smoothing': received 1.0"),
    "crop": ({"augmentation": {"crop": "centre"}}, "key 'augmentation.crop'.*'centre'.*'pad'"),
    "area": ({"augmentation": {"area": [-1, 1]}}, ": key 'augmentation.area': received -1"),
    "flip": (
        {"augmentation": {"flip": "often"}},
        "key 'augmentation.flip'.*'often'.*'alternating'",
    ),
    "shift": (
        {"evaluation": {"image_size": 32, "shift": 32}},
        "key 'evaluation.shift': received 32.*below.* 32",
    ),
    "phase": ({"training_strategy": [PHASE, PHASE]}, "phase 2, key 'epoch'.*overlap"),
}


@pytest.mark.parametrize(("content", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refused_with_file_and_key(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if isinstance(content, dict):
        content = json.dumps({"training_strategy": [PHASE]} | content)
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'nope': neither a preset .*imagenet104.* nor a file"):
        load_recipe("nope")


@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_a_clear_error(tmp_path_factory, text):
    for suffix in (".yaml", ".json", ".py"):
        path = tmp_path_factory.mktemp("fuzz") / f"x{suffix}"
        path.write_text(text, encoding="utf-8")
        outcome: object
        try:
            outcome = load_recipe(path)
        except UserError as error:
            outcome = str(error)
        assert isinstance(outcome, Recipe) or str(path) in str(outcome)


def test_the_resolved_recipe_written_down_is_the_same_recipe(tmp_path):
    for name in presets():
        recipe = load_recipe(name)
        path = tmp_path / "resolved.json"
        path.write_text(recipe.model_dump_json())
        assert load_recipe(path) == recipe
