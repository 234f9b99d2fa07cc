"""The file of rows that the workers and `device.py` write: a line of JSON for each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import files


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row in one write, so that several processes may."""
    files.append(path, json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows so far."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
