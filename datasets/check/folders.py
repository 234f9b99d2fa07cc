"""What can be wrong with a folder of records: missing files, and what concerns several files."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.errors import DataError
from datasets.check.records import LISTED, Finding, ShardReport
from datasets.records.examples import parse_example
from datasets.records.frames import read_record
from datasets.records.manifest import NUMBERED, UNFINISHED, Manifest, read_manifest, set_problem
from datasets.records.schema import TFDS_LABEL_OFFSET, DatasetInfo, keys_of, read_dataset_info
from datasets.records.survey import Survey, offset_of

_NUMBERED = re.compile(r"(.+?)" + NUMBERED)
_UNNUMBERED = re.compile(r"([^.]+?)[-_.].*\.tfrecords?|([^.]+)\.tfrecords?")


@dataclass
class Folder:
    """A folder of records."""

    path: Path
    info: DatasetInfo | None
    manifest: Manifest | None = None  # also where it cannot be read
    findings: list[Finding] = field(default_factory=list)  # apart from those in the reports
    notes: list[str] = field(default_factory=list)  # what could not be checked
    shards: list[ShardReport] = field(default_factory=list)  # to fill in: its files
    reports: list[ShardReport] = field(default_factory=list)  # filled in, by name

    @property
    def splits(self) -> dict[str, list[ShardReport]]:
        """The reports by prefix."""
        prefixes = dict.fromkeys(report.prefix for report in self.reports)
        return {prefix: [r for r in self.reports if r.prefix == prefix] for prefix in prefixes}

    @property
    def class_names(self) -> dict[int, str]:
        """By label, as far as they are known."""
        if self.manifest:
            return dict(enumerate(self.manifest.classes, self.manifest.label_offset))
        if self.info and self.info.names:
            return dict(enumerate(self.info.names, TFDS_LABEL_OFFSET))
        return {label: synset for report in self.reports for label, synset in report.synsets}

    def add(self, kind: str, detail: str, file: str = "") -> None:
        self.findings.append(Finding(kind, str(self.path / file), None, detail))


def find_folders(root: Path) -> list[Folder]:
    """The folders of records at `root` and right below it."""
    if not root.is_dir():
        raise DataError(f"'{root}': there is no such folder")
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    folders = [folder for path in candidates if (folder := _read_folder(path)) is not None]
    if not folders:
        raise DataError(
            f"'{root}' holds no records, nor do its folders; it needs files like "
            "'train-00000-of-00008', in it or in folders like '160'"
        )
    return folders


def _read_folder(path: Path) -> Folder | None:
    """A folder's files and manifest, with what is wrong at first sight; None without any."""
    folder = Folder(path, read_dataset_info(path))
    try:
        folder.manifest = read_manifest(path)
    except DataError as error:
        folder.add("manifest", str(error).split("\n")[0])
    listed = folder.manifest.shards if folder.manifest else {}
    size = folder.manifest.size if folder.manifest else None
    numbers: dict[str, list[tuple[int, int]]] = {}
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        if match := _NUMBERED.fullmatch(file.name):
            prefix = match[1] if ".tfrecord-" not in file.name else match[1].rpartition("-")[2]
            numbers.setdefault(prefix, []).append((int(match[2]), int(match[3])))
        elif match := _UNNUMBERED.fullmatch(file.name):
            prefix = match[1] or match[2]
        else:
            continue
        shard = ShardReport(file, prefix, size, listed.get(file.name), file.stat().st_size)
        folder.shards.append(shard)
    if not folder.shards and not listed:
        return None
    if (path / UNFINISHED).exists():
        folder.add("missing", "its build did not end; rerun the same command to resume it")
    names = {shard.path.name for shard in folder.shards}
    for name in sorted(listed.keys() - names):
        folder.add("missing", "the manifest lists it", name)
    for name in sorted(names - listed.keys()) if listed else ():
        folder.add("unlisted", "the manifest does not list it", name)
    for prefix, own in sorted(numbers.items()) if not listed else ():
        if problem := set_problem(prefix, own):
            folder.add(*problem)
    return folder


def check_folder(
    folder: Folder, classes: int | None, label_offset: int | None
) -> Iterator[Finding]:
    """What is wrong with a folder, but for the findings in its reports; adds notes to it.

    `classes` and `label_offset` are used without a manifest.
    """
    labels = _label_range(folder, classes, label_offset)
    for prefix, reports in folder.splits.items():
        images = sum(report.records for report in reports)
        expected = folder.info.images.get(prefix, images) if folder.info else images
        if images != expected:
            detail = f"'{prefix}' has {images} images, dataset_info.json says {expected}"
            folder.add("count", detail)
        empty = np.setdiff1d(labels, np.concatenate([report.rows["label"] for report in reports]))
        if len(empty):
            folder.notes.append(
                f"{folder.path}: {len(empty)} of {len(labels)} classes have no image in '{prefix}' "
                f"(labels {', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''})."
            )
    yield from folder.findings
    names = folder.class_names if folder.manifest else {}
    where = "the manifest" if folder.manifest else "other records"
    for report in folder.reports:
        for row in report.rows[~np.isin(report.rows["label"], labels)] if labels else ():
            detail = f"label {row['label']} is outside {labels[0]} to {labels[-1]}"
            yield report.finding("label", detail, int(row["index"]))
        for (label, synset), record in report.synsets.items():
            if folder.manifest and label not in names:
                continue  # outside the range, and said so
            if names.setdefault(label, synset) != synset:
                detail = f"label {label} is '{synset}' here, '{names[label]}' in {where}"
                yield report.finding("label", detail, record)
    for first, second in itertools.combinations(folder.splits.values(), 2):
        yield from _duplicates(first, second)


def _label_range(folder: Folder, classes: int | None, label_offset: int | None) -> range:
    """The labels that are right, with a note where they are from; empty if that is not known."""
    labels = np.concatenate(
        [np.empty(0, int), *(report.rows["label"] for report in folder.reports)]
    )
    if not len(labels):
        return range(0)
    if folder.manifest:
        offset = folder.manifest.label_offset
        return range(offset, offset + len(folder.manifest.classes))
    lowest, highest = int(labels.min()), int(labels.max())
    missing = "the files' checksums and their numbers of images"
    by = "as given"
    if folder.info:
        label_offset, classes = TFDS_LABEL_OFFSET, folder.info.classes
        by = "by its features.json"
    elif label_offset is None and classes is not None:
        with contextlib.suppress(ValueError):
            label_offset = offset_of(Survey(0, lowest, highest), classes)
    if label_offset is None:
        label_offset = lowest
        by = "by the labels themselves"
        if lowest not in (0, 1):
            found = f"its labels run from {lowest} to {highest}"
            folder.add("label", f"{found}: neither 0 nor 1 is the first")
            return range(0)
    if classes is None:
        classes = highest + 1 - label_offset
        by = "by the labels themselves"
        missing += ", the range of the labels (give it with --classes)"
    folder.notes.append(
        f"{folder.path}: no manifest; {classes} classes with labels from {label_offset} {by}. "
        f"Not checked: {missing}."
    )
    return range(label_offset, label_offset + classes)


def _duplicates(ones: Sequence[ShardReport], others: Sequence[ShardReport]) -> Iterator[Finding]:
    """Images of `others` that are among `ones`, by their bytes or else by their pixels."""
    twins: dict[tuple[str, int], str] = {}
    for what in ("encoded", "pixels"):
        hashes = np.concatenate([report.rows[what] for report in others])
        for report in ones:
            for row in report.rows[np.isin(report.rows[what], hashes)]:
                place = f"record {row['index']} of {report.path.name}"
                twins.setdefault((what, int(row[what])), place)
    found = 0
    for report in others:
        for record, _, encoded, pixels in report.rows.tolist():
            same_bytes, same_pixels = twins.get(("encoded", encoded)), twins.get(("pixels", pixels))
            if same_bytes or same_pixels:
                detail = f"the pixels of {same_pixels}"
                if same_bytes:
                    detail = f"the bytes of {same_bytes}"
                if found < LISTED:
                    example = parse_example(read_record(report.path, record))
                    detail = f"{keys_of(example).filename_in(example) or 'image'}: {detail}"
                found += 1
                yield report.finding("duplicate", detail, record)
