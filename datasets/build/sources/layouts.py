"""What a user asks of a build, and the layouts of image sets that it knows."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from core.errors import DataError
from datasets.build.images import ImageFile
from datasets.build.processes import available
from datasets.build.sources import archives, folders
from datasets.build.sources.boxes import read_boxes
from datasets.build.sources.source import Progress, Source, digest, hold_out

logger = logging.getLogger(__name__)

LAYOUTS: dict[str, Callable[[Path, Progress], Source]] = {
    "folders": folders.read_class_folders,
    "classes": folders.read_classes,
    "archives": archives.read_archives,
    "tiny-imagenet": folders.read_tiny_imagenet,
    "cls-loc": folders.read_cls_loc,
    "resized": folders.read_resized,
}


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build, as on the command line. Wrong values raise a `DataError`."""

    source: str | Path  # folder of the set; its validation part may be missing
    output: str | Path
    sizes: Sequence[int]  # short sides in pixels; none: all sizes of a set that is resized already
    shards: int | None = None  # files of a split; None: see `shard_counts`
    validation_shards: int | None = None
    quality: int | None = None  # of the JPEGs; None: see `default_quality`
    seed: int = 0  # of the order of the images, and of which of them `split` takes
    # Part of each class to validate on, where the set has no images for that; 0 takes none.
    split: float = 0.0
    processes: int = field(default_factory=available)  # 1 starts none
    layout: str | None = None  # one of `LAYOUTS`; None: what the set looks like
    class_names: str | Path | None = None  # lines of `<class><tab>words`; None: the set's own
    bboxes: Sequence[str | Path] = ()  # folders and archives of annotation XML, beside the set's
    enlarge: bool = False
    restart_markers: bool = True  # in the JPEGs; see `convert`
    max_rejected: float = 0.001  # the build fails with a larger fraction of unreadable images
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if (self.sizes and min(self.sizes) < 1) or len(set(self.sizes)) < len(self.sizes):
            sizes = ",".join(map(str, self.sizes))
            raise DataError(f"--sizes: received {sizes}; give different sides, like 160,320")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise DataError(f"--quality: received {self.quality}; give a number from 1 to 100")
        if self.processes < 1:
            raise DataError(f"--processes: received {self.processes}; give 1 or more")
        if not 0 <= self.split < 1:
            raise DataError(f"--split: received {self.split}; give 0 to below 1, like 0.2")
        if not 0 <= self.max_rejected <= 1:
            raise DataError(f"--max_rejected: received {self.max_rejected}; give 0 to 1")


def read_source(options: BuildOptions) -> Source:
    """Finds the images of a set. A `DataError` says how the set differs from its layout."""
    root, layout = Path(options.source), options.layout
    if root.is_file() and root.name == archives.TRAIN:
        root = root.parent
    if not root.is_dir():
        raise DataError(f"source '{root}': there is no such folder")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"--layout: received '{layout}'; choose one of {', '.join(LAYOUTS)}")
    layout = layout or find_layout(root)

    hide = not options.progress
    progress = functools.partial(tqdm, desc="looking", unit=" images", delay=1, disable=hide)
    source = LAYOUTS[layout](root, progress)
    if "validation" not in source.images:
        if options.split:
            source = hold_out(source, options.split, options.seed)
        else:
            logger.warning(
                f"warning: source '{root}' has no folder 'val' or other images to validate on; "
                "only train is written"
            )
    for prefix, part in source.images.items():
        if not part:
            raise DataError(f"source '{root}' holds no images for {prefix}")
    words, boxes = source.words, source.boxes
    if file := options.class_names:
        words = folders.read_class_names(Path(file), source.classes)
        if not words:
            line = f"'{source.classes[0]}<tab>words'"
            raise DataError(
                f"class names '{file}' has no line of a class; it needs some like {line}"
            )
    if options.bboxes:
        given = read_boxes(options.bboxes, source.classes)
        boxes = {prefix: {**boxes.get(prefix, {}), **given} for prefix in source.images}

    def in_records(image: ImageFile) -> tuple[bytes, str]:
        # A hash mixes the classes, and does not depend on the file system or the container.
        return hashlib.sha256(os.fsencode(f"{options.seed}/{image.name}")).digest(), image.name

    images = {prefix: sorted(part, key=in_records) for prefix, part in source.images.items()}
    found = source.digest or digest(images)
    return replace(source, images=images, words=words, boxes=boxes, digest=found, layout=layout)


def find_layout(root: Path) -> str:
    """The layout of a folder, found by the names in it. Two layouts raise a `DataError`."""
    found = {
        "archives": (root / archives.TRAIN).is_file(),
        "cls-loc": (root / folders.CLS_LOC / "train").is_dir(),
        "resized": bool(folders.sizes_of_resized(root)),
        "folders": (root / "train").is_dir(),
    }
    names = [name for name, there in found.items() if there]
    if len(names) > 1:
        both = " and ".join(names)
        raise DataError(f"source '{root}' looks like {both}; choose one of them with --layout")
    if not names and folders.has_class_folders(root):
        return "classes"
    layout = names[0] if names else "folders"
    images_inside = any((root / "train").glob(f"*/{folders.TINY_IMAGES}/"))
    tiny = images_inside or (root / "val" / folders.TINY_ANNOTATIONS).is_file()
    return "tiny-imagenet" if layout == "folders" and tiny else layout
