"""The tables of a run folder: CSV files that survive a crash in the middle of a row."""

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import files


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, without a last one that is not whole (yet); cells as numbers."""
    if not path.exists():
        return []
    text = path.read_bytes().decode()
    whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
    return [
        {key: _value(value) for key, value in row.items() if key is not None}
        for row in csv.DictReader(whole)
    ]


def append(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """Adds a row in one write; a last line that a crash has left torn is removed first."""
    _remove_torn_line(path)
    empty = not path.exists() or not path.stat().st_size
    files.append(path, _lines(columns, [row], header=empty))


def rewrite(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces all rows at once; a table without rows is no file."""
    if rows := list(rows):
        files.write(path, _lines(columns, rows, header=True))
    else:
        path.unlink(missing_ok=True)


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _remove_torn_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _value(text: str | None) -> Any:
    """A cell as int, float or, where it is neither, as text."""
    for kind in (int, float):
        with contextlib.suppress(TypeError, ValueError):
            return kind(text)  # type: ignore[arg-type]
    return text
