"""What can be wrong with a file of records. Each is checked in a process of its own."""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import DataError
from datasets.records.examples import parse_example
from datasets.records.frames import BrokenFraming, read_frames
from datasets.records.manifest import Shard
from datasets.records.schema import keys_of

LISTED = 20  # findings of a kind that are listed, of each shard and split

_SMALL = 32  # pixels; hashed images are averaged down to about this short side
# A record's number in its file, its label, and hashes of the JPEG's bytes and of the pixels.
_ROW = np.dtype([("index", "i8"), ("label", "i8"), ("encoded", "u8"), ("pixels", "u8")])


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    The kinds are `missing`, `unlisted`, `unreadable`, `truncated`, `checksum`, `schema`, `image`,
    `size`, `label`, `duplicate`, `count` and `manifest`.
    """

    kind: str
    file: str  # or folder
    record: int | None  # its number in the file from 0; None if no single record is wrong
    detail: str  # what was found, and what was expected


@dataclass
class ShardReport:
    """What a shard should hold, what it holds and what is wrong with it."""

    path: Path
    prefix: str
    size: int | None  # short side of the folder's images in pixels
    expected: Shard | None  # what the manifest says
    bytes: int
    records: int = 0  # that could be read at all
    findings: list[Finding] = field(default_factory=list)  # the first `LISTED` of each kind
    counts: Counter[str] = field(default_factory=Counter)  # of all findings, by kind
    # A row for each record whose image and label could be read.
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, _ROW))
    # The first record of each label and class name.
    synsets: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, kind: str, detail: str, record: int | None = None) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.findings.append(self.finding(kind, detail, record))

    def finding(self, kind: str, detail: str, record: int | None) -> Finding:
        return Finding(kind, str(self.path), record, detail)


def check_shard(report: ShardReport) -> ShardReport:
    """Reads every record of a shard (framing, checksums, schema, image) and fills in its report."""
    digest = hashlib.sha256()
    rows: list[tuple[int, ...]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of images that it still decodes
            for record, (data, intact) in enumerate(read_frames(report.path, digest.update)):
                report.records += 1
                if intact:
                    rows.extend(_check_record(report, record, data))
                else:
                    report.add("checksum", "the checksum of its data is wrong", record)
    except BrokenFraming as error:
        images = report.expected.images if report.expected else 0
        lost = f"; {images - error.record} of {images} records are lost" if images else ""
        kind = "truncated" if error.cut_short else "checksum"
        report.add(kind, error.reason + lost, error.record)
    except OSError as error:
        report.add("unreadable", error.strerror or str(error))
    if not report.bytes and not report.counts:
        report.add("truncated", "the file is empty")
    found = report.records, report.bytes, digest.hexdigest()
    if report.expected and not report.counts.keys() & {"truncated", "checksum", "unreadable"}:
        expected = report.expected.images, report.expected.bytes, report.expected.sha256
        kinds = ("count", "records"), ("manifest", "bytes"), ("manifest", "as SHA-256")
        for (kind, what), own, told in zip(kinds, found, expected, strict=True):
            if own != told:
                report.add(kind, f"{own} {what}, the manifest says {told}")
                break  # the others follow from it
    report.rows = np.array(rows, _ROW)
    return report


def _check_record(report: ShardReport, record: int, data: bytes) -> Iterator[tuple[int, ...]]:
    """A row of the report, unless the record holds no image and label."""
    try:
        example = parse_example(data)
        keys = keys_of(example)
        encoded = _one(example, keys.image, bytes)
        label = _one(example, keys.label, int)
    except DataError as error:
        report.add("schema", str(error), record)
        return
    synset = (example.get("image/class/synset") or [b""])[0]
    if isinstance(synset, bytes) and synset:
        report.synsets.setdefault((label, synset.decode(errors="replace")), record)
    name = keys.filename_in(example) or "image"
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format != "JPEG":
                detail = f"{name}: {image.format}; the pipelines only read JPEGs"
                report.add("image", detail, record)
                return
            image.load()
    except Exception as error:  # broken images make Pillow raise nearly anything
        detail = f"{name}: does not decode: {' '.join(str(error).split())}"
        report.add("image", detail.replace(" <_io.BytesIO object>", " the file"), record)
        return
    for key, side in (("image/width", image.width), ("image/height", image.height)):
        if example.get(key, [side]) != [side]:
            detail = f"{name}: {key} is {example[key]}, but the image has {side} pixels"
            report.add("schema", detail, record)
    if report.size is not None and min(image.size) > report.size:
        sides = f"{image.width} x {image.height} pixels"
        report.add("size", f"{name}: {sides}, the short side should be {report.size}", record)
    yield record, label, _hash(encoded), _hash_pixels(image)


def _one(example: dict[str, list[Any]], key: str, kind: type) -> Any:
    values = example[key]
    if len(values) != 1 or not isinstance(values[0], kind):
        raise DataError(f"'{key}' holds {len(values)} values; it needs one of {kind.__name__}")
    return values[0]


def _hash(data: bytes) -> int:
    """64 bits: 1.3 million images give a false pair once in ten million sets."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def _hash_pixels(image: Image.Image) -> int:
    """Of the decoded pixels, so that equal images in other bytes are found.

    They are averaged over whole boxes first: fetching and hashing all pixels of a large image
    costs as much as decoding it. Images that agree in about 32 x 32 means look alike.
    """
    factor = max(1, min(image.size) // _SMALL)
    small = image.convert("RGB").reduce(factor)
    return _hash(f"{image.size}".encode() + small.tobytes())
