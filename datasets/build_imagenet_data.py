"""Resizes a set of images once and writes it as ImageNet's classic records.

    python -m datasets.build_imagenet_data --source SET --output DIR --sizes 160,320

writes, for every size, `DIR/<size>/train-00000-of-01024`,
`DIR/<size>/validation-00000-of-00128` and a manifest. A size is the short side in
pixels; the aspect is kept. `SET` is a folder with

    ILSVRC2012_img_train.tar, ...       the official archives, as they were downloaded
    {train,val}/<class>/*               a folder for each class
    {train,val}/.../images/*            Tiny ImageNet as it is released
    ILSVRC/Data/CLS-LOC/                ImageNet as Kaggle has it
    {160,320}/{train,val}/<class>/*     resized already; the files are kept as they are

The same images, settings and Pillow give the same bytes, whatever the number of
processes and whatever they are kept in. A build that was killed goes on where it
stopped when it is started again.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import PIL
from PIL import features
from tqdm import tqdm

from core.errors import DataError
from datasets.build.folder import (
    DONE,
    REJECTED,
    check_rejected,
    count_rejected,
    locked,
    prepare_output,
    write_rejected,
)
from datasets.build.plan import BuildPlan, plan_build
from datasets.build.processes import available
from datasets.build.shards import (
    BuildStopped,
    Job,
    Settings,
    make_jobs,
    settings_for,
    shard_counts,
    write_shards,
)
from datasets.build.sources.layouts import LAYOUTS, read_source
from datasets.build.sources.source import Source
from datasets.records.manifest import UNFINISHED, Manifest, Shard, Split, shard_name, write_manifest
from datasets.records.schema import CLASSIC_LABEL_OFFSET

ENOUGH_REJECTED = 1000  # a build that has failed already lists so many, then stops


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
    layout: str | None = None,
    class_names: str | Path | None = None,
    bboxes: Sequence[str | Path] = (),
    enlarge: bool = False,
    max_rejected: float = 0.001,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[int, Manifest]:
    """Writes the records of a set of images in all sizes.

    Args:
        source: folder of the set; its validation part may be missing.
        output: data root; `<output>/<size>/` is written.
        sizes: short sides in pixels. May be empty for a set that is resized already:
            all of its sizes.
        shards: training files; see `shard_counts`.
        validation_shards: validation files; see `shard_counts`.
        quality: of the JPEGs, 1 to 100.
        seed: of the order of the images.
        processes: processes to write with. Defaults to the CPUs at hand; 1 starts none.
        layout: how the set is kept, one of `LAYOUTS`. Defaults to what it looks like.
        class_names: file with lines of `<class><tab>words`. Defaults to the set's own.
        bboxes: folders and archives of annotation XML, beside the set's own.
        enlarge: enlarge images that are smaller than a size.
        max_rejected: fraction of unreadable images at which to give up.
        overwrite: replace records that are in the size folders already.
        progress: show a progress bar.

    Returns:
        The manifest of each size.

    Raises:
        DataError: a mistake in the arguments, the set or the output folder, or too
            many unreadable images.
        BuildStopped: a process died.
    """
    output, sizes = Path(output), tuple(sizes)
    processes = available() if processes is None else processes
    check_settings(sizes, quality, processes, max_rejected)
    found = read_source(
        source, seed, layout, class_names=class_names, boxes=bboxes, progress=progress
    )
    settings = settings_for(found, sizes, quality, enlarge)
    images = {prefix: len(part) for prefix, part in found.images.items()}
    counts = shard_counts(images, shards, validation_shards)
    _check_output(output, settings.sizes, found)
    versions = _versions()
    identity = {
        "format": 2,
        "sizes": list(settings.sizes),
        "shards": counts,
        "quality": quality,
        "seed": seed,
        "enlarge": enlarge,
        "resized already": settings.ready,
        "class names": _digest([found.classes, sorted(found.words.items())]),
        "bounding boxes": _digest(
            [[prefix, sorted(boxes.items())] for prefix, boxes in found.boxes.items() if boxes]
        ),
        "files": found.digest,
        **versions,
    }
    jobs = make_jobs(found, output, counts)
    total = sum(images.values())
    with locked(output):
        names = {job.name for job in jobs}
        results = prepare_output(output, identity, names, settings.sizes, overwrite)
        most = max(max_rejected * total, ENOUGH_REJECTED)
        _finish(jobs, settings, results, output / DONE, processes, most, progress)
        write_rejected(output / REJECTED, results.values())
        check_rejected(output / REJECTED, results.values(), total, max_rejected)
        manifests = {}
        for size in settings.sizes:
            manifests[size] = Manifest(
                label_offset=CLASSIC_LABEL_OFFSET,
                classes=found.classes,
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


def _digest(value: Any) -> str:
    text = json.dumps(value)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return {"pillow": PIL.__version__, "libjpeg": str(libjpeg)}


def _check_output(output: Path, sizes: Iterable[int], source: Source) -> None:
    written = [output.resolve(), *((output / str(size)).resolve() for size in sizes)]
    for folder in source.folders():
        if any(path.is_relative_to(folder.resolve()) for path in written):
            raise DataError(f"output '{output}' is inside the source's '{folder}'; choose another")


def _finish(
    jobs: Sequence[Job],
    settings: Settings,
    results: dict[str, dict[str, Any]],
    done: Path,
    processes: int,
    most_rejected: float,
    progress: bool,
) -> None:
    """Runs the jobs that have no result yet; adds theirs to `results` and to `done`.

    Stops early when more than `most_rejected` images were unreadable.
    """
    lengths = {job.name: len(job.images) for job in jobs}
    rejected = sum(len(result["rejected"]) for result in results.values())
    with (
        contextlib.closing(
            write_shards([job for job in jobs if job.name not in results], settings, processes)
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


def check_settings(sizes: Sequence[int], quality: int, processes: int, max_rejected: float) -> None:
    if (sizes and min(sizes) < 1) or len(set(sizes)) < len(sizes):
        raise DataError(
            f"--sizes: received {','.join(map(str, sizes))}; "
            "give different short sides in pixels, like 160,320"
        )
    if not 1 <= quality <= 100:
        raise DataError(f"--quality: received {quality}; 1 to 100 would do")
    if processes < 1:
        raise DataError(f"--processes: received {processes}; 1 or more would do")
    if not 0 <= max_rejected <= 1:
        raise DataError(f"--max_rejected: received {max_rejected}; a fraction, 0 to 1, would do")


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


def _plan(
    source: str,
    sizes: tuple[int, ...],
    *,
    quality: int,
    seed: int,
    processes: int | None,
    layout: str | None,
    class_names: str | None,
    bboxes: Sequence[str],
    enlarge: bool,
    max_rejected: float,
    sample: int | None,
    **_: Any,
) -> BuildPlan:
    processes = available() if processes is None else processes
    if sample is not None and sample < 1:
        raise DataError(f"--sample: received {sample}; give a number of images from 1")
    check_settings(sizes, quality, processes, max_rejected)
    begin = time.perf_counter()
    found = read_source(source, seed, layout, class_names=class_names, boxes=bboxes, progress=True)
    seconds = time.perf_counter() - begin
    settings = settings_for(found, sizes, quality, enlarge)
    return plan_build(found, settings, processes, seconds, sample=sample)


@click.command(context_settings={"show_default": True})
@click.option("--source", required=True, help="Folder of the set; see the module's head.")
@click.option("--output", required=True, help="Data root; <size>/ folders are made in it.")
@click.option("--sizes", help="Short sides in pixels, like 160,320; a resized set has its own.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), help="[default: what it looks like]")
@click.option("--shards", type=int, help="Training files.  [default: 1 for 1,250 images, >= 8]")
@click.option("--validation_shards", type=int, help="Validation files.  [default: 1/8 of train]")
@click.option("--quality", type=int, default=90, help="Of the JPEGs, 1 to 100.")
@click.option("--seed", type=int, default=0, help="Of the order of the images.")
@click.option("--processes", type=int, help="Processes to write with.  [default: the CPUs]")
@click.option("--class_names", help="File with lines of <class><tab><words>.")
@click.option("--bboxes", multiple=True, help="Folder or tar of annotation XML; may be repeated.")
@click.option("--enlarge", is_flag=True, help="Enlarge images smaller than a size.")
@click.option("--max_rejected", type=float, default=0.001, help="Unreadable fraction to accept.")
@click.option("--overwrite", is_flag=True, help="Replace records in the size folders.")
@click.option("--plan", is_flag=True, help="Build nothing: try a sample, tell time and memory.")
@click.option("--sample", type=int, help="Images to try with --plan.  [default: five seconds]")
def main(
    source: str, output: str, sizes: str | None, plan: bool, sample: int | None, **settings: Any
) -> None:
    """Resizes a set of images and writes it as ImageNet's classic records."""
    try:
        short_sides = parse_sizes(sizes) if sizes else ()
        if plan:
            click.echo(_plan(source, short_sides, sample=sample, **settings))
            return
        manifests = build(source, output, short_sides, **settings)
    except DataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (BuildStopped, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(summary(manifests))
    if rejected := count_rejected(Path(output) / REJECTED):
        click.echo(f"{rejected} unreadable images are left out: '{Path(output) / REJECTED}'")


if __name__ == "__main__":
    main()
