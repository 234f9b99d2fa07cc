"""What a list of formats means, and what is said where packages are missing."""

import importlib.util

import pytest

from core.errors import UserError
from deploy.formats import FORMATS, Format, parse_formats, what_to_install


def test_formats_come_once_and_in_one_order():
    assert [f.name for f in parse_formats("onnx, saved_model,onnx")] == ["saved_model", "onnx"]


@pytest.mark.parametrize(("text", "named"), [("onnx,tflite", "'tflite'"), ("", "''")])
def test_an_unknown_format_is_named_with_the_known_ones(text, named):
    with pytest.raises(UserError, match=f"{named} is not one of saved_model, onnx, litert"):
        parse_formats(text)


def test_one_sentence_says_what_to_install():
    assert what_to_install([FORMATS["saved_model"], FORMATS["litert"]]) == ""
    formats = [
        Format("a", (), ("json", "no_such_a", "no_such_b"), ""),
        Format("b", (), ("no_such_c",), ""),
    ]
    assert what_to_install(formats) == (
        "not exported: a needs no_such_a and no_such_b; b needs no_such_c; "
        "`pip install -r requirements-export.txt` installs what is missing"
    )


def test_the_requirements_name_every_package(root):
    text = (root / "requirements-export.txt").read_text()
    pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    wanted = {name for format in FORMATS.values() for name in format.packages}
    assert wanted | {"ai-edge-litert"} <= pinned
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        assert all(name in what_to_install(FORMATS.values()) for name in missing)
