"""Sets of images in folders: a folder for each class, and what others made of that."""

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from core.errors import DataError
from datasets.build.sources.boxes import Boxes, read_box_list, read_boxes
from datasets.build.sources.class_names import find_class_names
from datasets.build.sources.source import (
    ImageFile,
    Progress,
    Source,
    check_classes,
    digest,
    in_order,
)

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}

TINY_ANNOTATIONS = "val_annotations.txt"
TINY_IMAGES = "images"
CLS_LOC = Path("ILSVRC/Data/CLS-LOC")
CLS_LOC_ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC")
CLS_LOC_SOLUTION = "LOC_val_solution.csv"


def read_class_folders(root: Path, seed: int, progress: Progress) -> Source:
    """`root/{train,val}/<class>/*`. Hidden files are left out, folders in a class too."""
    splits = _split_folders(root)
    images = {}
    for prefix, folder in splits.items():
        images[prefix] = in_order(progress(_class_files(root, folder, "")), seed)
        if not images[prefix]:
            raise DataError(f"'{root / folder}' holds no images; they belong in '<class>/<image>'")
    classes = _class_folders(root / splits["train"])
    if "validation" in splits:
        validation = root / splits["validation"]
        check_classes(classes, _class_folders(validation), validation)
    words = find_class_names(root, classes)
    return Source("folders", root, classes, images, digest(images), words=words)


def read_tiny_imagenet(root: Path, seed: int, progress: Progress) -> Source:
    """Tiny ImageNet as it is released.

    `train/<wnid>/images/*` with boxes in `train/<wnid>/<wnid>_boxes.txt`, and `val/images/*`
    with classes and boxes in `val/val_annotations.txt`, whose lines are
    `<file><tab><wnid><tab>xmin<tab>ymin<tab>xmax<tab>ymax`. `val` may have class folders too.
    """
    splits = _split_folders(root)
    train = splits["train"]
    classes = _class_folders(root / train)
    images = {"train": in_order(progress(_class_files(root, train, TINY_IMAGES)), seed)}
    boxes: dict[str, dict[str, Boxes]] = {"train": {}}
    for name in classes:
        if (listed := root / train / name / f"{name}_boxes.txt").is_file():
            found = read_box_list(listed)
            boxes["train"].update({f"{name}/{stem}": box for stem, box in found.items()})
    if "validation" in splits:
        folder = root / splits["validation"]
        if (annotations := folder / TINY_ANNOTATIONS).is_file():
            labels = _tiny_labels(annotations)
            check_classes(classes, labels.values(), annotations)
            flat = f"{splits['validation']}/{TINY_IMAGES}"
            images["validation"] = in_order(
                progress(_flat_files(root, flat, labels, annotations)), seed
            )
            boxes["validation"] = {
                f"{labels[file]}/{Path(file).stem}": found[Path(file).stem]
                for found in [read_box_list(annotations)]
                for file in labels
            }
        else:
            check_classes(classes, _class_folders(folder), folder)
            images["validation"] = in_order(
                progress(_class_files(root, splits["validation"], TINY_IMAGES)), seed
            )
    for prefix, part in images.items():
        if not part:
            raise DataError(f"'{root / splits[prefix]}' holds no images")
    if (root / "wnids.txt").is_file():
        listed_classes = set((root / "wnids.txt").read_text().split())
        if listed_classes != set(classes):
            logger.warning(
                "warning: '%s' names %d classes, train has %d folders; the folders are the classes",
                root / "wnids.txt", len(listed_classes), len(classes),
            )  # fmt: skip
    words = find_class_names(root, classes)
    return Source("tiny-imagenet", root, classes, images, digest(images), words=words, boxes=boxes)


def read_cls_loc(root: Path, seed: int, progress: Progress) -> Source:
    """ImageNet as Kaggle has it, unpacked.

    `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}/*`, the classes of val in `LOC_val_solution.csv`,
    words in `LOC_synset_mapping.txt`, boxes in `ILSVRC/Annotations/CLS-LOC/{train,val}`.
    """
    train = str(CLS_LOC / "train")
    classes = _class_folders(root / train)
    images = {"train": in_order(progress(_class_files(root, train, "")), seed)}
    if (root / CLS_LOC / "val").is_dir():
        solution = root / CLS_LOC_SOLUTION
        labels = _solution_labels(solution)
        check_classes(classes, labels.values(), solution)
        images["validation"] = in_order(
            progress(_flat_files(root, str(CLS_LOC / "val"), labels, solution)), seed
        )
    boxes = {
        prefix: read_boxes([root / CLS_LOC_ANNOTATIONS / part], classes)
        for prefix, part in (("train", "train"), ("validation", "val"))
        if prefix in images and (root / CLS_LOC_ANNOTATIONS / part).is_dir()
    }
    words = find_class_names(root, classes)
    return Source("cls-loc", root, classes, images, digest(images), words=words, boxes=boxes)


def sizes_of_resized(root: Path) -> tuple[int, ...]:
    """The sizes for which `root/<size>/train` is a folder."""
    names = (path.name for path in root.iterdir() if (path / "train").is_dir())
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit()))


def read_resized(root: Path, seed: int, progress: Progress) -> Source:
    """Trees that are resized already: `root/<size>/{train,val}/<class>/*`, alike in all sizes.

    The records keep the files as they are.
    """
    sizes = sizes_of_resized(root)
    if not sizes:
        raise DataError(f"source '{root}' has no folder like '160/train', named by the short side")
    trees = [read_class_folders(root / str(size), seed, progress) for size in sizes]
    first = {prefix: {i.name for i in part} for prefix, part in trees[0].images.items()}
    for size, tree in zip(sizes[1:], trees[1:], strict=True):
        names = {prefix: {i.name for i in part} for prefix, part in tree.images.items()}
        if tree.classes != trees[0].classes or names.keys() != first.keys():
            raise DataError(
                f"'{root / str(size)}' has other classes or splits than '{root / str(sizes[0])}'"
            )
        for prefix, there in names.items():
            if differ := sorted(there ^ first[prefix]):
                raise DataError(
                    f"'{root / str(size)}' and '{root / str(sizes[0])}' differ in {len(differ)} "
                    f"file(s) of {prefix}, the first is '{differ[0]}'; "
                    "all sizes need the same files"
                )
    total = " ".join(tree.digest for tree in trees)
    return Source(
        "resized", root, trees[0].classes, trees[0].images, total, sizes, trees[0].words
    )  # fmt: skip


def _split_folders(root: Path) -> dict[str, str]:
    folders = {}
    for prefix, names in SPLIT_FOLDERS.items():
        found = [name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise DataError(f"source '{root}' has both 'val' and 'validation'; keep one of them")
        if found:
            folders[prefix] = found[0]
    if "train" not in folders:
        raise DataError(f"source '{root}' has no folder 'train' with a folder for each class")
    if "validation" not in folders:
        logger.warning("warning: source '%s' has no folder 'val'; only train is written", root)
    return folders


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"'{folder}': there is no such folder")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"'{folder}' has no class folders; images belong in '<class>/<image>'")
    for name in names:
        if not name.isprintable():
            raise DataError(f"class folder {name!r} in '{folder}': give it a printable name")
    return tuple(names)


def _class_files(root: Path, split: str, inside: str) -> Iterator[ImageFile]:
    """Files of `root/split/<class>/*`, or of the folder `inside` of a class that has it."""
    for name in _class_folders(root / split):
        place = f"{split}/{name}"
        if inside and (root / place / inside).is_dir():
            place += f"/{inside}"
        empty = True
        for file, size in _files(root / place):
            empty = False
            yield ImageFile(f"{name}/{file}", place, -1, size)
        if empty:
            logger.warning("warning: class folder '%s' holds no images", root / place)


def _flat_files(
    root: Path, place: str, labels: dict[str, str], listed: Path
) -> Iterator[ImageFile]:
    """Files of one folder whose classes are listed."""
    if not (root / place).is_dir():
        raise DataError(
            f"'{root / place}': there is no such folder, but '{listed}' lists its files"
        )
    seen = set()
    for file, size in _files(root / place):
        if file not in labels:
            raise DataError(f"'{root / place / file}' has no line in '{listed}'; add or remove it")
        seen.add(file)
        yield ImageFile(f"{labels[file]}/{file}", place, -1, size)
    if lost := sorted(labels.keys() - seen):
        raise DataError(
            f"'{listed}' lists {len(lost)} file(s) that '{root / place}' has not, "
            f"the first is '{lost[0]}'; copy the set again"
        )


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes in bytes of what is no folder and not hidden; -1 for no regular file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != "." and not entry.is_dir():
                yield entry.name, entry.stat().st_size if entry.is_file() else -1


def _tiny_labels(path: Path) -> dict[str, str]:
    labels = {}
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            file, _, rest = line.partition("\t")
            if not rest:
                raise DataError(
                    f"'{path}', line {number}: received {line[:80]!r}; "
                    "'<file><tab><wnid>...' would do"
                )
            labels[file] = rest.split("\t")[0]
    return labels


def _solution_labels(path: Path) -> dict[str, str]:
    """Classes of Kaggle's validation files: rows of `ImageId,<wnid> x y x y <wnid> ...`."""
    if not path.is_file():
        raise DataError(f"'{path}' is missing: it has the classes of the validation images")
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            return {
                f"{row['ImageId']}.JPEG": row["PredictionString"].split(maxsplit=1)[0]
                for row in rows
            }
        except (KeyError, IndexError, AttributeError):
            raise DataError(
                f"'{path}', line {rows.line_num}: columns ImageId and PredictionString are needed"
            ) from None
