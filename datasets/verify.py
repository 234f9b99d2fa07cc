"""Reads every record of a data set and tells what is wrong with it.

    python -m datasets.verify DIR

DIR is a folder of records or one with a folder for each size (`160`, `320`). Records of
others are checked as far as they can be without a manifest. Ends with status 0 where
nothing is wrong, 1 where something is, 2 at a mistake on the command line.
"""

import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from core.errors import DataError
from datasets.build.processes import available, run_jobs
from datasets.check import records as checks
from datasets.check.folders import Folder, find_folders
from datasets.check.records import LISTED, Finding, ShardReport
from datasets.records.schema import TFDS_LABEL_OFFSET
from datasets.records.survey import Survey, offset_of


@dataclass
class Split:
    """What a split of a folder holds."""

    folder: str
    prefix: str
    shards: int
    images: int
    bytes: int
    labels: tuple[int, int] | None
    classes: int
    images_a_class: tuple[int, int] | None


@dataclass
class Verified:
    """All that was found.

    Attributes:
        splits: what the folders hold.
        findings: up to `LISTED` of a kind in each file and split.
        counts: how many of each kind there are.
        notes: what could not be checked, or is worth to know.
        images: records that were read.
        seconds: that it took.
        processes: that read.
        reports: of the shards of each folder.
        class_names: of each folder by label, as far as they are known.
    """

    splits: list[Split] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    processes: int = 1
    reports: dict[Path, list[ShardReport]] = field(default_factory=dict)
    class_names: dict[Path, dict[int, str]] = field(default_factory=dict)

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.counts[finding.kind] += 1
            if self.counts[finding.kind] <= 10 * LISTED:
                self.findings.append(finding)


def verify(
    root: str | Path,
    *,
    classes: int | None = None,
    label_offset: int | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Verified:
    """Checks the records at `root` and in the folders right below it.

    Args:
        root: a folder.
        classes: number of classes of records that have no manifest.
        label_offset: their label of the first class.
        processes: to read with. Defaults to the CPUs at hand; 1 starts none.
        progress: show a bar.

    Raises:
        DataError: no such folder, or none of records.
        concurrent.futures.process.BrokenProcessPool: a process died.
    """
    began = time.monotonic()
    folders = find_folders(Path(root))
    processes = processes or available()
    jobs = [job for folder in folders for job in folder.jobs]
    found = Verified(processes=min(processes, max(1, len(jobs))))
    reports: dict[Path, list[ShardReport]] = {folder.path: [] for folder in folders}
    # Large files first: the last one to end is then a small one.
    jobs.sort(key=lambda job: -job.path.stat().st_size)
    with (
        contextlib.closing(run_jobs(checks.check_shard, jobs, processes)) as checked,
        tqdm(
            total=sum(job.path.stat().st_size for job in jobs), unit="B", unit_scale=True,
            smoothing=0, disable=not progress,
        ) as bar,
    ):  # fmt: skip
        for report in checked:
            reports[report.job.path.parent].append(report)
            found.images += report.records
            bar.set_postfix_str(f"{found.images / (time.monotonic() - began):,.0f} images/s", False)
            bar.update(report.bytes)
    for folder in folders:
        own = sorted(reports[folder.path], key=lambda report: report.job.path.name)
        found.reports[folder.path] = own
        found.class_names[folder.path] = _class_names(folder, own)
        _check_folder(found, folder, own, classes, label_offset)
    found.seconds = time.monotonic() - began
    return found


def _check_folder(
    found: Verified,
    folder: Folder,
    reports: Sequence[ShardReport],
    classes: int | None,
    label_offset: int | None,
) -> None:
    """What concerns several shards; adds it and the shards' own findings to `found`."""
    found.add(folder.findings)
    for report in reports:
        found.findings.extend(report.findings)
        found.counts.update(report.counts)
    prefixes = list(dict.fromkeys(report.job.prefix for report in reports))
    splits = {p: [report for report in reports if report.job.prefix == p] for p in prefixes}
    seen = np.unique(np.concatenate([np.empty(0, np.int64), *(r.labels for r in reports)]))
    if len(seen):
        told = _label_range(found, folder, seen, classes, label_offset)
        if told is not None:
            offset, count = told
            found.add(_findings("label", checks.check_labels(reports, offset, count)))
            _note_empty_classes(found, folder, splits, offset, count)
    found.add(_findings("label", checks.check_class_names(reports, folder.manifest)))
    for first, second in itertools.combinations(prefixes, 2):
        pairs = checks.check_duplicates(splits[first], splits[second])
        found.add(_findings("duplicate", pairs, named=True))
    for prefix, own in splits.items():
        found.splits.append(_split(folder, prefix, own))
        images = folder.info.images.get(prefix) if folder.info else None
        if images is not None and images != found.splits[-1].images:
            detail = f"'{prefix}' has {found.splits[-1].images} images, dataset_info.json says "
            found.add([Finding("count", str(folder.path), None, f"{detail}{images}")])


def _findings(
    kind: str, problems: Iterable[tuple[ShardReport, int, str]], named: bool = False
) -> Iterator[Finding]:
    """Findings of problems, with the images' names for the first few where asked."""
    for number, (report, record, detail) in enumerate(problems):
        path = report.job.path
        if named and number < LISTED:
            detail = f"{checks.filename_of(path, record)}: {detail}"
        yield Finding(kind, str(path), record, detail)


def _label_range(
    found: Verified,
    folder: Folder,
    seen: np.ndarray,
    classes: int | None,
    label_offset: int | None,
) -> tuple[int, int] | None:
    """The label of the first class and the number of classes; says where they are from."""
    if folder.manifest:
        return folder.manifest.label_offset, len(folder.manifest.classes)
    lowest, highest = int(seen[0]), int(seen[-1])
    missing = "the files' checksums and their numbers of images"
    by = "as told"
    if folder.info and folder.info.classes:
        label_offset, classes = TFDS_LABEL_OFFSET, folder.info.classes
        by = "by its features.json"
    elif label_offset is None and classes is not None:
        with contextlib.suppress(ValueError):
            label_offset = offset_of(Survey(0, lowest, highest), classes)
    if label_offset is None:
        label_offset = lowest
        by = "by the labels themselves"
        if lowest not in (0, 1):
            detail = f"its labels run from {lowest} to {highest}: neither 0 nor 1 is the first"
            found.add([Finding("label", str(folder.path), None, detail)])
            return None
    if classes is None:
        classes = highest + 1 - label_offset
        by = "by the labels themselves"
        missing += ", the range of the labels (--classes tells it)"
    found.notes.append(
        f"{folder.path}: no manifest; {classes} classes with labels from {label_offset} {by}. "
        f"Not checked: {missing}."
    )
    return label_offset, classes


def _note_empty_classes(
    found: Verified,
    folder: Folder,
    splits: dict[str, list[ShardReport]],
    offset: int,
    classes: int,
) -> None:
    for prefix, reports in splits.items():
        labels = np.concatenate([report.labels for report in reports])
        empty = np.setdiff1d(np.arange(offset, offset + classes), labels)
        if len(empty):
            found.notes.append(
                f"{folder.path}: {len(empty)} of {classes} classes have no image in '{prefix}' "
                f"(labels {', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''})."
            )


def _class_names(folder: Folder, reports: Iterable[ShardReport]) -> dict[int, str]:
    if folder.manifest:
        return dict(enumerate(folder.manifest.classes, folder.manifest.label_offset))
    if folder.info and folder.info.names:
        return dict(enumerate(folder.info.names, TFDS_LABEL_OFFSET))
    return {label: synset for report in reports for label, synset in report.synsets}


def _split(folder: Folder, prefix: str, reports: Sequence[ShardReport]) -> Split:
    labels, counts = np.unique(
        np.concatenate([report.labels for report in reports]), return_counts=True
    )
    return Split(
        folder=str(folder.path),
        prefix=prefix,
        shards=len(reports),
        images=sum(report.records for report in reports),
        bytes=sum(report.bytes for report in reports),
        labels=(int(labels[0]), int(labels[-1])) if len(labels) else None,
        classes=len(labels),
        images_a_class=(int(counts.min()), int(counts.max())) if len(labels) else None,
    )


def as_json(found: Verified) -> dict[str, Any]:
    """All that was found, ready for JSON."""
    return {
        "splits": [asdict(split) for split in found.splits],
        "findings": [asdict(finding) for finding in found.findings],
        "counts": dict(found.counts),
        "notes": found.notes,
        "images": found.images,
        "seconds": found.seconds,
        "processes": found.processes,
    }


def print_tables(found: Verified, console: Console) -> None:
    """What there is, what is wrong with it, and how fast it was read."""
    held = Table("folder", "split", "shards", "images", "MB", "classes", "labels", "images a class")
    for s in found.splits:
        held.add_row(
            s.folder, s.prefix, f"{s.shards:,}", f"{s.images:,}", f"{s.bytes / 1e6:,.1f}",
            f"{s.classes:,}", "{} to {}".format(*s.labels) if s.labels else "-",
            "{:,} to {:,}".format(*s.images_a_class) if s.images_a_class else "-",
        )  # fmt: skip
    console.print(held)
    shown: Counter[str] = Counter()
    wrong = Table("kind", "file", "record (from 0)", "what is wrong")
    for finding in found.findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= LISTED:
            record = "" if finding.record is None else str(finding.record)
            wrong.add_row(finding.kind, escape(finding.file), record, escape(finding.detail))
    for kind, count in found.counts.items():
        if count > LISTED:
            wrong.add_row(kind, "", "", f"{count - LISTED:,} more; --json lists more of them")
    if wrong.row_count:
        console.print(wrong)
    for note in found.notes:
        console.print(f"note: {escape(note)}")
    console.print(
        f"{found.images:,} records in {found.seconds:.1f} s: "
        f"{found.images / found.seconds:,.0f} images/s with {found.processes} process(es)"
    )
    total = sum(found.counts.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.most_common())
    console.print(f"{total:,} finding(s): {kinds}" if total else "nothing is wrong")


@click.command()
@click.argument("root", type=Path, metavar="DIR")
@click.option("--classes", type=click.IntRange(1), help="Of records that have no manifest.")
@click.option("--label_offset", type=click.IntRange(0, 1), help="Their label of the first class.")
@click.option("--processes", type=click.IntRange(1), help="To read with.  [default: the CPUs]")
@click.option(
    "--picture", type=Path, default=Path("verify.png"), show_default=True,
    help="Where to draw some images of each class.",
)  # fmt: skip
@click.option("--no_picture", is_flag=True, help="Draw none.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON in place of tables.")
def main(root, classes, label_offset, processes, picture, no_picture, as_json_):
    """Reads every record below DIR and tells what is wrong: status 0, or 1 if something is."""
    try:
        found = verify(root, classes=classes, label_offset=label_offset, processes=processes)
        if not no_picture:
            from datasets.check.contact_sheet import draw_samples

            drawn = draw_samples(found.reports, found.class_names, picture)
    except DataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (BrokenProcessPool, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if as_json_:
        click.echo(json.dumps(as_json(found), indent=2))
    else:
        print_tables(found, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
        if not no_picture and drawn:
            click.echo(f"picture: {picture}")
    sys.exit(1 if found.counts else 0)


if __name__ == "__main__":
    main()
