"""The folder that a build writes into: its lock, its notes, what is finished in it.

<output>/.build.json     what is built here: settings and a digest of the files
<output>/.build.done     a line of JSON for each finished shard
<output>/.build.lock     held while a build runs
<output>/rejected.csv    files that are left out, and why
"""

import contextlib
import csv
import io
import json
import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import filelock

from core import files
from core.errors import DataError
from datasets.records.manifest import MANIFEST, UNFINISHED

logger = logging.getLogger(__name__)

BUILD = ".build.json"
DONE = ".build.done"
REJECTED = "rejected.csv"
LIBRARIES = ("pillow", "libjpeg")  # keys of the identity; they decide the last bit of a pixel

_RECORDS = re.compile(r"(?:train|validation)-\d{5,}-of-\d{5,}")
_TEMPORARY_RECORDS = re.compile(r"\." + _RECORDS.pattern + r"\.\d+")  # see `files.whole`


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Makes the output folder and keeps other builds out of it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(output / ".build.lock").acquire(timeout=0)
    except filelock.Timeout:
        raise DataError(f"output '{output}': another build is running there; wait for it") from None
    except OSError as error:
        raise DataError(f"output '{output}' cannot be written: {error.strerror}") from None
    with lock:
        yield


def prepare_output(
    output: Path, identity: dict[str, Any], shards: Collection[str], overwrite: bool
) -> dict[str, dict[str, Any]]:
    """Prepares the output folder for a build, and returns the results of finished shards.

    The `identity` is all that decides the bytes of the shards. With `overwrite`, other records
    and manifests in the size folders are removed, and nothing else; what a killed build of
    the same identity has written is still used.
    """
    folders = [output / str(size) for size in identity["sizes"]]
    before = _noted(output)
    same = before == identity
    foreign = [
        path
        for folder in folders
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (_RECORDS.fullmatch(path.name) and not (same and path.name in shards))
        or (path.name == MANIFEST and not same)
    ]
    problem = f"records of other origin ('{foreign[0]}')" if foreign else ""
    if before is not None and not same:
        differ = [key for key in identity if before.get(key) != identity[key]]
        problem = f"a build with other {', '.join(differ)}"
    if problem and not overwrite:
        raise DataError(f"output '{output}' holds {problem}; choose another, or --overwrite it")
    for path in foreign:
        path.unlink()
    unfinished = same and any((folder / UNFINISHED).exists() for folder in folders)
    results = _finished(output, shards) if unfinished or not overwrite else {}
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / UNFINISHED).touch()
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _TEMPORARY_RECORDS.fullmatch(path.name):
                path.unlink()
    files.write(output / DONE, "".join(json.dumps(r) + "\n" for r in results.values()))
    files.write(output / BUILD, json.dumps(identity, indent=1) + "\n")
    return results


def _noted(output: Path) -> dict[str, Any] | None:
    """The identity of the build in a folder; None without one, empty where it is broken."""
    try:
        return dict(json.loads((output / BUILD).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # no JSON, or no object
        return {}


def differences(output: Path, identity: dict[str, Any]) -> list[str]:
    """In what a build in the folder differs from one of this identity; none without a build.

    Libraries of another version do not count where the build is finished.
    """
    before = _noted(output)
    if before is None:
        return []
    free = LIBRARIES if is_finished(output, identity["sizes"]) else ()
    return [key for key in identity if before.get(key) != identity[key] and key not in free]


def is_finished(output: Path, sizes: Collection[int]) -> bool:
    """Whether a build has ended in the folder that made the records of all these sizes."""
    folders = [output / str(size) for size in sizes]
    return (output / BUILD).exists() and all(
        (f / MANIFEST).exists() and not (f / UNFINISHED).exists() for f in folders
    )


def _finished(output: Path, shards: Collection[str]) -> dict[str, dict[str, Any]]:
    """Results of the shards that are there in all sizes, from the build's own list."""
    results = {}
    done = output / DONE
    for line in done.read_text("utf-8").splitlines() if done.exists() else ():
        with contextlib.suppress(ValueError, OSError):  # cut short, or a shard is gone
            result = json.loads(line)
            if result["name"] in shards and all(
                (output / size / result["name"]).stat().st_size == shard["bytes"]
                for size, shard in result["sizes"].items()
            ):
                results[result["name"]] = result
    return results


def rejected(output: Path) -> dict[str, str]:
    """The reasons by file, as `report_rejected` has listed them; none without a list."""
    try:
        text = (output / REJECTED).read_text("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    return {row["file"]: row["reason"] for row in csv.DictReader(io.StringIO(text, newline=""))}


def report_rejected(
    output: Path, results: Collection[dict[str, Any]], total: int, max_rejected: float
) -> None:
    """Lists the unreadable images in a table. Too many, or all of a shard, raise a `DataError`."""
    path = output / REJECTED
    rows = sorted(row for result in results for row in result["rejected"])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("file", "reason"), *rows])
    files.write(path, table.getvalue())
    if len(rows) > max_rejected * total:
        raise DataError(
            f"{len(rows)} of {total} images cannot be read ({len(rows) / total:.2%}; "
            f"--max_rejected is {max_rejected:.2%})\nThey are listed in '{path}'; mend or remove "
            "them, or build with a higher --max_rejected"
        )
    for result in results:
        if not all(shard["images"] for shard in result["sizes"].values()):
            shard = f"shard '{result['name']}'"
            raise DataError(f"no image of {shard} can be read, see '{path}'; give fewer --shards")
    if rows:
        logger.warning(f"warning: {len(rows)} unreadable images are left out: '{path}'")
