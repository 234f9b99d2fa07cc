"""Sets of images in folders: a folder for each class, and variants of that."""

import csv
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from core.errors import DataError
from datasets.build.sources.boxes import Boxes, read_box_list, read_boxes, read_lines
from datasets.build.sources.class_names import find_class_names
from datasets.build.sources.source import (
    ImageFile,
    Progress,
    Source,
    check_classes,
    digest,
    with_classes,
)

logger = logging.getLogger(__name__)

TINY_ANNOTATIONS = "val_annotations.txt"
TINY_IMAGES = "images"
CLS_LOC = Path("ILSVRC/Data/CLS-LOC")
CLS_LOC_ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC")
CLS_LOC_SOLUTION = "LOC_val_solution.csv"


def read_class_folders(
    root: Path, progress: Progress, splits: Mapping[str, str] | None = None, inside: str = ""
) -> Source:
    """`root/{train,val}/<class>/*`. Hidden files and folders inside a class are skipped.

    Other layouts give their own folders of the `splits`, and the folder of images `inside`
    a class folder.
    """
    splits = splits or _split_folders(root)
    classes = _class_folders(root / splits["train"])
    if "validation" in splits:
        validation = root / splits["validation"]
        check_classes(classes, _class_folders(validation), validation)
    found = {prefix: _class_files(root, folder, inside) for prefix, folder in splits.items()}
    images = {prefix: list(progress(part)) for prefix, part in found.items()}
    return Source(root, classes, images, find_class_names(root, classes))


def read_tiny_imagenet(root: Path, progress: Progress) -> Source:
    """Tiny ImageNet as it is released.

    `train/<wnid>/images/*` with boxes in `train/<wnid>/<wnid>_boxes.txt`, and `val/images/*`
    with classes and boxes in `val/val_annotations.txt`, whose lines are
    `<file><tab><wnid><tab>xmin<tab>ymin<tab>xmax<tab>ymax`. `val` may have class folders too.
    """
    splits = _split_folders(root)
    validation = splits.get("validation", "val")
    if (annotations := root / validation / TINY_ANNOTATIONS).is_file():
        del splits["validation"]  # its images are in one folder
    source = read_class_folders(root, progress, splits, TINY_IMAGES)
    images, boxes = dict(source.images), dict[str, dict[str, Boxes]](train={})
    for name in source.classes:
        if (listed := root / "train" / name / f"{name}_boxes.txt").is_file():
            for stem, box in read_box_list(listed).items():
                boxes["train"][f"{name}/{stem}"] = box
    if annotations.is_file():
        of_stem = read_box_list(annotations)
        labels = dict(line.split("\t")[:2] for _, line in read_lines(annotations))
        check_classes(source.classes, labels.values(), annotations)
        files = _flat_files(root, f"{validation}/{TINY_IMAGES}", labels, annotations)
        images["validation"] = list(progress(files))
        boxes["validation"] = {
            f"{label}/{Path(file).stem}": of_stem[Path(file).stem] for file, label in labels.items()
        }
    if (wnids := root / "wnids.txt").is_file():
        listed_classes = set(wnids.read_text().split())
        if listed_classes != set(source.classes):
            logger.warning(
                f"warning: '{wnids}' names {len(listed_classes)} classes, but train has "
                f"{len(source.classes)} folders; the folders are used as the classes"
            )
    return replace(source, images=images, boxes=boxes)


def read_cls_loc(root: Path, progress: Progress) -> Source:
    """ImageNet from Kaggle, unpacked.

    `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}/*`, the classes of val in `LOC_val_solution.csv`,
    words in `LOC_synset_mapping.txt`, boxes in `ILSVRC/Annotations/CLS-LOC/{train,val}`.
    """
    source = read_class_folders(root, progress, {"train": str(CLS_LOC / "train")})
    images, annotations = dict(source.images), {"train": root / CLS_LOC_ANNOTATIONS / "train"}
    if (root / CLS_LOC / "val").is_dir():
        solution = root / CLS_LOC_SOLUTION
        labels = _solution_labels(solution)
        check_classes(source.classes, labels.values(), solution)
        files = _flat_files(root, str(CLS_LOC / "val"), labels, solution)
        images["validation"] = list(progress(files))
        annotations["validation"] = root / CLS_LOC_ANNOTATIONS / "val"
    boxes = {
        prefix: read_boxes([folder], source.classes)
        for prefix, folder in annotations.items()
        if folder.is_dir()
    }
    return replace(source, images=images, boxes=boxes)


def sizes_of_resized(root: Path) -> tuple[int, ...]:
    """The sizes for which `root/<size>/train` is a folder."""
    names = (path.name for path in root.iterdir() if (path / "train").is_dir())
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit()))


def read_resized(root: Path, progress: Progress) -> Source:
    """Trees that are resized already: `root/<size>/{train,val}/<class>/*`, alike in all sizes.

    The records keep the files as they are.
    """
    sizes = sizes_of_resized(root)
    if not sizes:
        raise DataError(f"source '{root}' has no folder like '160/train', named by the short side")
    trees = [read_class_folders(root / str(size), progress) for size in sizes]
    first = trees[0]
    names = _names(first)
    for tree in trees[1:]:
        there = _names(tree)
        if tree.classes != first.classes or there.keys() != names.keys():
            raise DataError(f"'{tree.root}' has other classes or splits than '{first.root}'")
        for prefix in names:
            if differ := sorted(there[prefix] ^ names[prefix]):
                raise DataError(
                    f"'{tree.root}' and '{first.root}' differ in {len(differ)} file(s) of "
                    f"{prefix}, the first is '{differ[0]}'; all sizes need the same files"
                )
    digests = " ".join(digest(tree.images) for tree in trees)
    return Source(root, first.classes, first.images, first.words, sizes=sizes, digest=digests)


def _names(tree: Source) -> dict[str, set[str]]:
    return {prefix: {image.name for image in part} for prefix, part in tree.images.items()}


def _split_folders(root: Path) -> dict[str, str]:
    """The folder of each split that is there."""
    if not (root / "train").is_dir():
        raise DataError(f"source '{root}' has no folder 'train' with a folder for each class")
    validation = [name for name in ("val", "validation") if (root / name).is_dir()]
    if len(validation) > 1:
        raise DataError(f"source '{root}' has both 'val' and 'validation'; keep one of them")
    if validation:
        return {"train": "train", "validation": validation[0]}
    logger.warning(f"warning: source '{root}' has no folder 'val'; only train is written")
    return {"train": "train"}


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"'{folder}': there is no such folder")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"'{folder}' has no class folders; put the images in '<class>/<image>'")
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
            logger.warning(f"warning: class folder '{root / place}' holds no images")


def _flat_files(
    root: Path, place: str, labels: Mapping[str, str], listed: Path
) -> Iterator[ImageFile]:
    """Files of one folder. The file `listed` has their classes."""
    folder = root / place
    if not folder.is_dir():
        raise DataError(f"'{folder}': there is no such folder, but '{listed}' lists its files")
    files = (ImageFile(file, place, -1, size) for file, size in _files(folder))
    return with_classes(files, labels, folder, listed)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes in bytes of all but folders and hidden files; -1 if not a regular file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != "." and not entry.is_dir():
                yield entry.name, entry.stat().st_size if entry.is_file() else -1


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
                f"'{path}', line {rows.line_num}: it needs the columns ImageId and PredictionString"
            ) from None
