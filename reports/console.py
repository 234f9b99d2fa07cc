"""Figures in words and tables, for the console. No TensorFlow."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.table import Table


def table(rows: Iterable[Mapping[str, str]]) -> Table:
    """A table with a column for each key; all rows have the same keys."""
    rows = list(rows)
    found = Table(*rows[0])
    for row in rows:
        found.add_row(*row.values())
    return found


def optional(value: Any, form: str, missing: str = "-") -> str:
    """`value` in a format such as `"{:.2%}"`, or `missing` where it is None."""
    return missing if value is None else form.format(value)


def time_words(seconds: float) -> str:
    """Seconds as people say them: 41.2 s, 104 min 33 s, 2 h 15 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3 * 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def range_words(values: Mapping[str, float], words: Callable[[float], str]) -> str:
    """A median with its range: 2.0 s (1.0 s to 3.0 s)."""
    return f"{words(values['median'])} ({words(values['min'])} to {words(values['max'])})"
