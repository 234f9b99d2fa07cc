"""Classes in words: lines of `<class> <words>`, as ImageNet's releases have them."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import DataError

# Tiny ImageNet's, Kaggle's, and a usual name.
USUAL_FILES = ("words.txt", "LOC_synset_mapping.txt", "classes.txt")


def read_class_names(path: str | Path, classes: Sequence[str]) -> dict[str, str]:
    """Classes in words from lines of `<class folder><tab or blank><words>`.

    Raises:
        DataError: no such file, not text, or it names none of the classes.
    """
    words = _read(Path(path), frozenset(classes))
    if not words:
        raise DataError(
            f"class names '{path}' has a line for none of the {len(classes)} classes; "
            f"lines like '{classes[0]}<tab>words' would do"
        )
    return words


def find_class_names(root: Path, classes: Sequence[str]) -> dict[str, str]:
    """Classes in words from the first of the usual files in `root` that has any."""
    for name in USUAL_FILES:
        if (root / name).is_file() and (words := _read(root / name, frozenset(classes))):
            return words
    return {}


def _read(path: Path, classes: frozenset[str]) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names '{path}' cannot be read: {error}") from None
    words = {}
    for line in lines:
        name, _, text = line.partition("\t") if "\t" in line else line.partition(" ")
        if name in classes:
            words[name] = text.strip()
    return words
