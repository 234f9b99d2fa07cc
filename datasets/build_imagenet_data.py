"""Resizes a set of images once and writes it as ImageNet's classic records.

    python -m datasets.build_imagenet_data --source SET --output DIR --sizes 160,320

writes, for every size, `DIR/<size>/train-00000-of-01024`,
`DIR/<size>/validation-00000-of-00128` and a manifest. A size is the short side in
pixels; the aspect is kept. `SET` is a folder with

    ILSVRC2012_img_train.tar, ...       the official archives, as they were downloaded
    {train,val}/<class>/*               a folder for each class
    <class>/*                           the same; --split 0.2 takes a fifth to validate on
    {train,val}/.../images/*            Tiny ImageNet as it is released
    ILSVRC/Data/CLS-LOC/                ImageNet from Kaggle
    {160,320}/{train,val}/<class>/*     resized already; the files are kept as they are

The same images, settings and Pillow give the same bytes, with any number of processes and
from archives or folders. To resume a killed build, rerun the same command.
"""

import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import PIL
from PIL import features
from tqdm import tqdm

from core import files
from core.errors import DataError
from datasets.build import folder
from datasets.build.images import default_quality
from datasets.build.plan import plan_build
from datasets.build.processes import available, run_jobs
from datasets.build.shards import ShardJob, make_jobs, shard_counts, write_shard
from datasets.build.sources.layouts import LAYOUTS, BuildOptions, read_source
from datasets.build.sources.source import Source
from datasets.records.manifest import UNFINISHED, Manifest, Shard, Split, shard_name, write_manifest
from datasets.records.schema import CLASSIC_LABEL_OFFSET

ENOUGH_REJECTED = 1000  # unreadable images at which a build stops if it will fail anyway


def build(options: BuildOptions) -> dict[int, Manifest]:
    """Writes the records of a set of images in all sizes, and returns each size's manifest.

    A mistake in the options, the set or the output folder, or too many unreadable images, raise
    a `DataError`. A process that dies raises a `BrokenProcessPool`; the same build resumes.
    """
    return build_source(read_source(options), options)


def build_source(source: Source, options: BuildOptions) -> dict[int, Manifest]:
    """The same, of the images that `read_source` has found."""
    options = replace(options, sizes=source.chosen_sizes(options.sizes))
    output = Path(options.output)
    source.check_output(output, options.sizes)
    images, counts = _counts(source, options)
    settings, versions = _settings(options), _versions()
    identity = identity_of(source, options)
    jobs = make_jobs(source, counts)
    with folder.locked(output):
        shard_names = {job.name for job in jobs}
        results = folder.prepare_output(output, identity, shard_names, options.overwrite)
        _write_missing(jobs, source.without_images(), options, results)
        folder.report_rejected(output, results.values(), sum(images.values()), options.max_rejected)
        manifests = {}
        for size in options.sizes:
            splits = {}
            for prefix, count in counts.items():
                names = [shard_name(prefix, index, count) for index in range(count)]
                shards = {name: Shard(**results[name]["sizes"][str(size)]) for name in names}
                written = sum(shard.images for shard in shards.values())
                splits[prefix] = Split(images=written, shards=shards)
            manifests[size] = Manifest(
                label_offset=CLASSIC_LABEL_OFFSET,
                classes=source.classes,
                splits=splits,
                size=size,
                settings={**settings, "quality": options.quality or default_quality(size)},
                versions=versions,
            )
            write_manifest(output / str(size), manifests[size])
            (output / str(size) / UNFINISHED).unlink()
    return manifests


def identity_of(source: Source, options: BuildOptions) -> dict[str, Any]:
    """All that decides the bytes of the records, as JSON; the options name the sizes."""
    boxes = [[prefix, sorted(known.items())] for prefix, known in source.boxes.items() if known]
    return {
        "format": 2,
        "sizes": list(options.sizes),
        "shards": _counts(source, options)[1],
        **_settings(options),
        "resized already": bool(source.sizes),
        "class names": _digest([source.classes, sorted(source.words.items())]),
        "bounding boxes": _digest(boxes),
        "files": source.digest,
        **_versions(),
    }


def _counts(source: Source, options: BuildOptions) -> tuple[dict[str, int], dict[str, int]]:
    """Images and files of each split."""
    images = {prefix: len(part) for prefix, part in source.images.items()}
    return images, shard_counts(images, options.shards, options.validation_shards)


def _settings(options: BuildOptions) -> dict[str, Any]:
    chosen = ("quality", "seed", "enlarge", "restart_markers")
    return {name: getattr(options, name) for name in chosen}


def _versions() -> dict[str, str]:
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return dict(zip(folder.LIBRARIES, (PIL.__version__, str(libjpeg)), strict=True))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _write_missing(
    jobs: Sequence[ShardJob], source: Source, options: BuildOptions, results: dict[str, Any]
) -> None:
    """Runs the jobs without a result, until too many images are unreadable; notes their results."""
    write = functools.partial(write_shard, source=source, options=options)
    lengths = {job.name: len(job.images) for job in jobs}
    total, before = sum(lengths.values()), sum(lengths[name] for name in results)
    limit = max(options.max_rejected * total, ENOUGH_REJECTED)
    missing = [job for job in jobs if job.name not in results]
    hide = not options.progress
    bar = tqdm(total=total, initial=before, unit=" images", smoothing=0, disable=hide)
    with bar, contextlib.closing(run_jobs(write, missing, options.processes)) as written:
        for result in written:
            results[result["name"]] = result
            files.append(Path(options.output, folder.DONE), json.dumps(result) + "\n")
            bar.update(lengths[result["name"]])
            if sum(len(done["rejected"]) for done in results.values()) > limit:
                return


def _summary(manifests: Mapping[int, Manifest]) -> str:
    row = "{:>6}  {:<10}  {:>9}  {:>6}  {:>9}".format
    rows = [row("size", "split", "images", "shards", "MB")]
    for size, manifest in manifests.items():
        for prefix, split in manifest.splits.items():
            megabytes = f"{sum(shard.bytes for shard in split.shards.values()) / 1e6:,.1f}"
            rows.append(row(size, prefix, f"{split.images:,}", len(split.shards), megabytes))
    return "\n".join(rows)


@click.command(context_settings={"show_default": True})
@click.option("--source", required=True, help="Folder of the set; see the top of the module.")
@click.option("--output", required=True, help="Data root; <size>/ folders are made in it.")
@click.option("--sizes", help="Short sides in pixels, like 160,320; a resized set has its own.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), help="[default: what it looks like]")
@click.option("--shards", type=int, help="Training files.  [default: 1 for 1,250 images, >= 8]")
@click.option("--validation_shards", type=int, help="Validation files.  [default: 1/8 of train]")
@click.option("--quality", type=int, help="Of the JPEGs, 1 to 100.  [default: 90; to 64 px, 98]")
@click.option("--seed", type=int, default=0, help="Of the order of the images.")
@click.option("--split", type=float, default=0.0, help="Part to validate on, where there is none.")
@click.option("--processes", type=int, default=available, show_default="the CPUs", help="Writers.")
@click.option("--class_names", help="File with lines of <class><tab><words>.")
@click.option("--bboxes", multiple=True, help="Folder or tar of annotation XML; may be repeated.")
@click.option("--enlarge", is_flag=True, help="Enlarge images smaller than a size.")
@click.option(
    "--restart_markers/--no_restart_markers",
    default=True,
    help="In JPEGs above 64 px, so that a crop is decoded alone.",
)
@click.option("--max_rejected", type=float, default=0.001, help="Unreadable fraction to accept.")
@click.option("--overwrite", is_flag=True, help="Replace records in the size folders.")
@click.option("--plan", is_flag=True, help="Build nothing; try a sample, show time and memory.")
@click.option("--sample", type=int, help="Images to try with --plan.  [default: five seconds]")
def main(sizes: str | None, plan: bool, sample: int | None, **settings: Any) -> None:
    """Resizes a set of images and writes it as ImageNet's classic records."""
    try:
        try:
            short_sides = [int(size) for size in sizes.split(",")] if sizes else []
        except ValueError:
            raise DataError(f"--sizes: received '{sizes}'; give pixels, like 160,320") from None
        options = BuildOptions(sizes=short_sides, **settings)
        if plan:
            click.echo(plan_build(options, sample))
            return
        manifests = build(options)
    except BrokenProcessPool:
        click.echo(
            "error: a process of the build died (killed, or out of memory?). Finished shards are "
            "kept.\nRerun the same command to resume, with fewer --processes if memory was short",
            err=True,
        )
        sys.exit(1)
    except (DataError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, DataError) else 1)
    click.echo(_summary(manifests))


if __name__ == "__main__":
    main()
