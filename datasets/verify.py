"""Reads every record of a data set and shows what is wrong with it.

    python -m datasets.verify DIR

DIR is a folder of records, or one that has a folder for each size (`160`, `320`). Records
without a manifest are checked as far as possible. The status is 0 where nothing is wrong, 1
where something is, 2 at a mistake on the command line.
"""

import contextlib
import json
import sys
import time
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from core.errors import DataError
from datasets.build.processes import available, run_jobs
from datasets.check.contact_sheet import draw_samples
from datasets.check.folders import Folder, check_folder, find_folders
from datasets.check.records import LISTED, Finding, ShardReport, check_shard


@dataclass
class SplitReport:
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

    Of each kind there are up to `LISTED` findings for a file, and ten times as many for what
    concerns several; `counts` has all. `notes` say what could not be checked.
    """

    folders: list[Folder]
    processes: int
    splits: list[SplitReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0


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
        classes, label_offset: number of classes and first label of records without a manifest.
        processes: to read with. By default as many as there are CPUs; 1 starts none.
    """
    began = time.monotonic()
    folders = find_folders(Path(root))
    by_path = {folder.path: folder for folder in folders}
    # Large files first: the last one to end is then a small one.
    shards = sorted(
        (shard for folder in folders for shard in folder.shards), key=lambda s: -s.bytes
    )
    found = Verified(folders, min(processes or available(), max(1, len(shards))))
    total = sum(shard.bytes for shard in shards)
    bar = tqdm(total=total, unit="B", unit_scale=True, smoothing=0, disable=not progress)
    with bar, contextlib.closing(run_jobs(check_shard, shards, found.processes)) as reports:
        for report in reports:
            by_path[report.path.parent].reports.append(report)
            found.images += report.records
            bar.set_postfix_str(f"{found.images / (time.monotonic() - began):,.0f} images/s", False)
            bar.update(report.bytes)
    for folder in folders:
        folder.reports.sort(key=lambda report: report.path.name)
        for report in folder.reports:
            found.findings.extend(report.findings)
            found.counts.update(report.counts)
        for finding in check_folder(folder, classes, label_offset):
            found.counts[finding.kind] += 1
            if found.counts[finding.kind] <= 10 * LISTED:
                found.findings.append(finding)
        found.notes.extend(folder.notes)
        found.splits.extend(_split(folder, prefix, own) for prefix, own in folder.splits.items())
    found.seconds = time.monotonic() - began
    return found


def _split(folder: Folder, prefix: str, reports: list[ShardReport]) -> SplitReport:
    labels = np.concatenate([report.rows["label"] for report in reports])
    labels, counts = np.unique(labels, return_counts=True)
    return SplitReport(
        folder=str(folder.path),
        prefix=prefix,
        shards=len(reports),
        images=sum(report.records for report in reports),
        bytes=sum(report.bytes for report in reports),
        labels=(int(labels[0]), int(labels[-1])) if len(labels) else None,
        classes=len(labels),
        images_a_class=(int(counts.min()), int(counts.max())) if len(labels) else None,
    )


def print_tables(found: Verified, console: Console) -> None:
    """What there is, what is wrong with it, and how fast it was read."""
    held = Table("folder", "split", "shards", "images", "MB", "classes", "labels", "images a class")
    for s in found.splits:
        counts = (f"{s.shards:,}", f"{s.images:,}", f"{s.bytes / 1e6:,.1f}", f"{s.classes:,}")
        ranges = ("{:,} to {:,}".format(*r) if r else "-" for r in (s.labels, s.images_a_class))
        held.add_row(s.folder, s.prefix, *counts, *ranges)
    console.print(held)
    wrong = Table("kind", "file", "record (from 0)", "what is wrong")
    for kind, count in found.counts.items():
        for finding in [f for f in found.findings if f.kind == kind][:LISTED]:
            record = "" if finding.record is None else str(finding.record)
            wrong.add_row(kind, escape(finding.file), record, escape(finding.detail))
        if count > LISTED:
            wrong.add_row(kind, "", "", f"{count - LISTED:,} more; --json lists more of them")
    if wrong.row_count:
        console.print(wrong)
    for note in found.notes:
        console.print(f"note: {escape(note)}")
    rate = f"{found.images / found.seconds:,.0f} images/s with {found.processes} process(es)"
    console.print(f"{found.images:,} records in {found.seconds:.1f} s: {rate}")
    total = sum(found.counts.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.most_common())
    console.print(f"{total:,} finding(s): {kinds}" if total else "nothing is wrong")


@click.command()
@click.argument("root", type=Path, metavar="DIR")
@click.option("--classes", type=click.IntRange(1), help="Of records that have no manifest.")
@click.option("--label_offset", type=click.IntRange(0, 1), help="Their label of the first class.")
@click.option("--processes", type=click.IntRange(1), help="To read with.  [default: the CPUs]")
@click.option("--picture", type=Path, default="verify.png", show_default=True, help="Of samples.")
@click.option("--no_picture", is_flag=True, help="Draw none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables.")
def main(root, classes, label_offset, processes, picture, no_picture, as_json):
    """Reads every record below DIR and shows what is wrong: status 0, or 1 if something is."""
    try:
        found = verify(root, classes=classes, label_offset=label_offset, processes=processes)
        drawn = not no_picture and draw_samples(found.folders, picture)
    except (DataError, BrokenProcessPool, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if as_json:
        keys = ("splits", "findings", "counts", "notes", "images", "seconds", "processes")
        shown = {key: getattr(found, key) for key in keys}
        click.echo(json.dumps(shown, indent=2, default=vars))
    else:
        print_tables(found, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
        if drawn:
            click.echo(f"picture: {picture}")
    sys.exit(1 if found.counts else 0)


if __name__ == "__main__":
    main()
