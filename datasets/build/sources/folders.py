"""Sets of images in folders: a folder for each class, and variants of that."""

import csv
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from core.errors import DataError
from datasets.build.images import ImageFile
from datasets.build.sources.boxes import read_box_list, read_boxes, read_lines
from datasets.build.sources.source import Progress, Source, check_classes, digest, with_classes

logger = logging.getLogger(__name__)

VALIDATION = ("val", "validation")  # the names of its folder
TINY_ANNOTATIONS = "val_annotations.txt"
TINY_IMAGES = "images"
CLS_LOC = Path("ILSVRC/Data/CLS-LOC")
# Files of class names: Tiny ImageNet's, Kaggle's, and a usual name.
CLASS_NAMES = ("words.txt", "LOC_synset_mapping.txt", "classes.txt")


def read_class_folders(
    root: Path, progress: Progress, splits: Mapping[str, str] | None = None, inside: str = ""
) -> Source:
    """`root/{train,val}/<class>/*`. Hidden files and folders inside a class are skipped.

    Other layouts give their own `splits`, and the folder of images `inside` that of a class.
    """
    splits = splits or _split_folders(root)
    classes = _class_folders(root / splits["train"])
    if "validation" in splits:
        validation = root / splits["validation"]
        check_classes(classes, _class_folders(validation), validation)
    found = {prefix: _class_files(root, folder, inside) for prefix, folder in splits.items()}
    images = {prefix: list(progress(part)) for prefix, part in found.items()}
    words: dict[str, str] = {}
    for file in (root / name for name in CLASS_NAMES):
        if not words and file.is_file():
            words = read_class_names(file, classes)
    return Source(root, classes, images, words)


def read_classes(root: Path, progress: Progress) -> Source:
    """`root/<class>/*`: class folders alone, all of them to train on."""
    return read_class_folders(root, progress, {"train": "."})


def has_class_folders(root: Path) -> bool:
    """Whether folders of images stand in `root` itself, and not in a `train` or a `val`."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    if {path.name for path in folders} & {"train", *VALIDATION}:
        return False
    return any(next(_files(root, path.name), None) for path in folders)


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
    images, train_boxes = dict(source.images), {}
    for name in source.classes:
        if (listed := root / "train" / name / f"{name}_boxes.txt").is_file():
            for stem, boxes in read_box_list(listed).items():
                train_boxes[f"{name}/{stem}"] = boxes
    source_boxes = {"train": train_boxes}
    if annotations.is_file():
        of_stem = read_box_list(annotations)
        labels = dict(line.split("\t")[:2] for _, line in read_lines(annotations))
        place = f"{validation}/{TINY_IMAGES}"
        images["validation"] = _flat_files(source, progress, place, labels, annotations)
        stems = {f"{label}/{Path(file).stem}": Path(file).stem for file, label in labels.items()}
        source_boxes["validation"] = {name: of_stem[stem] for name, stem in stems.items()}
    wnids = root / "wnids.txt"
    if wnids.is_file() and set(wnids.read_text().split()) != set(source.classes):
        logger.warning(f"warning: '{wnids}' differs from the class folders, which are used")
    return replace(source, images=images, boxes=source_boxes)


def read_cls_loc(root: Path, progress: Progress) -> Source:
    """ImageNet from Kaggle, unpacked.

    `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}/*`, the classes of val in `LOC_val_solution.csv`,
    words in `LOC_synset_mapping.txt`, boxes in `ILSVRC/Annotations/CLS-LOC/{train,val}`.
    """
    source = read_class_folders(root, progress, {"train": str(CLS_LOC / "train")})
    images = dict(source.images)
    if (root / CLS_LOC / "val").is_dir():
        solution = root / "LOC_val_solution.csv"
        labels = _solution_labels(solution)
        images["validation"] = _flat_files(source, progress, f"{CLS_LOC}/val", labels, solution)
    boxes = {}
    for prefix, name in (("train", "train"), ("validation", "val")):
        annotations = root / "ILSVRC/Annotations/CLS-LOC" / name
        if prefix in images and annotations.is_dir():
            boxes[prefix] = read_boxes([annotations], source.classes)
    return replace(source, images=images, boxes=boxes)


def sizes_of_resized(root: Path) -> tuple[int, ...]:
    """The sizes for which `root/<size>/train` is a folder."""
    names = (path.name for path in root.iterdir() if (path / "train").is_dir())
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit()))


def read_resized(root: Path, progress: Progress) -> Source:
    """Trees that are resized already: `root/<size>/{train,val}/<class>/*`, alike in all sizes."""
    sizes = sizes_of_resized(root)
    if not sizes:
        raise DataError(f"source '{root}' has no folder like '160/train', named by the short side")
    first, *others = (read_class_folders(root / str(size), progress) for size in sizes)
    for tree in others:
        if tree.classes != first.classes or tree.images.keys() != first.images.keys():
            raise DataError(f"'{tree.root}' has other classes or splits than '{first.root}'")
        for prefix, part in first.images.items():
            names = {image.name for image in part}
            if differ := sorted(names ^ {image.name for image in tree.images[prefix]}):
                raise DataError(
                    f"'{tree.root}' and '{first.root}' differ in {len(differ)} file(s) of "
                    f"{prefix}, the first is '{differ[0]}'; all sizes need the same files"
                )
    digests = " ".join(digest(tree.images) for tree in (first, *others))
    return replace(first, root=root, sizes=sizes, digest=digests)


def read_class_names(path: Path, classes: Collection[str]) -> dict[str, str]:
    """Words by class, from lines of `<class folder><tab or blank><words>` in a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names '{path}' cannot be read: {error}") from None
    known = frozenset(classes)
    pairs = (line.partition("\t" if "\t" in line else " ") for line in lines)
    return {name: text.strip() for name, _, text in pairs if name in known}


def _split_folders(root: Path) -> dict[str, str]:
    """The folder of each split that is there."""
    if not (root / "train").is_dir():
        raise DataError(f"source '{root}' has no folder 'train' with a folder for each class")
    validation = [name for name in VALIDATION if (root / name).is_dir()]
    if len(validation) > 1:
        raise DataError(f"source '{root}' has both 'val' and 'validation'; keep one of them")
    if validation:
        return {"train": "train", "validation": validation[0]}
    return {"train": "train"}


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"'{folder}': there is no such folder")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"'{folder}' has no class folders; put the images in '<class>/<image>'")
    if odd := [name for name in names if not name.isprintable()]:
        raise DataError(f"class folder {odd[0]!r} in '{folder}': give it a printable name")
    return tuple(names)


def _class_files(root: Path, split: str, inside: str) -> Iterator[ImageFile]:
    """Files of `root/split/<class>/*`, or of the folder `inside` of a class that has it."""
    for name in _class_folders(root / split):
        place = str(Path(split, name))
        if inside and (root / place / inside).is_dir():
            place += f"/{inside}"
        images = list(_files(root, place, f"{name}/"))
        if not images:
            logger.warning(f"warning: class folder '{root / place}' holds no images")
        yield from images


def _flat_files(
    source: Source, progress: Progress, place: str, labels: Mapping[str, str], listed: Path
) -> list[ImageFile]:
    """Images of one folder of the source. The file `listed` has their classes."""
    folder = source.root / place
    if not folder.is_dir():
        raise DataError(f"'{folder}': there is no such folder, but '{listed}' lists its files")
    check_classes(source.classes, labels.values(), listed)
    return list(progress(with_classes(_files(source.root, place), labels, folder, listed)))


def _files(root: Path, place: str, prefix: str = "") -> Iterator[ImageFile]:
    """All but folders and hidden files of a folder, with a prefix to their names."""
    with os.scandir(root / place) as entries:
        for entry in entries:
            if entry.name[0] != "." and not entry.is_dir():
                size = entry.stat().st_size if entry.is_file() else -1
                yield ImageFile(f"{prefix}{entry.name}", place, -1, size)


def _solution_labels(path: Path) -> dict[str, str]:
    """Classes of Kaggle's validation files: rows of `ImageId,<wnid> x y x y <wnid> ...`."""
    if not path.is_file():
        raise DataError(f"'{path}' is missing: it has the classes of the validation images")
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in rows}
        except (KeyError, IndexError, AttributeError):
            raise DataError(
                f"'{path}', line {rows.line_num}: it needs the columns ImageId and PredictionString"
            ) from None
