"""Names of the classes in words: lines of `<class> <words>`, as in ImageNet's releases."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import DataError

# Tiny ImageNet's, Kaggle's, and a usual name.
USUAL_FILES = ("words.txt", "LOC_synset_mapping.txt", "classes.txt")


def read_class_names(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Words by class, from lines of `<class folder><tab or blank><words>` in a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names '{path}' cannot be read: {error}") from None
    known, words = frozenset(classes), {}
    for line in lines:
        name, _, text = line.partition("\t" if "\t" in line else " ")
        if name in known:
            words[name] = text.strip()
    return words


def find_class_names(root: Path, classes: Sequence[str]) -> dict[str, str]:
    """Words by class, from the first of the usual files in `root` that has any."""
    files = (root / name for name in USUAL_FILES if (root / name).is_file())
    return next(filter(None, (read_class_names(file, classes) for file in files)), {})
