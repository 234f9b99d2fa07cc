"""What can be wrong with records: the checks of a shard, and of a folder of shards.

A shard is checked apart from all others, in a process of its own. What concerns several
shards (the range of the labels, their names, images in two splits) is checked on the
labels and hashes that the shards' checks return.
"""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from core.errors import DataError
from datasets.records.manifest import Manifest, Shard
from datasets.records.reader import BrokenFraming, parse_example, read_frames, read_record
from datasets.records.schema import SCHEMAS, RecordKeys, keys_among

T = TypeVar("T")

LISTED = 20  # findings of a kind that are told one by one, of each shard and split

_SMALL = 32  # pixels; hashed images are averaged down to about this short side


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: `missing`, `unlisted`, `unreadable`, `truncated`, `checksum`, `schema`,
            `image`, `size`, `label`, `duplicate`, `count` or `manifest`.
        file: the file or folder.
        record: number of the record in the file from 0, where it is about one.
        detail: what was found, and what was expected.
    """

    kind: str
    file: str
    record: int | None
    detail: str


@dataclass(frozen=True)
class ShardJob:
    """A shard to check: its folder's short side in pixels, and what the manifest says."""

    path: Path
    prefix: str
    size: int | None = None
    expected: Shard | None = None


@dataclass
class ShardReport:
    """What a shard holds and what is wrong with it.

    The arrays have a row for each record whose image and label could be read.

    Attributes:
        job: what was asked.
        records: how many could be read at all.
        bytes: of the file.
        findings: the first `LISTED` of each kind.
        counts: how many of each kind there are.
        index: number of each record in the file, from 0.
        labels: as they stand in the records.
        encoded: 64-bit hashes of the JPEGs' bytes.
        pixels: 64-bit hashes of the decoded pixels, averaged over boxes.
        synsets: the first record of each label and class name.
    """

    job: ShardJob
    records: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    index: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    encoded: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    synsets: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, kind: str, detail: str, record: int | None = None) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.findings.append(Finding(kind, str(self.job.path), record, detail))


def check_shard(job: ShardJob) -> ShardReport:
    """Reads every record of a shard: framing, checksums, schema, image, manifest."""
    report = ShardReport(job)
    digest = hashlib.sha256()
    rows: list[tuple[int, int, int, int]] = []
    try:
        report.bytes = job.path.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of images it decodes all the same
            for frame in read_frames(job.path, digest.update):
                report.records += 1
                if frame.intact:
                    rows.extend(_check_record(report, frame.record, frame.data))
                else:
                    report.add("checksum", "the checksum of its data is wrong", frame.record)
    except BrokenFraming as error:
        kind = "truncated" if error.cut_short else "checksum"
        report.add(kind, f"{error.reason}{_unread(job, error.record)}", error.record)
    except OSError as error:
        report.add("unreadable", error.strerror or str(error))
    if not report.bytes and not report.counts:
        report.add("truncated", "the file is empty")
    if job.expected and not report.counts.keys() & {"truncated", "checksum", "unreadable"}:
        _check_against_manifest(report, job.expected, digest.hexdigest())
    index, labels, encoded, pixels = zip(*rows, strict=True) if rows else ((), (), (), ())
    report.index = np.array(index, np.int64)
    report.labels = np.array(labels, np.int64)
    report.encoded = np.array(encoded, np.uint64)
    report.pixels = np.array(pixels, np.uint64)
    return report


def _unread(job: ShardJob, record: int) -> str:
    if job.expected is None:
        return ""
    return f"; {job.expected.images - record} of {job.expected.images} records are lost"


def _check_against_manifest(report: ShardReport, expected: Shard, sha256: str) -> None:
    """The shard as a whole, where no record has already told that it is another one."""
    if report.records != expected.images:
        detail = f"{report.records} records, the manifest says {expected.images}"
        report.add("count", detail)
    elif report.bytes != expected.bytes:
        report.add("manifest", f"{report.bytes} bytes, the manifest says {expected.bytes}")
    elif sha256 != expected.sha256:
        detail = f"its SHA-256 begins with {sha256[:12]}, the manifest's with "
        report.add("manifest", detail + expected.sha256[:12])


def _check_record(
    report: ShardReport, record: int, data: bytes
) -> Iterator[tuple[int, int, int, int]]:
    """A row of the report's arrays, unless the record holds no image and label."""
    try:
        example = parse_example(data)
        keys = keys_among(example)
        if keys is None:
            known = " or ".join(f"'{k.image}' and '{k.label}'" for k in SCHEMAS)
            there = ", ".join(sorted(example)[:8]) or "nothing"
            raise DataError(f"it holds {there}; not {known}")
        encoded = _one(example, keys.image, bytes)
        label = _one(example, keys.label, int)
    except DataError as error:
        report.add("schema", str(error), record)
        return
    synset = (example.get("image/class/synset") or [b""])[0]
    if isinstance(synset, bytes) and synset:
        report.synsets.setdefault((label, synset.decode(errors="replace")), record)
    name = _name(example, keys)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format != "JPEG":
                detail = f"{name}: {image.format}; the pipelines read JPEGs alone"
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
    if report.job.size is not None and min(image.size) > report.job.size:
        detail = f"{name}: {image.width} x {image.height} pixels, the short side should be "
        report.add("size", f"{detail}{report.job.size}", record)
    yield record, label, _hash(encoded), _hash_pixels(image)


def _one(example: dict[str, list[Any]], key: str, kind: type[T]) -> T:
    values = example[key]
    if len(values) != 1 or not isinstance(values[0], kind):
        raise DataError(f"'{key}' holds {len(values)} values; one of {kind.__name__} would do")
    return values[0]


def _name(example: dict[str, list[Any]], keys: RecordKeys) -> str:
    name = (example.get(keys.filename) or [b""])[0]
    return repr(name.decode(errors="replace")) if isinstance(name, bytes) and name else "image"


def _hash(data: bytes) -> int:
    """64 bits: 1.3 million images give a false pair once in ten million sets."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def _hash_pixels(image: Image.Image) -> int:
    """Of the decoded pixels, so that equal images in other bytes are found.

    Averaged over whole boxes first: to fetch and hash all pixels of a large image costs
    as much as to decode them. Images that agree in all of about 32 x 32 means look alike.
    """
    factor = max(1, min(image.size) // _SMALL)
    small = image.convert("RGB").reduce(factor)
    return _hash(f"{image.size}".encode() + small.tobytes())


def check_labels(
    reports: Sequence[ShardReport], offset: int, classes: int
) -> Iterator[tuple[ShardReport, int, str]]:
    """Labels outside `offset` to `offset + classes - 1`: shard, record and detail."""
    last = offset + classes - 1
    for report in reports:
        for row in np.flatnonzero((report.labels < offset) | (report.labels > last)):
            yield (
                report,
                int(report.index[row]),
                f"label {report.labels[row]} is outside {offset} to {last}",
            )


def check_class_names(
    reports: Sequence[ShardReport], manifest: Manifest | None
) -> Iterator[tuple[ShardReport, int, str]]:
    """Labels that stand for two classes, or for another one than in the manifest."""
    names: dict[int, str] = {}
    if manifest:
        names = dict(enumerate(manifest.classes, manifest.label_offset))
    for report in reports:
        for (label, synset), record in report.synsets.items():
            if manifest and label not in names:
                continue  # outside the range, and said so
            if names.setdefault(label, synset) != synset:
                where = "the manifest" if manifest else "other records"
                yield (
                    report,
                    record,
                    f"label {label} is '{synset}' here, '{names[label]}' in {where}",
                )


def check_duplicates(
    ones: Sequence[ShardReport], others: Sequence[ShardReport]
) -> Iterator[tuple[ShardReport, int, str]]:
    """Images of `others` that are among `ones`, by their bytes or else by their pixels."""
    if not any(len(report.index) for report in ones):
        return
    known = {
        what: np.concatenate([getattr(report, what) for report in ones])
        for what in ("encoded", "pixels")
    }
    sorter = {what: np.argsort(hashes, kind="stable") for what, hashes in known.items()}
    ends = np.cumsum([len(report.index) for report in ones])
    for report in others:
        places = {}
        for what, hashes in known.items():
            own = getattr(report, what)
            at = np.searchsorted(hashes, own, sorter=sorter[what])
            place = sorter[what][np.minimum(at, len(hashes) - 1)]
            places[what] = np.where(hashes[place] == own, place, -1)
        for row in np.flatnonzero((places["encoded"] >= 0) | (places["pixels"] >= 0)):
            what = "encoded" if places["encoded"][row] >= 0 else "pixels"
            place = int(places[what][row])
            shard = int(np.searchsorted(ends, place, side="right"))
            twin = ones[shard]
            row_there = place - int(ends[shard]) + len(twin.index)
            same = "the bytes" if what == "encoded" else "the pixels"
            yield (
                report,
                int(report.index[row]),
                f"{same} of record {twin.index[row_there]} of {twin.job.path.name}",
            )


def filename_of(path: Path, record: int) -> str:
    """The image's file name in a record, for a message."""
    example = parse_example(read_record(path, record))
    keys = keys_among(example)
    return _name(example, keys) if keys else "image"
