"""Bounding boxes: ImageNet's annotation XML and Tiny ImageNet's lists."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from core.errors import DataError
from datasets.build.sources.tar import read_small_files

logger = logging.getLogger(__name__)


class Box(NamedTuple):
    """Edges in pixels, and the class that the box names."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""


class Boxes(NamedTuple):
    """The boxes of an image of `width` x `height` pixels; 0 x 0: its size as stored."""

    boxes: tuple[Box, ...]
    width: int = 0
    height: int = 0


def relative_boxes(
    boxes: Boxes, stored: tuple[int, int, int], synset: str, classes: Collection[str] = ()
) -> list[tuple[float, float, float, float]]:
    """xmin, ymin, xmax, ymax of an upright image's boxes, as fractions of its sides.

    As in TensorFlow's `process_bounding_boxes.py`, edges are clipped to the image and put in
    order. Boxes without area are left out, and so are boxes that name another of the set's
    classes. (Some boxes of dogs name a word, which is not another class.) `stored` is the
    width, height and EXIF orientation of the image as it is stored, and `synset` its class.
    """
    width, height = (boxes.width, boxes.height) if boxes.width else stored[:2]
    out = []
    for box in boxes.boxes:
        if box.label and box.label != synset and box.label in classes:
            continue
        x = sorted(min(max(edge / width, 0.0), 1.0) for edge in (box.xmin, box.xmax))
        y = sorted(min(max(edge / height, 0.0), 1.0) for edge in (box.ymin, box.ymax))
        if x[0] < x[1] and y[0] < y[1]:
            corners = [_turned(*corner, stored[2]) for corner in zip(x, y, strict=True)]
            (x0, x1), (y0, y1) = (sorted(edges) for edges in zip(*corners, strict=True))
            out.append((x0, y0, x1, y1))
    return out


def _turned(x: float, y: float, orientation: int) -> tuple[float, float]:
    """Where a point of the stored image is in the upright one, by EXIF 2.3, tag 0x0112."""
    if orientation in (5, 6, 7, 8):
        x, y = y, x
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return (1 - x if mirrored else x), (1 - y if upside_down else y)


def parse_xml(data: bytes) -> Boxes:
    """Boxes of an annotation file of ImageNet (PASCAL VOC's format); else a `ValueError`."""
    try:
        tree = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
    if width < 1 or height < 1:
        raise ValueError(f"size is {width} x {height}")
    boxes = []
    for thing in tree.iter("object"):
        edges = (thing.findtext(f"bndbox/{edge}", "") for edge in Box._fields[:4])
        boxes.append(Box._make((*map(float, edges), thing.findtext("name", "").strip())))
    return Boxes(tuple(boxes), width, height)


def read_boxes(paths: Sequence[str | Path], classes: Collection[str]) -> dict[str, Boxes]:
    """Boxes of annotation XML, in folders or in archives (.tar, .tar.gz, .tgz; tars of tars too).

    Their keys are `<class>/<image without its ending>`, or the image alone where the file is not
    in a folder of a class. A warning counts the files that cannot be read.
    """
    classes = frozenset(classes)
    found: dict[str, Boxes] = {}
    for path in map(Path, paths):
        before, broken = len(found), []
        for name, data in read_small_files(path, "bounding boxes", (".xml",), 1 << 20):
            folder, stem = PurePosixPath(name).parent.name, PurePosixPath(name).stem
            try:
                found[f"{folder}/{stem}" if folder in classes else stem] = parse_xml(data)
            except ValueError as error:
                broken.append(f"'{name}': {error}")
        if broken:
            logger.warning(
                f"warning: bounding boxes '{path}': {len(broken)} file(s) cannot be read and are "
                f"left out, the first is {broken[0]}"
            )
        elif len(found) == before:
            raise DataError(f"bounding boxes '{path}': it holds no annotation (.xml) of ImageNet")
    return found


def read_box_list(path: Path) -> dict[str, Boxes]:
    """Boxes of either of Tiny ImageNet's lists, by file without its ending."""
    found: dict[str, Boxes] = {}
    for number, line in read_lines(path):
        fields = line.split("\t")
        try:
            xmin, ymin, xmax, ymax = map(float, fields[-4:])
        except ValueError:
            form = "<file><tab>...<tab>xmin<tab>ymin<tab>xmax<tab>ymax"
            problem = f"received {line[:80]!r}; it needs '{form}'"
            raise DataError(f"'{path}', line {number}: {problem}") from None
        name = PurePosixPath(fields[0]).stem
        before = found[name].boxes if name in found else ()
        found[name] = Boxes((*before, Box(xmin, ymin, xmax, ymax)))
    return found


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file that are not blank."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
