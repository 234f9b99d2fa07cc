"""Resizes a tree of images once and writes it as ImageNet's classic records.

    python -m datasets.build_imagenet_data --source TREE --output DIR --sizes 160,320

reads `TREE/{train,val}/<class>/*` and writes, for every size,
`DIR/<size>/train-00000-of-01024`, `DIR/<size>/validation-00000-of-00128` and a
manifest. A size is the short side in pixels; the aspect is kept.

The same tree, settings and Pillow give the same bytes, whatever the number of
processes. A build that was killed goes on where it stopped when it is started again.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import filelock
import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features
from tqdm import tqdm

from datasets.errors import DataError
from datasets.manifest import (
    MANIFEST,
    UNFINISHED,
    Manifest,
    Shard,
    Split,
    publish,
    shard_name,
    write_atomically,
    write_manifest,
)
from datasets.processes import available, run_jobs
from datasets.records import LABEL_OFFSET, frame, make_example

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
IMAGES_A_SHARD = 1250  # 1024 train files for ImageNet, as everyone has them

BUILD = ".build.json"  # what is built here: settings and a digest of the files
DONE = ".build.done"  # a line of JSON for each finished shard
LOCK = ".build.lock"
REJECTED = "rejected.csv"

ENOUGH_REJECTED = 1000  # a build that has failed already lists so many, then stops

_RECORDS = re.compile(r"(?:train|validation)-\d{5,}-of-\d{5,}")
_TEMPORARY_RECORDS = re.compile(r"\." + _RECORDS.pattern + r"\.tmp-\d+")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class BuildStopped(RuntimeError):
    """The build ended for no fault of the data; the same command goes on with it."""


# Images.


def read_image(data: bytes) -> tuple[Image.Image, bool]:
    """Decodes any of `FORMATS` to an upright RGB image.

    Transparency is laid on white, 16 bits keep their upper 8, and of an animation the
    first frame is taken.

    Args:
        data: contents of an image file.

    Returns:
        The image, and whether `data` is a baseline RGB JPEG of just these pixels.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        plain = image.format == "JPEG" and image.mode == "RGB" and _is_baseline(data)
        if image.mode.startswith("I"):
            pixels = np.clip(np.asarray(image, np.int64) >> 8, 0, 255)
            rgb = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        elif image.has_transparency_data:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            rgb = Image.alpha_composite(white, rgba).convert("RGB")
        else:
            rgb = image.convert("RGB")
    return (rgb, plain) if turn is None else (rgb.transpose(turn), False)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block raises anything; the pixels are good
        return 1


def _is_baseline(data: bytes) -> bool:
    """Whether the frame header of a JPEG is SOF0, which every decoder knows."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _SOF_MARKERS:
            return marker == 0xC0
        if marker == 0xFF:  # a fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return False


def resized(width: int, height: int, size: int, enlarge: bool) -> tuple[int, int]:
    """Width and height in pixels with `size` as the short side and the same aspect."""
    short = min(width, height)
    if short == size or (short < size and not enlarge):
        return width, height
    scaled = ((side * size + short // 2) // short for side in (width, height))
    return next(scaled), next(scaled)


def convert(
    data: bytes, sizes: Sequence[int], quality: int, enlarge: bool = False
) -> list[tuple[bytes, int, int]]:
    """JPEGs of an image with the short sides asked for, from one decode.

    The decode is a full one. libjpeg's scaled decode (Pillow's draft mode) changes the
    pixels (44 to 48 dB), and few photographs of ImageNet are large enough to gain by it.

    Args:
        data: contents of an image file.
        sizes: short sides in pixels.
        quality: of the JPEGs, 1 to 100.
        enlarge: also enlarge the image where it is smaller than a size.

    Returns:
        For each size the JPEG, its width and its height in pixels. A baseline RGB JPEG
        that already has the size is returned byte for byte.
    """
    image, plain = read_image(data)
    out = []
    for size in sizes:
        target = resized(image.width, image.height, size, enlarge)
        if plain and target == image.size:
            out.append((data, *target))
            continue
        scaled = image
        if target != image.size:
            scaled = image.resize(target, Image.Resampling.LANCZOS)
        # 4:2:0 keeps a quarter of the colour. Photographs do not show it; in an image of
        # 64 pixels or less it blurs whole objects, and the bytes saved are few.
        subsampling = "4:4:4" if min(target) <= 64 else "4:2:0"
        file = io.BytesIO()
        scaled.save(file, "JPEG", quality=quality, subsampling=subsampling, comment=b"")
        out.append((file.getvalue(), *target))
    return out


# The source tree.


@dataclass(frozen=True)
class Source:
    """A tree of images.

    Attributes:
        root: folder of the splits.
        folders: path of each split, by prefix of its records.
        classes: names of the class folders, in the order of the labels.
        files: `<class>/<file>` of each split, in the order they are written.
        digest: hex digest of the splits' file names and sizes.
    """

    root: Path
    folders: dict[str, Path]
    classes: tuple[str, ...]
    files: dict[str, tuple[str, ...]]
    digest: str


def read_source(root: str | Path, seed: int = 0) -> Source:
    """Lists the images of `root/{train,val}/<class>/*` in an order set by the seed.

    The order is that of a hash of seed and name: classes are mixed, and it does not
    depend on the file system. Hidden files are left out.

    Raises:
        DataError: the tree is not as above, or holds no images.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"source '{root}': there is no such folder")
    folders = {}
    for prefix, names in SPLIT_FOLDERS.items():
        found = [root / name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise DataError(f"source '{root}' has both 'val' and 'validation'; keep one of them")
        if found:
            folders[prefix] = found[0]
    if "train" not in folders:
        raise DataError(f"source '{root}' has no folder 'train' with a folder for each class")
    if "validation" not in folders:
        logger.warning("warning: source '%s' has no folder 'val'; only train is written", root)

    classes = _class_folders(folders["train"])
    unknown = sorted(set(_class_folders(folders.get("validation"))) - set(classes))
    if unknown:
        raise DataError(
            f"'{folders['validation']}' has {len(unknown)} class(es) that train has not: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )
    digest = hashlib.sha256()
    files = {}
    for prefix, folder in folders.items():
        sizes = _image_files(folder)
        if not sizes:
            raise DataError(f"'{folder}' holds no images; they belong in '<class>/<image>'")
        files[prefix] = tuple(sorted(sizes, key=functools.partial(_shuffle_key, seed)))
        for file in sorted(sizes):
            digest.update(os.fsencode(f"{prefix}/{file}\0{sizes[file]}\n"))
    return Source(root, folders, classes, files, digest.hexdigest())


def _shuffle_key(seed: int, file: str) -> tuple[bytes, str]:
    return hashlib.sha256(os.fsencode(f"{seed}/{file}")).digest(), file


def _class_folders(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ()
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"'{folder}' has no class folders; images belong in '<class>/<image>'")
    for name in names:
        if not name.isprintable():
            raise DataError(f"class folder {name!r} in '{folder}': give it a printable name")
    return tuple(names)


def _image_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of a split's files, by `<class>/<file>`; -1 for a dead link."""
    sizes = {}
    for name in _class_folders(folder):
        with os.scandir(folder / name) as entries:
            files = {
                f"{name}/{entry.name}": entry.stat().st_size if entry.is_file() else -1
                for entry in entries
                if entry.name[0] != "." and not entry.is_dir()
            }
        if not files:
            logger.warning("warning: class folder '%s' holds no images", folder / name)
        sizes.update(files)
    return sizes


def read_class_names(path: str | Path, classes: Sequence[str]) -> dict[str, str]:
    """Classes in words from lines of `<class folder><tab or blank><words>`.

    Raises:
        DataError: no such file, not text, or it names none of the classes.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names '{path}' cannot be read: {error}") from None
    words = {}
    for line in lines:
        name, _, text = line.partition("\t") if "\t" in line else line.partition(" ")
        if name in classes:
            words[name] = text.strip()
    if not words:
        raise DataError(
            f"class names '{path}' has a line for none of the {len(classes)} classes; "
            f"lines like '{classes[0]}<tab>words' would do"
        )
    return words


# Shards.


@dataclass(frozen=True)
class Job:
    """One shard in all sizes: what a process needs to write it."""

    source: Path
    output: Path
    name: str
    files: tuple[str, ...]
    classes: Mapping[str, int]
    words: Mapping[str, str]
    sizes: tuple[int, ...]
    quality: int
    enlarge: bool

    def example(self, file: str, encoded: bytes, width: int, height: int) -> bytes:
        synset, name = file.split("/")
        return make_example(
            encoded,
            height=height,
            width=width,
            label=self.classes[synset],
            synset=synset,
            text=self.words.get(synset, ""),
            filename=os.fsencode(name),
        )


class _ShardFile:
    """A shard under a temporary name; it gets its own when all went well."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        self.images = self.bytes = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> "_ShardFile":
        self._file = open(self.temporary, "wb")
        return self

    def write(self, example: bytes) -> None:
        record = frame(example)
        self._file.write(record)
        self._hash.update(record)
        self.images += 1
        self.bytes += len(record)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if failed is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        if failed is None:
            publish(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)

    def described(self) -> dict[str, Any]:
        return {"images": self.images, "bytes": self.bytes, "sha256": self._hash.hexdigest()}


def write_shard(job: Job) -> dict[str, Any]:
    """Writes a job's shard in all sizes, one image in memory at a time.

    Returns:
        `{"name": str, "sizes": {size: {"images", "bytes", "sha256"}}, "rejected":
        [[file, reason], ...]}`, fit for JSON.
    """
    rejected = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow's, of images it reads all the same
        shards = {
            size: stack.enter_context(_ShardFile(job.output / str(size) / job.name))
            for size in job.sizes
        }
        for file in job.files:
            try:
                data = (job.source / file).read_bytes()
                images = convert(data, job.sizes, job.quality, job.enlarge)
            except MemoryError:
                raise
            except Exception as error:  # broken images make Pillow raise nearly anything
                path = job.source / file
                rejected.append([f"{path.parent.parent.name}/{file}", _reason(path, error)])
                continue
            for shard, image in zip(shards.values(), images, strict=True):
                shard.write(job.example(file, *image))
    sizes = {str(size): shard.described() for size, shard in shards.items()}
    return {"name": job.name, "sizes": sizes, "rejected": rejected}


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image: " + ", ".join(FORMATS) + " are read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _write_shards(jobs: Sequence[Job], processes: int) -> Generator[dict[str, Any], None, None]:
    """Results of `write_shard` as they come, from this process where it is to be one."""
    try:
        yield from run_jobs(write_shard, jobs, processes)
    except BrokenProcessPool:
        raise BuildStopped(
            "a process of the build died (killed, or out of memory?). Finished shards are kept:\n"
            "run the same command again, with fewer --processes if memory was short"
        ) from None


# The build.


def shard_counts(
    images: Mapping[str, int], shards: int | None = None, validation_shards: int | None = None
) -> dict[str, int]:
    """Files of each split, by default about 1,250 images in each.

    Training gets 8 or more where it has the images, validation an eighth of what
    training gets by default: ImageNet's usual 1024 and 128.

    Args:
        images: of each split.
        shards: training files, in place of the default.
        validation_shards: likewise for validation.

    Raises:
        DataError: a number below 1 or above that of the images.
    """
    train = max(images["train"] // IMAGES_A_SHARD, min(8, images["train"]))
    counts = {"train": train if shards is None else shards}
    if "validation" in images:
        eighth = min(train // 8, images["validation"])
        default = max(1, eighth, images["validation"] // IMAGES_A_SHARD)
        counts["validation"] = default if validation_shards is None else validation_shards
    for prefix, count in counts.items():
        if not 1 <= count <= images[prefix]:
            option = "--shards" if prefix == "train" else "--validation_shards"
            raise DataError(
                f"{option}: received {count}; 1 to {images[prefix]}, "
                f"the number of {prefix} images, would do"
            )
    return counts


def build(
    source: str | Path,
    output: str | Path,
    sizes: Sequence[int],
    *,
    shards: int | None = None,
    validation_shards: int | None = None,
    quality: int = 90,
    seed: int = 0,
    processes: int | None = None,
    class_names: str | Path | None = None,
    enlarge: bool = False,
    max_rejected: float = 0.001,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[int, Manifest]:
    """Writes the records of a tree of images in all sizes.

    Args:
        source: folder with `{train,val}/<class>/*`; `val` may be missing.
        output: data root; `<output>/<size>/` is written.
        sizes: short sides in pixels.
        shards: training files; see `shard_counts`.
        validation_shards: validation files; see `shard_counts`.
        quality: of the JPEGs, 1 to 100.
        seed: of the order of the images.
        processes: processes to write with. Defaults to the CPUs at hand; 1 starts none.
        class_names: file with lines of `<class><tab>words`.
        enlarge: enlarge images that are smaller than a size.
        max_rejected: fraction of unreadable images at which to give up.
        overwrite: replace records that are in the size folders already.
        progress: show a progress bar.

    Returns:
        The manifest of each size.

    Raises:
        DataError: a mistake in the arguments, the tree or the output folder, or too
            many unreadable images.
        BuildStopped: a process died.
    """
    source, output, sizes = Path(source), Path(output), tuple(sizes)
    processes = available() if processes is None else processes
    _check_settings(sizes, quality, processes, max_rejected)
    tree = read_source(source, seed)
    images = {prefix: len(files) for prefix, files in tree.files.items()}
    counts = shard_counts(images, shards, validation_shards)
    words = read_class_names(class_names, tree.classes) if class_names else {}
    for folder in tree.folders.values():
        if output.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"output '{output}' is inside the source's '{folder}'; choose another")

    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    versions = {"pillow": PIL.__version__, "libjpeg": str(libjpeg)}
    named = json.dumps([tree.classes, sorted(words.items())])
    identity = {
        "format": 1,
        "sizes": list(sizes),
        "shards": counts,
        "quality": quality,
        "seed": seed,
        "enlarge": enlarge,
        "class names": hashlib.sha256(named.encode()).hexdigest(),
        "files": tree.digest,
        **versions,
    }
    labels = {name: label for label, name in enumerate(tree.classes, LABEL_OFFSET)}
    jobs = [
        Job(
            tree.folders[prefix], output, shard_name(prefix, index, count),
            files[index * len(files) // count : (index + 1) * len(files) // count],
            labels, words, sizes, quality, enlarge,
        )
        for prefix, count in counts.items()
        for files in [tree.files[prefix]]
        for index in range(count)
    ]  # fmt: skip
    total = sum(images.values())
    with _locked(output):
        results = _prepare_output(output, identity, jobs, overwrite)
        most = max(max_rejected * total, ENOUGH_REJECTED)
        _finish(jobs, results, output / DONE, processes, most, progress)
        _write_rejected(output / REJECTED, results.values())
        _check_rejected(output / REJECTED, results.values(), total, max_rejected)
        manifests = {}
        for size in sizes:
            manifests[size] = Manifest(
                label_offset=LABEL_OFFSET,
                classes=tree.classes,
                splits={
                    prefix: _split([shard_name(prefix, i, n) for i in range(n)], results, size)
                    for prefix, n in counts.items()
                },
                size=size,
                settings={"quality": quality, "seed": seed, "enlarge": enlarge},
                versions=versions,
            )
            write_manifest(output / str(size), manifests[size])
            (output / str(size) / UNFINISHED).unlink()
    return manifests


def _finish(
    jobs: Sequence[Job],
    results: dict[str, dict[str, Any]],
    done: Path,
    processes: int,
    most_rejected: float,
    progress: bool,
) -> None:
    """Runs the jobs that have no result yet; adds theirs to `results` and to `done`.

    Stops early when more than `most_rejected` images were unreadable.
    """
    lengths = {job.name: len(job.files) for job in jobs}
    rejected = sum(len(result["rejected"]) for result in results.values())
    with (
        contextlib.closing(
            _write_shards([job for job in jobs if job.name not in results], processes)
        ) as written,
        open(done, "a", encoding="utf-8") as file,
        tqdm(
            total=sum(lengths.values()),
            initial=sum(lengths[name] for name in results),
            unit=" images",
            smoothing=0,
            disable=not progress,
        ) as bar,
    ):
        for result in written:
            results[result["name"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
            bar.update(lengths[result["name"]])
            rejected += len(result["rejected"])
            if rejected > most_rejected:
                return


def _split(names: Iterable[str], results: Mapping[str, dict[str, Any]], size: int) -> Split:
    shards = {name: Shard(**results[name]["sizes"][str(size)]) for name in names}
    return Split(images=sum(shard.images for shard in shards.values()), shards=shards)


def _check_settings(
    sizes: Sequence[int], quality: int, processes: int, max_rejected: float
) -> None:
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise DataError(
            f"--sizes: received {','.join(map(str, sizes)) or 'none'}; "
            "give different short sides in pixels, like 160,320"
        )
    if not 1 <= quality <= 100:
        raise DataError(f"--quality: received {quality}; 1 to 100 would do")
    if processes < 1:
        raise DataError(f"--processes: received {processes}; 1 or more would do")
    if not 0 <= max_rejected <= 1:
        raise DataError(f"--max_rejected: received {max_rejected}; a fraction, 0 to 1, would do")


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Makes the output folder and keeps other builds out of it."""
    lock = filelock.FileLock(output / LOCK)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise DataError(f"output '{output}': another build is at work there; wait for it") from None
    except OSError as error:
        raise DataError(f"output '{output}' cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _prepare_output(
    output: Path, identity: dict[str, Any], jobs: Sequence[Job], overwrite: bool
) -> dict[str, dict[str, Any]]:
    """Makes the output folder fit for these jobs; results of those that are done.

    With `overwrite` records and manifests in the size folders are removed, nothing
    else; but what a killed build of these very jobs has written is used.

    Raises:
        DataError: the folder holds another build, or records of other origin.
    """
    folders = [output / str(size) for size in jobs[0].sizes]
    before = _read_identity(output / BUILD)
    names = {job.name for job in jobs} if before == identity else set()
    foreign = [
        path
        for folder in folders
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (_RECORDS.fullmatch(path.name) and path.name not in names)
        or (path.name == MANIFEST and not names)
    ]
    if overwrite:
        unfinished = names and any((folder / UNFINISHED).exists() for folder in folders)
        results = _finished(output, jobs) if unfinished else {}
        for path in foreign:
            path.unlink()
    elif before is not None and before != identity:
        differ = [key for key in identity if before.get(key) != identity[key]]
        raise DataError(
            f"output '{output}' holds a build with other {', '.join(differ)}; "
            "choose another --output, or --overwrite it"
        )
    elif foreign:
        raise DataError(
            f"output '{output}' holds records of other origin ('{foreign[0]}'); "
            "choose another --output, or --overwrite them"
        )
    else:
        results = _finished(output, jobs)
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / UNFINISHED).touch()
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _TEMPORARY_RECORDS.fullmatch(path.name):
                path.unlink()
    write_atomically(output / DONE, "".join(json.dumps(r) + "\n" for r in results.values()))
    write_atomically(output / BUILD, json.dumps(identity, indent=1) + "\n")
    return results


def _read_identity(path: Path) -> dict[str, Any] | None:
    try:
        identity = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return identity if isinstance(identity, dict) else {}


def _finished(output: Path, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Results of the jobs whose shards are all there, from the build's own list."""
    results = {}
    names = {job.name for job in jobs}
    lines = (output / DONE).read_text("utf-8").splitlines() if (output / DONE).exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, OSError):  # cut short, or a shard is gone
            result = json.loads(line)
            if result["name"] in names and all(
                (output / size / result["name"]).stat().st_size == shard["bytes"]
                for size, shard in result["sizes"].items()
            ):
                results[result["name"]] = result
    return results


def _write_rejected(path: Path, results: Iterable[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "reason"])
    writer.writerows(sorted(row for result in results for row in result["rejected"]))
    write_atomically(path, table.getvalue())


def _check_rejected(
    table: Path, results: Collection[dict[str, Any]], total: int, max_rejected: float
) -> None:
    rejected = sum(len(result["rejected"]) for result in results)
    if rejected > max_rejected * total:
        raise DataError(
            f"{rejected} of {total} images cannot be read ({rejected / total:.2%}; --max_rejected "
            f"is {max_rejected:.2%})\nThey are listed in '{table}'; mend or remove them, "
            "or run again with a higher --max_rejected"
        )
    for result in results:
        if not all(shard["images"] for shard in result["sizes"].values()):
            raise DataError(
                f"no image of shard '{result['name']}' can be read (see '{table}'); "
                "fewer --shards would do"
            )


def summary(manifests: Mapping[int, Manifest]) -> str:
    """A table of what was written: size, split, images, shards and megabytes."""
    rows = [f"{'size':>6}  {'split':<10}  {'images':>9}  {'shards':>6}  {'MB':>9}"]
    for size, manifest in manifests.items():
        for prefix, split in manifest.splits.items():
            megabytes = sum(shard.bytes for shard in split.shards.values()) / 1e6
            rows.append(
                f"{size:>6}  {prefix:<10}  {split.images:>9,}  {len(split.shards):>6}  "
                f"{megabytes:>9,.1f}"
            )
    return "\n".join(rows)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes from a list like "160,320".

    Raises:
        DataError: it is not one.
    """
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise DataError(
            f"--sizes: received '{text}'; give short sides in pixels, like 160,320"
        ) from None


@click.command(context_settings={"show_default": True})
@click.option("--source", required=True, help="Folder with {train,val}/<class>/<image>.")
@click.option("--output", required=True, help="Data root; <size>/ folders are made in it.")
@click.option("--sizes", required=True, help="Short sides in pixels, like 160,320.")
@click.option("--shards", type=int, help="Training files.  [default: 1 for 1,250 images, >= 8]")
@click.option("--validation_shards", type=int, help="Validation files.  [default: 1/8 of train]")
@click.option("--quality", type=int, default=90, help="Of the JPEGs, 1 to 100.")
@click.option("--seed", type=int, default=0, help="Of the order of the images.")
@click.option("--processes", type=int, help="Processes to write with.  [default: the CPUs]")
@click.option("--class_names", help="File with lines of <class><tab><words>.")
@click.option("--enlarge", is_flag=True, help="Enlarge images smaller than a size.")
@click.option("--max_rejected", type=float, default=0.001, help="Unreadable fraction to accept.")
@click.option("--overwrite", is_flag=True, help="Replace records in the size folders.")
def main(source: str, output: str, sizes: str, **settings: Any) -> None:
    """Resizes a tree of images and writes it as ImageNet's classic records."""
    try:
        manifests = build(source, output, parse_sizes(sizes), **settings)
    except DataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (BuildStopped, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(summary(manifests))
    with open(Path(output) / REJECTED, encoding="utf-8", errors="surrogateescape") as file:
        rejected = sum(1 for _ in csv.reader(file)) - 1
    if rejected:
        click.echo(f"{rejected} unreadable images are left out: '{Path(output) / REJECTED}'")


if __name__ == "__main__":
    main()
