"""What the tests of the trackers share."""

import pytest

from tests.tracking.runs import IMAGES
from training.recipes import load_recipe
from training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """The demo with two workers: 40 steps of 2 x 50 images an epoch in its first two phases."""
    run = RunFolder(tmp_path / "run")
    settings = {"workers": 2, "images": IMAGES, "validation": "records-1"}
    settings["facts"] = {"policy": "float32", "recipe": {"name": "demo"}}
    run.start(load_recipe("demo"), settings)
    return run
