"""What record files without a manifest hold: how many images, and which labels.

Every record is visited, but of each only its frame and its label are read: the rest,
above all the JPEG, is stepped over. What was found is kept in the user's cache folder
(on Linux `~/.cache/imagenet-in-phases`), never beside the data, and is used again while
a file keeps its size and its time of change.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs
from tqdm import tqdm

from core import files
from core.errors import DataError
from datasets.records.reader import checked_length, parse_example, read_record
from datasets.records.schema import SCHEMAS, RecordKeys, keys_among

APPLICATION = "imagenet-in-phases"

_THREADS = 16  # they wait for the disk, above all where it is a network's
_WINDOW = 4096  # bytes read at once
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Survey:
    """Images in some files, and the lowest and highest of their labels."""

    images: int
    lowest: int
    highest: int


def merge(surveys: Iterable[Survey]) -> Survey:
    """What several files or splits hold together."""
    surveys = list(surveys)
    return Survey(
        sum(s.images for s in surveys),
        min(s.lowest for s in surveys),
        max(s.highest for s in surveys),
    )


def detect_keys(path: Path) -> RecordKeys:
    """The schema of a file, from its first record.

    Raises:
        DataError: none that is read here, or images that are not JPEGs.
    """
    try:
        example = parse_example(read_record(path, 0))
    except DataError as error:
        raise DataError(f"record file '{path}': {error}") from None
    keys = keys_among(example)
    if keys is None:
        known = " or ".join(f"'{keys.image}' and '{keys.label}'" for keys in SCHEMAS)
        there = ", ".join(f"'{key}'" for key in sorted(example)[:8]) or "nothing"
        raise DataError(f"record file '{path}': its records hold {there}; {known} would do")
    image = (example[keys.image] or [b""])[0]
    if not (isinstance(image, bytes) and image.startswith(_JPEG)):
        raise DataError(
            f"record file '{path}': '{keys.image}' of its first record is no JPEG; the pipelines "
            "read JPEGs alone\nBuild records from the images with datasets.build_imagenet_data."
        )
    return keys


def offset_of(survey: Survey, classes: int) -> int | None:
    """Whether labels count from 0 or from 1; None where they do not tell.

    They tell where every label fits one of the two and one does not fit the other:
    0 occurs, or the number of classes does.

    Raises:
        ValueError: they fit neither.
    """
    fits = [
        offset for offset in (0, 1) if offset <= survey.lowest and survey.highest < classes + offset
    ]
    if not fits:
        raise ValueError(
            f"its labels run from {survey.lowest} to {survey.highest}, which {classes} classes "
            f"have neither from 0 (to {classes - 1}) nor from 1 (to {classes})"
        )
    return fits[0] if len(fits) == 1 else None


def survey(files: Sequence[Path], keys: RecordKeys, progress: bool = True) -> list[Survey]:
    """Counts the images of each file of one folder and finds the range of their labels.

    Of several processes that ask at once one reads and the others wait for what it
    finds, as far as they share a cache folder.

    Args:
        files: of one folder.
        keys: their schema.
        progress: show a bar where it takes more than a second.

    Raises:
        DataError: a file that is cut short or damaged, or a record without a label.
    """
    with _cache(files[0].parent, keys) as known:
        wanted = {path: _fingerprint(path) for path in files}
        missing = [p for p, mark in wanted.items() if known.get(p.name, {}).get("mark") != mark]
        with (
            ThreadPoolExecutor(_THREADS) as pool,
            tqdm(
                total=len(missing), desc=f"reading labels of {files[0].parent}", unit=" files",
                delay=1, disable=not progress,
            ) as bar,
        ):  # fmt: skip
            try:
                for path, found in zip(
                    missing, pool.map(lambda path: scan_labels(path, keys), missing), strict=True
                ):
                    known[path.name] = {"mark": wanted[path], **vars(found)}
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [
            Survey(**{k: v for k, v in known[path.name].items() if k != "mark"}) for path in files
        ]


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _cache(folder: Path, keys: RecordKeys) -> Iterator[dict[str, Any]]:
    """What is known of a folder's files; kept when the block ends, where that can be."""
    name = hashlib.sha256(os.fsencode(f"{folder.resolve()}\0{keys.label}")).hexdigest()[:24]
    path = platformdirs.user_cache_path(APPLICATION) / "records" / f"{name}.json"
    with contextlib.ExitStack() as stack:
        writable = False
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(path.with_suffix(".lock")))
            writable = True
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_bytes())["files"]
        before = json.dumps(known)
        try:
            yield known
        finally:
            if writable and json.dumps(known) != before:
                with contextlib.suppress(OSError):
                    notes = {"folder": str(folder.resolve()), "files": known}
                    files.write(path, json.dumps(notes) + "\n")


def scan_labels(path: Path, keys: RecordKeys) -> Survey:
    """Visits every record of a file for its label alone.

    Raises:
        DataError: the file is cut short, damaged or empty, or a record has no label.
    """
    images = 0
    lowest, highest = 2**63, -(2**63)
    with open(path, "rb", buffering=0) as file:
        view = _View(file.fileno())
        position = 0
        while position < view.size:
            length = checked_length(view.read(position, 12), path, images)
            begin, end = position + 12, position + 12 + length
            if end + 4 > view.size:
                raise DataError(
                    f"record file '{path}' ends in the middle of record {images}; it is cut "
                    "short: copy or build it again"
                )
            try:
                label = _label(view, begin, end, keys.label.encode())
            except (IndexError, ValueError):  # past the end, or no protobuf
                label = None
            if label is None:
                raise DataError(
                    f"record file '{path}', record {images}: it has no label '{keys.label}'"
                )
            lowest, highest = min(lowest, label), max(highest, label)
            images += 1
            position = end + 4
    if not images:
        raise DataError(f"record file '{path}' is empty; build or copy it again")
    return Survey(images, lowest, highest)


class _View:
    """A file through a window that moves to where it is looked at."""

    def __init__(self, descriptor: int):
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._begin = 0
        self._window = b""

    def read(self, position: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file."""
        begin = position - self._begin
        if begin < 0 or begin + count > len(self._window):
            self._window = os.pread(self._descriptor, max(_WINDOW, count), position)
            self._begin, begin = position, 0
        return self._window[begin : begin + count]

    def varint(self, position: int) -> tuple[int, int]:
        """Protobuf's variable-length number, and where what follows it begins."""
        value = shift = 0
        data = self.read(position, 10)
        for count, byte in enumerate(data, 1):
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + count
            shift += 7
        raise ValueError("not a varint")

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, begin and end of each field of a message, from its wire format."""
        while begin < end:
            tag, begin = self.varint(begin)
            kind = tag & 7
            stop = begin
            if kind == _BYTES:
                length, begin = self.varint(begin)
                stop = begin + length
            elif kind == _VARINT:
                _, stop = self.varint(begin)
            elif kind in (_FIXED32, _FIXED64):
                stop = begin + (4 if kind == _FIXED32 else 8)
            else:
                raise ValueError("not protobuf")
            if stop > end:
                raise ValueError("not protobuf")
            yield tag >> 3, begin, stop
            begin = stop


def _label(view: _View, begin: int, end: int, key: bytes) -> int | None:
    """The one int64 under `key` in the `tf.Example` at those bytes."""
    for _, features_begin, features_end in view.fields(begin, end):
        for _, entry_begin, entry_end in view.fields(features_begin, features_end):
            entry = view.fields(entry_begin, entry_end)
            number, key_begin, key_end = next(entry)
            if number != 1 or key_end - key_begin != len(key):
                continue
            if view.read(key_begin, len(key)) != key:
                continue
            # Feature, then its Int64List (field 3), then the list's values, packed or not.
            for _, value_begin, value_end in entry:
                for kind, list_begin, list_end in view.fields(value_begin, value_end):
                    if kind != 3:
                        return None
                    for _, first, stop in view.fields(list_begin, list_end):
                        value, after = view.varint(first)
                        if after != stop:
                            return None
                        return value - (1 << 64) if value >> 63 else value
    return None
