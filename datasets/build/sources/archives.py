"""ImageNet's official archives (ILSVRC2012), read as they were downloaded.

    ILSVRC2012_img_train.tar            a tar of 1,000 tars, <wnid>.tar
    ILSVRC2012_img_val.tar              50,000 files, in the order of the ground truth
    ILSVRC2012_devkit_t12.tar.gz        ground truth and names of the classes
    ILSVRC2012_bbox_train_v2.tar.gz     bounding boxes, optional
    ILSVRC2012_bbox_val_v3.tgz

Nothing is unpacked to disk. An image's address is its offset in the archive, and several
processes read the archive at once.
"""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.errors import DataError
from datasets.build.images import ImageFile
from datasets.build.sources.boxes import read_boxes
from datasets.build.sources.source import Progress, Source, check_classes, with_classes
from datasets.build.sources.tar import read_members, read_small_files

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
BOXES = {"train": "ILSVRC2012_bbox_train_v2.tar.gz", "validation": "ILSVRC2012_bbox_val_v3.tgz"}

_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


def read_archives(root: Path, progress: Progress) -> Source:
    """The set in the archives in `root`. Labels are places among the sorted wnids."""
    if not (root / TRAIN).is_file():
        raise DataError(f"source '{root}' has no '{TRAIN}'")
    images = {"train": list(progress(_train_images(root)))}
    classes = tuple(sorted({image.label for image in images["train"]}))
    if not classes:
        raise DataError(f"archive '{root / TRAIN}' holds no images")
    words, truth = _read_devkit(root)
    if (validation := root / VALIDATION).is_file():
        if not truth:
            raise DataError(f"'{validation}' needs '{DEVKIT}.tar.gz' beside it for its classes")
        check_classes(classes, truth, validation)
        labels = {f"ILSVRC2012_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(truth, 1)}
        labelled = with_classes(read_members(validation), labels, validation, root / DEVKIT)
        images["validation"] = list(progress(labelled))
    words = {name: words[name] for name in classes if name in words}
    places = {prefix: root / BOXES[prefix] for prefix in images}
    boxes = {prefix: read_boxes([p], classes) for prefix, p in places.items() if p.is_file()}
    return Source(root, classes, images, words, boxes)


def _train_images(root: Path) -> Iterator[ImageFile]:
    seen = set()
    for member in read_members(root / TRAIN, nested=True):
        synset, _, inside = member.name.partition("/")
        name = f"{synset}/{PurePosixPath(inside).name}"
        if name in seen:
            raise DataError(f"archive '{root / TRAIN}' holds '{name}' twice; download it again")
        seen.add(name)
        yield member._replace(name=name)


def _read_devkit(root: Path) -> tuple[dict[str, str], list[str]]:
    """Words by wnid, and the wnid of each validation image in the order of their numbers.

    The development kit in `root` is an archive or unpacked. Both are empty where there is none.
    """
    where = root / f"{DEVKIT}.tar.gz"
    if not where.exists():
        where = root / DEVKIT
    if not where.exists():
        return {}, []
    kit = read_small_files(where, "devkit", (_META, _GROUND_TRUTH), 1 << 26)
    files = {"/".join(PurePosixPath(path).parts[-2:]): data for path, data in kit}
    for name in (_META, _GROUND_TRUTH):
        if name not in files:
            raise DataError(f"devkit '{where}' has no '{name}'; download it again")
    from scipy.io import loadmat  # takes a fifth of a second, and other sources do not need it

    try:
        synsets = loadmat(io.BytesIO(files[_META]), squeeze_me=True)["synsets"].reshape(-1)
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        words = {str(row["WNID"]): str(row["words"]) for row in synsets}
    except Exception as error:  # a broken file makes scipy raise nearly anything
        problem = f"'{_META}' cannot be read ({error}); download it again"
        raise DataError(f"devkit '{where}': {problem}") from None
    try:
        return words, [wnids[int(number)] for number in files[_GROUND_TRUTH].split()]
    except ValueError:
        raise DataError(f"devkit '{where}': '{_GROUND_TRUTH}' is not a list of numbers") from None
    except KeyError as error:
        problem = f"the ground truth has ILSVRC2012_ID {error}, but '{_META}' does not"
        raise DataError(f"devkit '{where}': {problem}") from None
