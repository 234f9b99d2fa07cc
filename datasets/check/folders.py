"""Folders of records as they lie on disk: their files, their manifest, what is missing."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from datasets.check.records import Finding, ShardJob
from datasets.records.manifest import NUMBERED, UNFINISHED, Manifest, read_manifest
from datasets.records.tfds import DatasetInfo, read_dataset_info

_NUMBERED = re.compile(r"(.+?)" + NUMBERED)
_UNNUMBERED = re.compile(r"([^.]+?)[-_.].*\.tfrecords?|([^.]+)\.tfrecords?")


@dataclass(frozen=True)
class Folder:
    """A folder of records, before any of them is read."""

    path: Path
    jobs: tuple[ShardJob, ...]
    manifest: Manifest | None
    info: DatasetInfo | None
    findings: tuple[Finding, ...]


def find_folders(root: Path) -> list[Folder]:
    """The folders of records at `root` and right below it.

    Raises:
        DataError: no such folder, or none of records.
    """
    if not root.is_dir():
        raise DataError(f"'{root}': there is no such folder")
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    folders = [folder for path in candidates if (folder := read_folder(path)) is not None]
    if not folders:
        raise DataError(
            f"'{root}' holds no records, nor do its folders; files like "
            "'train-00000-of-00008' in it or in folders like '160' would do"
        )
    return folders


def read_folder(path: Path) -> Folder | None:
    """A folder's shards and manifest, with what is wrong at first sight; None if it has none."""
    findings = []
    manifest = None
    try:
        manifest = read_manifest(path)
    except DataError as error:
        findings.append(Finding("manifest", str(path), None, str(error).split("\n")[0]))
    expected = {
        name: shard
        for split in (manifest.splits.values() if manifest else ())
        for name, shard in split.shards.items()
    }
    files = []
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        if match := _NUMBERED.fullmatch(file.name):
            prefix = match[1] if ".tfrecord-" not in file.name else match[1].rpartition("-")[2]
            files.append((file, prefix, int(match[2]), int(match[3])))
        elif match := _UNNUMBERED.fullmatch(file.name):
            files.append((file, match[1] or match[2], 0, 0))
    if not files and not expected:
        return None
    if (path / UNFINISHED).exists():
        detail = "its build did not end; the same build command goes on with it"
        findings.append(Finding("missing", str(path), None, detail))
    findings.extend(_missing_files(files, expected, path))
    size = manifest.size if manifest else None
    jobs = tuple(
        ShardJob(file, prefix, size, expected.get(file.name)) for file, prefix, *_ in files
    )
    return Folder(path, jobs, manifest, read_dataset_info(path), tuple(findings))


def _missing_files(
    paths: Iterable[tuple[Path, str, int, int]], listed: Iterable[str], folder: Path
) -> Iterator[Finding]:
    """Files that are missing, or not of the set.

    Args:
        paths: each file with its prefix, its number and the number of files in its set.
        listed: names that the manifest lists.
        folder: that they are in.
    """
    paths, listed = list(paths), set(listed)
    names = {path.name for path, *_ in paths}
    for name in sorted(listed - names):
        yield Finding("missing", str(folder / name), None, "the manifest lists it")
    if listed:
        for name in sorted(names - listed):
            yield Finding("unlisted", str(folder / name), None, "the manifest does not list it")
    for prefix in sorted({prefix for _, prefix, *_ in paths}):
        own = [(number, count) for _, p, number, count in paths if p == prefix and count]
        counts = sorted({count for _, count in own})
        if len(counts) > 1:
            detail = f"'{prefix}' mixes sets of {' and '.join(map(str, counts))} files"
            yield Finding("unlisted", str(folder), None, detail)
        elif counts and not listed:
            gone = sorted(set(range(counts[0])) - {number for number, _ in own})
            if gone:
                detail = f"{len(gone)} of the {counts[0]} '{prefix}' files, first number {gone[0]}"
                yield Finding("missing", str(folder), None, detail)
