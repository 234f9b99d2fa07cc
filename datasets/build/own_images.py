"""A folder of someone's own images: records beside it, made once.

The folder holds a folder for each class, or is any other set that the builder reads. Nothing
has to be decided: a part is kept for validation where the set has none, and what is odd about
the images is said.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from core.errors import DataError, RunError
from datasets.build import folder
from datasets.build.processes import available
from datasets.build.sources.layouts import BuildOptions, read_source
from datasets.build.sources.source import Source
from datasets.build_imagenet_data import build_source, identity_of

SPLIT = 0.2  # of each class, for validation where the set has no images for it
MOST_REJECTED = 0.25  # of the images; if more cannot be read, it is probably another folder
MANY = 1000  # images from which the builder's own number of files fits
SHOWN = 4  # names in a line


def records_beside(images: Path) -> Path:
    """Where the records of a folder of images are made: `my_photos-records` for `my_photos`."""
    named = images if images.name not in ("", "..") else Path(os.path.abspath(images))
    return named.with_name(f"{named.name}-records")


def prepare_images(images: Path, output: Path, sizes: Sequence[int]) -> list[str]:
    """Makes records of a folder of images in `output`, unless they are there.

    A build that was killed is resumed by the next call.

    Args:
        sizes: short sides in pixels, a folder of records for each.

    Returns:
        Lines for the user: the classes and images, and what was left out.

    Raises:
        DataError: the images cannot be trained on, or `output` holds records of others.
        RunError: a process of the build died.
    """
    try:
        options = BuildOptions(images, output, sizes, split=SPLIT, max_rejected=MOST_REJECTED)
        if output.resolve().is_relative_to(images.resolve()):
            raise DataError(f"the records' folder '{output}' is inside it; name another one")
        found = read_source(options)
        source = _with_images(found)
        options = _for_few(replace(options, sizes=source.chosen_sizes(sizes)), source)
        differ = folder.differences(output, identity_of(source, options))
        if differ:
            raise DataError(
                f"'{output}' was made with other {', '.join(differ)}: the images or the sizes have "
                "changed since. Remove that folder to make the records anew, or name another "
                "folder for them with --data_dir"
            )
        if not folder.is_finished(output, options.sizes):
            build_source(source, options)
        return [*_summary(images, source, options), *_oddities(found, source, output)]
    except DataError as error:
        raise DataError(f"--images {images}: {error}") from None
    except BrokenProcessPool:
        raise RunError(
            f"--images {images}: a process that makes records died (killed, or out of memory?). "
            "Run the same command again: finished files are kept"
        ) from None


def _with_images(source: Source) -> Source:
    """The source without the classes that have no image to train on."""
    there = {image.label for image in source.images["train"]}
    classes = tuple(name for name in source.classes if name in there)
    if len(classes) < 2:
        raise DataError(
            f"it has {len(classes)} class(es) with images ({_names(classes)}); a classifier needs "
            "two or more, each with a folder of its own"
        )
    images = {
        prefix: [image for image in part if image.label in there]
        for prefix, part in source.images.items()
    }
    if not images["validation"]:
        raise DataError("its images to validate on are all of classes without images to train on")
    return replace(source, classes=classes, images=images)


def _for_few(options: BuildOptions, source: Source) -> BuildOptions:
    """The options for a small set: files of more than a few images, of which some may be odd."""
    count = len(source.images["train"])
    if count >= MANY:
        return options
    processes = available() if count >= 100 else 1  # to start one takes a second
    return replace(options, shards=min(8, max(1, count // 25)), processes=processes)


def _summary(images: Path, source: Source, options: BuildOptions) -> list[str]:
    reasons = folder.rejected(Path(options.output))
    train, validation = (
        sum(image.path not in reasons for image in source.images[prefix])
        for prefix in ("train", "validation")
    )
    kept = ""
    if _is_split(source):
        kept = f", which are {SPLIT:.0%} of each class, chosen by seed {options.seed}"
    sizes = ", ".join(map(str, options.sizes))
    return [
        f"images: {images}, {len(source.classes)} classes ({_names(source.classes)}); {train:,} "
        f"to train on, {validation:,} to validate on{kept}",
        f"records: {options.output}, short sides of {sizes} px",
    ]


def _is_split(source: Source) -> bool:
    """Whether the validation images come from the folders of the training images."""
    train, validation = (
        {image.place for image in source.images[prefix]} for prefix in ("train", "validation")
    )
    return bool(train & validation)


def _oddities(found: Source, source: Source, output: Path) -> list[str]:
    """Classes without images or with one, and files that cannot be read."""
    lines = []
    if empty := [name for name in found.classes if name not in source.classes]:
        lines.append(f"no images: class {_names(empty)}; left out")
    train = Counter(image.label for image in source.images["train"])
    validation = Counter(image.label for image in source.images["validation"])
    if alone := [name for name in source.classes if not validation[name]]:
        why = "; its only image is trained on" if _is_split(source) else ""
        lines.append(f"no image to validate on: class {_names(alone)}{why}")
    reasons = folder.rejected(output)
    if reasons:
        listed = [f"{file} ({reason})" for file, reason in reasons.items()]
        lines.append(
            f"cannot be read and left out: {len(listed)} file(s), {_names(listed)}; listed in "
            f"{output / folder.REJECTED}"
        )
    lost = Counter(image.label for image in source.images["train"] if image.path in reasons)
    if gone := [name for name in source.classes if lost[name] == train[name]]:
        raise DataError(
            f"class {_names(gone)}: none of its images to train on can be read, see "
            f"'{output / folder.REJECTED}'. Mend them, or remove the class, and remove '{output}'"
        )
    return lines


def _names(names: Sequence[str]) -> str:
    """The first names; bytes of file names that are not UTF-8 are shown as question marks."""
    shown = [*names[:SHOWN], *([f"and {len(names) - SHOWN} more"] if names[SHOWN:] else [])]
    return ", ".join(shown).encode("utf-8", "replace").decode() or "none"
