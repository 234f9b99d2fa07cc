"""Figures in words and tables, for the console. No TensorFlow."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table


def fill(form: str, row: Mapping[str, Any], missing: str = "") -> str:
    """`form` with the values of a row; `missing` where one of them is None or not there."""
    try:
        return form.format_map(row)
    except (TypeError, KeyError):
        return missing


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], **same: Any) -> Table:
    """A table with a form for each column, filled with a row's values, `number` and `same`."""
    found = Table(*columns)
    for number, row in enumerate(rows, 1):
        values = {"number": number, **same, **row}
        found.add_row(*(fill(form, values, "-") for form in columns.values()))
    return found


def time_words(seconds: float) -> str:
    """Seconds as people say them: 41.2 s, 104 min 33 s, 2 h 15 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3 * 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"
