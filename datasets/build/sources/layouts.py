"""The layouts of image sets that the builder knows, and which of them a folder has."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from core.errors import DataError
from datasets.build.sources import archives, folders
from datasets.build.sources.boxes import read_boxes
from datasets.build.sources.class_names import read_class_names
from datasets.build.sources.source import Progress, Source

LAYOUTS: dict[str, Callable[[Path, int, Progress], Source]] = {
    "folders": folders.read_class_folders,
    "archives": archives.read_archives,
    "tiny-imagenet": folders.read_tiny_imagenet,
    "cls-loc": folders.read_cls_loc,
    "resized": folders.read_resized,
}


def read_source(
    root: str | Path,
    seed: int = 0,
    layout: str | None = None,
    *,
    class_names: str | Path | None = None,
    boxes: Sequence[str | Path] = (),
    progress: bool = False,
) -> Source:
    """Finds the images of a set.

    Args:
        root: its folder.
        seed: of the order of the images.
        layout: one of `LAYOUTS`; None finds it out.
        class_names: file with lines of `<class><tab>words`, in place of the set's own.
        boxes: folders and archives of annotation XML, beside the set's own.
        progress: count the images found on the terminal.

    Raises:
        DataError: the set is not as its layout wants it, or holds no images.
    """
    root = Path(root)
    if root.is_file() and root.name == archives.TRAIN:
        root = root.parent
    if not root.is_dir():
        raise DataError(f"source '{root}': there is no such folder")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"--layout: received '{layout}'; one of {', '.join(LAYOUTS)} would do")
    layout = find_layout(root) if layout is None else layout

    def shown(images: Iterable) -> Iterator:
        return iter(tqdm(images, "looking", unit=" images", delay=1, disable=not progress))

    source = LAYOUTS[layout](root, seed, shown)
    if class_names:
        source = replace(source, words=read_class_names(class_names, source.classes))
    if boxes:
        given = read_boxes(boxes, source.classes)
        own = source.boxes
        source = replace(
            source, boxes={prefix: {**own.get(prefix, {}), **given} for prefix in source.images}
        )
    return source


def find_layout(root: Path) -> str:
    """The layout that a folder has, by the names in it.

    Raises:
        DataError: it has two of them.
    """
    found = {
        "archives": (root / archives.TRAIN).is_file(),
        "cls-loc": (root / folders.CLS_LOC / "train").is_dir(),
        "resized": bool(folders.sizes_of_resized(root)),
        "folders": (root / "train").is_dir(),
    }
    names = [name for name, there in found.items() if there]
    if len(names) > 1:
        raise DataError(
            f"source '{root}' looks like {' and '.join(names)}; choose one of them with --layout"
        )
    layout = names[0] if names else "folders"
    return "tiny-imagenet" if layout == "folders" and _is_tiny_imagenet(root) else layout


def _is_tiny_imagenet(root: Path) -> bool:
    if (root / "val" / folders.TINY_ANNOTATIONS).is_file():
        return True
    return next((root / "train").glob(f"*/{folders.TINY_IMAGES}/"), None) is not None
