"""Where the records are and what they hold: the layout of a data root.

    <root>/<data_dir>/<prefix>-00000-of-00008    TFRecord shards
    <root>/<data_dir>/manifest.json              what they hold, written last
    <root>/<data_dir>/.unfinished                there while a build is not done

Records from elsewhere need no manifest; their images are then counted. No TensorFlow here.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from core import files
from core.errors import DataError
from datasets.records.frames import count_records

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"

# The number of a file comes last, or before an ending; TFDS puts its ending before the number.
NUMBERED = r"(?:\.tfrecord)?-(\d{5,})-of-(\d{5,})(?:\.tfrecords?)?"
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".incomplete", "~")


class Shard(BaseModel, extra="forbid", frozen=True):
    """One file: its images, its size in bytes and its SHA-256 in hex."""

    images: int
    bytes: int
    sha256: str


class Split(BaseModel, extra="forbid", frozen=True):
    """The files of one prefix, by name, and the images in all of them."""

    images: int
    shards: dict[str, Shard]

    @model_validator(mode="after")
    def _shards_add_up(self) -> "Split":
        if self.images != (total := sum(shard.images for shard in self.shards.values())):
            raise ValueError(f"'images' is {self.images}, but the shards add up to {total}")
        return self


class Manifest(BaseModel, extra="forbid", frozen=True):
    """What a folder of records holds."""

    format_version: Literal[1] = 1
    label_offset: int  # the label of the first class; 1 in ImageNet's records
    classes: tuple[str, ...]  # names of the class folders, in the order of the labels
    splits: dict[str, Split]  # by prefix
    size: int | None  # short side of the images in pixels; None where it is not fixed
    settings: dict[str, Any]  # of the build: quality, seed, ...
    versions: dict[str, str]  # of the libraries that made the images

    @property
    def shards(self) -> dict[str, Shard]:
        """The shards of all splits, by name."""
        return {name: shard for s in self.splits.values() for name, shard in s.shards.items()}


def shard_name(prefix: str, index: int, count: int) -> str:
    return f"{prefix}-{index:05d}-of-{count:05d}"


def shard_files(root: str | Path, data_dir: str, prefix: str) -> list[Path]:
    """The record files `<root>/<data_dir>/<prefix>-*`, in order.

    Where there are none, those that TensorFlow Datasets names after the set:
    `<set>-<prefix>.tfrecord-00000-of-00008`.

    Files named `<prefix>-00000-of-00008` must be a whole set, and no other files are then
    taken. Where no file is named so, all of them are taken, except hidden and temporary ones.
    """
    root = Path(root)
    folder = root / data_dir
    if not root.is_dir():
        raise DataError(f"data root '{root}': there is no such folder")
    if not folder.is_dir():
        others = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
        own = any(re.search(f"(^|-){re.escape(prefix)}[.-]", p.name) for p in root.iterdir())
        raise DataError(
            f"data folder '{folder}': there is no such folder; '{root}' holds "
            f"{', '.join(others[:10]) or 'no folders'}"
            + (f", but '{prefix}' files itself: data_dir: '.' in the recipe reads those" * own)
        )
    if (folder / UNFINISHED).exists():
        raise DataError(
            f"data folder '{folder}': its build did not end; rerun the same "
            "datasets.build_imagenet_data command to resume it"
        )
    named = (path for path in sorted(folder.glob(f"{prefix}-*")) if path.is_file())
    files = [path for path in named if not path.name.endswith(_TEMPORARY)]
    if not files:
        prefix, files = _tfds_files(folder, prefix)
    pattern = re.compile(re.escape(prefix) + NUMBERED)
    numbered = {path: match for path in files if (match := pattern.fullmatch(path.name))}
    numbers = [(int(match[1]), int(match[2])) for match in numbered.values()]
    if problem := set_problem(prefix, numbers):
        raise DataError(f"data folder '{folder}': {problem[1]}")
    files = list(numbered) or files
    for path in files:
        if path.stat().st_size == 0:
            raise DataError(f"record file '{path}' is empty; build or copy it again")
    return files


def _tfds_files(folder: Path, split: str) -> tuple[str, list[Path]]:
    """The files that TensorFlow Datasets wrote for a split, and how their names begin."""
    named = re.compile(r"([^.]+-" + re.escape(split) + r")\.tfrecord-\d{5,}-of-\d{5,}")
    matches = [(path, match) for path in folder.iterdir() if (match := named.fullmatch(path.name))]
    prefixes = sorted({match[1] for _, match in matches})
    if not prefixes:
        raise DataError(
            f"data folder '{folder}': no file is named '{split}-*' or '*-{split}.tfrecord-*'"
        )
    if len(prefixes) > 1:
        raise DataError(
            f"data folder '{folder}' holds split '{split}' of several sets: "
            f"{', '.join(prefixes[:5])}; keep one of them"
        )
    return prefixes[0], sorted(path for path, _ in matches)


def set_problem(prefix: str, numbers: Sequence[tuple[int, int]]) -> tuple[str, str] | None:
    """Why files are no whole set: "missing" or "unlisted", and a message.

    Each of the `numbers` is that of a file and the number of files in its set.
    """
    counts = sorted({count for _, count in numbers})
    count = counts[0] if counts else 0
    files = f"'{prefix}-*' files"
    if len(counts) > 1:
        sets = " and ".join(map(str, counts))
        return "unlisted", f"'{prefix}-*' mixes sets of {sets} files; keep one of them"
    if missing := sorted(set(range(count)) - {number for number, _ in numbers}):
        some = f"{len(missing)} of the {count} {files} are missing"
        return (
            "missing",
            f"{some}, the first is number {missing[0]:05d}; copy or build the whole set",
        )
    if len(numbers) != count:
        some = f"there are {len(numbers)} {files} for a set of {count}"
        return "unlisted", f"{some}; keep one file of each number"
    return None


def read_manifest(folder: str | Path) -> Manifest | None:
    """The manifest of a folder of records; None where there is none."""
    path = Path(folder) / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"manifest '{path}' is broken: {where and where + ': '}{first['msg']}\n"
            "Build the folder again, or remove the file and the images will be counted."
        ) from None


def write_manifest(folder: str | Path, manifest: Manifest) -> Path:
    """Writes the manifest of a folder, whole or not at all, and returns its path."""
    path = Path(folder) / MANIFEST
    files.write(path, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    return path


def count_images(files: Iterable[Path], manifest: Manifest | None) -> int:
    """Images in all of the files; see `images_by_file`."""
    return sum(images_by_file(files, manifest))


def images_by_file(files: Iterable[Path], manifest: Manifest | None) -> list[int]:
    """Images in each of the files: from their folder's manifest, or counted if it has none."""
    known = manifest.shards if manifest else {}
    images = []
    for path in files:
        shard, size = known.get(path.name), path.stat().st_size
        if shard and size != shard.bytes:
            raise DataError(
                f"record file '{path}' has {size} bytes, its manifest says {shard.bytes}; "
                "copy or build it again"
            )
        images.append(shard.images if shard else count_records(path))
    return images
