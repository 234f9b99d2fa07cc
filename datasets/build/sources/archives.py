"""ImageNet's official archives (ILSVRC2012), read as they were downloaded.

    ILSVRC2012_img_train.tar            a tar of 1,000 tars, <wnid>.tar
    ILSVRC2012_img_val.tar              50,000 files, in the order of the ground truth
    ILSVRC2012_devkit_t12.tar.gz        ground truth and names of the classes
    ILSVRC2012_bbox_train_v2.tar.gz     bounding boxes, where they are there
    ILSVRC2012_bbox_val_v3.tgz

Nothing is unpacked to disk: images are addressed by their offset in the archive, and
several processes read it at once.
"""

import io
import logging
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from core.errors import DataError
from datasets.build.sources.boxes import read_boxes
from datasets.build.sources.source import (
    ImageFile,
    Progress,
    Source,
    check_classes,
    digest,
    in_order,
)
from datasets.build.sources.tar import read_members

logger = logging.getLogger(__name__)

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
BOXES = {"train": "ILSVRC2012_bbox_train_v2.tar.gz", "validation": "ILSVRC2012_bbox_val_v3.tgz"}

_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_MAX_DEVKIT_BYTES = 1 << 26


class Devkit(NamedTuple):
    """What the development kit tells.

    Attributes:
        wnids: by ILSVRC2012_ID, which is not the label of the records.
        words: by wnid.
        truth: ILSVRC2012_ID of each validation image, in the order of their numbers.
    """

    wnids: dict[int, str]
    words: dict[str, str]
    truth: list[int]


def read_archives(root: Path, seed: int, progress: Progress) -> Source:
    """The set in the archives in `root`. Labels are places among the sorted wnids."""
    if not (root / TRAIN).is_file():
        raise DataError(f"source '{root}' has no '{TRAIN}'")
    images = {"train": in_order(progress(_train_images(root)), seed)}
    classes = tuple(sorted({image.label for image in images["train"]}))
    if not classes:
        raise DataError(f"archive '{root / TRAIN}' holds no images")
    devkit = read_devkit(root)
    if (root / VALIDATION).is_file():
        if devkit is None:
            raise DataError(
                f"'{root / VALIDATION}' needs '{DEVKIT}.tar.gz' beside it: the classes of its "
                "images are in there"
            )
        images["validation"] = in_order(progress(_validation_images(root, devkit)), seed)
        check_classes(classes, {i.label for i in images["validation"]}, root / VALIDATION)
    else:
        logger.warning("warning: source '%s' has no '%s'; only train is written", root, VALIDATION)
    words = {name: devkit.words[name] for name in classes if name in devkit.words} if devkit else {}
    boxes = {
        prefix: read_boxes([root / BOXES[prefix]], classes)
        for prefix in images
        if (root / BOXES[prefix]).is_file()
    }
    return Source("archives", root, classes, images, digest(images), words=words, boxes=boxes)


def _train_images(root: Path) -> Iterator[ImageFile]:
    seen = set()
    for member in read_members(root / TRAIN, nested=True):
        synset, _, inside = member.name.partition("/")
        name = f"{synset}/{PurePosixPath(inside).name}"
        if name in seen:
            raise DataError(f"archive '{root / TRAIN}' holds '{name}' twice; download it again")
        seen.add(name)
        yield ImageFile(name, TRAIN, member.offset, member.size, member.refused)


def _validation_images(root: Path, devkit: Devkit) -> Iterator[ImageFile]:
    seen = set()
    for member in read_members(root / VALIDATION):
        file = PurePosixPath(member.name).name
        match = _VALIDATION_NAME.fullmatch(file)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(devkit.truth) or number in seen:
            raise DataError(
                f"archive '{root / VALIDATION}' holds '{member.name}' where "
                f"ILSVRC2012_val_00000001.JPEG to ..._{len(devkit.truth):08d}.JPEG, once each, "
                "would do"
            )
        seen.add(number)
        label = devkit.wnids[devkit.truth[number - 1]]
        yield ImageFile(f"{label}/{file}", VALIDATION, member.offset, member.size, member.refused)
    if len(seen) < len(devkit.truth):
        raise DataError(
            f"archive '{root / VALIDATION}' holds {len(seen)} images, the ground truth has "
            f"{len(devkit.truth)}; download the archive again"
        )


def read_devkit(root: Path) -> Devkit | None:
    """The development kit in `root`, as an archive or unpacked; None where there is none.

    Raises:
        DataError: it lacks a file, or its files do not fit one another.
    """
    where = root / f"{DEVKIT}.tar.gz"
    if where.is_file():
        files = _devkit_files(where)
    elif (where := root / DEVKIT).is_dir():
        files = {
            name: (where / name).read_bytes()
            for name in (_META, _GROUND_TRUTH)
            if (where / name).is_file()
        }
    else:
        return None
    for name in (_META, _GROUND_TRUTH):
        if name not in files:
            raise DataError(f"devkit '{where}' has no '{name}'; download it again")
    wnids, words = _read_meta(files[_META], where)
    try:
        truth = [int(line) for line in files[_GROUND_TRUTH].split()]
    except ValueError as error:
        raise DataError(f"devkit '{where}': '{_GROUND_TRUTH}' is no list of numbers") from error
    if unknown := sorted(set(truth) - wnids.keys()):
        raise DataError(
            f"devkit '{where}': the ground truth has ILSVRC2012_ID {unknown[0]}, "
            f"which '{_META}' has not"
        )
    return Devkit(wnids, words, truth)


def _devkit_files(path: Path) -> dict[str, bytes]:
    """Contents of the two files that matter, by their path in the kit."""
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                for name in (_META, _GROUND_TRUTH):
                    plain = member.isreg() and member.size <= _MAX_DEVKIT_BYTES
                    if plain and f"/{member.name}".endswith(f"/{name}"):
                        content = archive.extractfile(member)
                        assert content is not None  # it is for a regular file
                        files[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"devkit '{path}' is no whole tar archive ({error}); download it again"
        ) from None
    return files


def _read_meta(data: bytes, where: Path) -> tuple[dict[int, str], dict[str, str]]:
    """wnids by ILSVRC2012_ID, and words by wnid, of the kit's MATLAB file."""
    from scipy.io import loadmat  # a fifth of a second that other sources need not pay

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"].reshape(-1)
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        words = {str(row["WNID"]): str(row["words"]) for row in synsets}
    except Exception as error:  # a broken file makes scipy raise nearly anything
        raise DataError(
            f"devkit '{where}': '{_META}' cannot be read ({error}); download it again"
        ) from None
    return wnids, words
