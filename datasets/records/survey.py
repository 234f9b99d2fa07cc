"""What record files without a manifest hold: how many images, and which labels.

Every record is visited, but of each only its header and its label are read. The results are
kept in the user's cache folder (on Linux `~/.cache/imagenet-in-phases`), never beside the
data. They are used again while a file keeps its size and its time of change.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import platformdirs
from tqdm import tqdm

from core import files
from core.environment import shows_bars
from core.errors import DataError
from datasets.records.examples import parse_example, read_label
from datasets.records.frames import read_record, walk
from datasets.records.schema import RecordKeys, keys_of

APPLICATION = "imagenet-in-phases"

_THREADS = 16  # they wait for the disk, above all where it is a network's
_JPEG = b"\xff\xd8"


class Survey(NamedTuple):
    """Images in some files, and the lowest and highest of their labels."""

    images: int
    lowest: int
    highest: int


def merge(surveys: Iterable[Survey]) -> Survey:
    """What several files or splits hold together."""
    images, lowest, highest = zip(*surveys, strict=True)
    return Survey(sum(images), min(lowest), max(highest))


def detect_keys(path: Path) -> RecordKeys:
    """The schema of a file, from its first record, whose image has to be a JPEG."""
    record = read_record(path, 0)
    try:
        example = parse_example(record)
        keys = keys_of(example)
    except DataError as error:
        raise DataError(f"record file '{path}', first record: {error}") from None
    image = (example[keys.image] or [b""])[0]
    if not (isinstance(image, bytes) and image.startswith(_JPEG)):
        raise DataError(
            f"record file '{path}': '{keys.image}' of its first record is no JPEG; only JPEGs can "
            "be read\nBuild records from the images with datasets.build_imagenet_data."
        )
    return keys


def offset_of(survey: Survey, classes: int) -> int | None:
    """Whether labels count from 0 or from 1; None where they do not show it.

    They show it where 0 occurs, or the number of classes does. Labels that fit neither raise
    `ValueError`.
    """
    fits = [n for n in (0, 1) if n <= survey.lowest and survey.highest < classes + n]
    if not fits:
        raise ValueError(
            f"its labels run from {survey.lowest} to {survey.highest}, which {classes} classes "
            f"have neither from 0 (to {classes - 1}) nor from 1 (to {classes})"
        )
    return fits[0] if len(fits) == 1 else None


def survey(files: Sequence[Path], keys: RecordKeys) -> list[Survey]:
    """Counts the images of each file of one folder and finds the range of their labels.

    If several processes with the same cache folder ask at once, one reads and the others wait
    for its result. A bar is shown where it takes more than a second.
    """
    with _cache(files[0].parent, keys) as known:
        marks = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
        missing = [p for p, mark in marks.items() if known.get(p.name, {}).get("mark") != mark]
        title = f"reading labels of {files[0].parent}"
        bar = tqdm(desc=title, total=len(missing), unit=" files", delay=1, disable=not shows_bars())
        with bar, ThreadPoolExecutor(_THREADS) as pool:
            try:
                scanned = pool.map(lambda path: scan_labels(path, keys), missing)
                for path, found in zip(missing, scanned, strict=True):
                    known[path.name] = {"mark": marks[path], **found._asdict()}
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [Survey(*(known[path.name][field] for field in Survey._fields)) for path in files]


@contextlib.contextmanager
def _cache(folder: Path, keys: RecordKeys) -> Iterator[dict[str, Any]]:
    """The surveys of a folder's files. Additions are kept, if the cache can be written."""
    name = hashlib.sha256(os.fsencode(f"{folder.resolve()}\0{keys.label}")).hexdigest()[:24]
    path = platformdirs.user_cache_path(APPLICATION) / "records" / f"{name}.json"
    lock = filelock.FileLock(path.with_suffix(".lock"))
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError):  # where the cache cannot be written, nothing is kept
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_bytes())["files"]
    before = json.dumps(known)
    try:
        yield known
    finally:
        with contextlib.suppress(OSError):
            if lock.is_locked and json.dumps(known) != before:
                notes = {"folder": str(folder.resolve()), "files": known}
                files.write(path, json.dumps(notes) + "\n")
        lock.release()


def scan_labels(path: Path, keys: RecordKeys) -> Survey:
    """Visits every record of a file for its label alone."""
    labels = []
    with open(path, "rb", buffering=4096) as file:
        for record, (begin, end) in enumerate(walk(file, path)):
            label = read_label(file, begin, end, keys.label)
            if label is None:
                place = f"record file '{path}', record {record} (from 0)"
                raise DataError(f"{place}: it has no label '{keys.label}'")
            labels.append(label)
    if not labels:
        raise DataError(f"record file '{path}' is empty; build or copy it again")
    return Survey(len(labels), min(labels), max(labels))
