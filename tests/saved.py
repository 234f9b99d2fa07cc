"""What a saved model needs in order to be loaded."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def packages_named_in(path: Path) -> set[str]:
    """The Python packages of all that a `.keras` file is made of, its optimizer included.

    Keras imports nothing else for it. That a file which names `keras` alone loads in a process
    without this project: tests/test_recipe.py.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    return {module.partition(".")[0] for module in _modules(config)}


def _modules(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "class_name" in part and part["class_name"] != "__keras_tensor__":
            yield part["module"] or part["class_name"]
        part = [*part.values()]
    if isinstance(part, list):
        for inner in part:
            yield from _modules(inner)
