"""Bounding boxes: ImageNet's annotation XML and Tiny ImageNet's lists."""

import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from xml.etree import ElementTree

from core.errors import DataError

logger = logging.getLogger(__name__)

_MAX_XML_BYTES = 1 << 20
_TARS = (".tar", ".tar.gz", ".tgz")


class Box(NamedTuple):
    """Edges, in pixels in `Boxes` and from 0 to 1 in records, and the class it is said to be."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""


class Boxes(NamedTuple):
    """The boxes of an image that is `width` x `height` pixels; 0 x 0: as it is stored."""

    boxes: tuple[Box, ...]
    width: int = 0
    height: int = 0


def relative_boxes(
    boxes: Boxes, stored: tuple[int, int, int], synset: str, classes: Iterable[str] = ()
) -> list[Box]:
    """An image's boxes as fractions of its sides, upright.

    As in TensorFlow's `process_bounding_boxes.py`: edges are clipped to the image and put
    in order, boxes without area are left out, and so are those that name another class of
    the set (a word, as in some of the dogs, is no other class).

    Args:
        boxes: in pixels of the image as it is stored.
        stored: width, height and EXIF orientation of the stored image.
        synset: class of the image.
        classes: of the set.
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
            out.append(Box(x0, y0, x1, y1, box.label))
    return out


def _turned(x: float, y: float, orientation: int) -> tuple[float, float]:
    """Where a point of the stored image is in the upright one, by EXIF 2.3, tag 0x0112."""
    match orientation:
        case 2:
            return 1 - x, y
        case 3:
            return 1 - x, 1 - y
        case 4:
            return x, 1 - y
        case 5:
            return y, x
        case 6:
            return 1 - y, x
        case 7:
            return 1 - y, 1 - x
        case 8:
            return y, 1 - x
    return x, y


def _box(edges: Iterable[str], label: str = "") -> Box:
    xmin, ymin, xmax, ymax = map(float, edges)
    return Box(xmin, ymin, xmax, ymax, label)


def parse_xml(data: bytes) -> Boxes:
    """Boxes of an annotation file of ImageNet (the format of PASCAL VOC).

    Raises:
        ValueError: it is none.
    """
    try:
        tree = ElementTree.fromstring(data)
        width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
        boxes = tuple(
            _box(
                (thing.findtext(f"bndbox/{edge}", "") for edge in Box._fields[:4]),
                (thing.findtext("name") or "").strip(),
            )
            for thing in tree.iter("object")
        )
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    if width < 1 or height < 1:
        raise ValueError(f"size is {width} x {height}")
    return Boxes(boxes, width, height)


def read_boxes(paths: Sequence[str | Path], classes: Iterable[str]) -> dict[str, Boxes]:
    """Boxes of annotation XML, in folders or in archives (.tar, .tar.gz, .tgz; tars of tars too).

    Returns:
        The boxes by `<class>/<image without its ending>`, or by the image alone where the
        file is not in a folder of a class. Files that cannot be read are counted in a warning.

    Raises:
        DataError: a path is neither folder nor archive, or holds no annotation.
    """
    classes = frozenset(classes)
    found: dict[str, Boxes] = {}
    for path in map(Path, paths):
        before, broken = len(found), []
        for name, data in _xml_files(path):
            parts = PurePosixPath(name)
            try:
                boxes = parse_xml(data)
            except ValueError as error:
                broken.append(f"'{name}': {error}")
                continue
            folder = parts.parent.name
            found[f"{folder}/{parts.stem}" if folder in classes else parts.stem] = boxes
        if len(found) == before and not broken:
            raise DataError(
                f"bounding boxes '{path}': no annotation (.xml) in it; "
                "a folder or tar of ImageNet's annotation files would do"
            )
        if broken:
            logger.warning(
                "warning: bounding boxes '%s': %d file(s) cannot be read and are left out, the "
                "first is %s", path, len(broken), broken[0],
            )  # fmt: skip
    return found


def _xml_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of all .xml files in a folder or tar; no links are followed."""
    if path.is_dir():
        for file in sorted(path.rglob("*.xml")):
            if file.is_file() and file.stat().st_size <= _MAX_XML_BYTES:
                yield str(file.relative_to(path.parent)), file.read_bytes()
        return
    if not path.is_file():
        raise DataError(f"bounding boxes '{path}': there is no such folder or archive")
    with open(path, "rb") as archive:
        try:
            yield from _xml_members(archive, "")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(
                f"bounding boxes '{path}' is no whole tar archive ({error}); download it again"
            ) from None


def _xml_members(file: IO[bytes], folder: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # they would all stay in memory
            if not member.isreg():
                continue
            inside = archive.extractfile(member)
            assert inside is not None  # it is for a regular file
            if member.name.endswith(".xml") and member.size <= _MAX_XML_BYTES:
                yield folder + member.name, inside.read()
            elif not folder and member.name.endswith(_TARS):
                yield from _xml_members(inside, PurePosixPath(member.name).name.split(".")[0] + "/")


def read_box_list(path: Path) -> dict[str, Boxes]:
    """Boxes of lines `<file> ... <xmin> <ymin> <xmax> <ymax>`, by file without its ending.

    Both of Tiny ImageNet's lists are like this, separated by tabs.

    Raises:
        DataError: a line is not.
    """
    found: dict[str, Boxes] = {}
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        try:
            box = _box(fields[-4:])
        except ValueError:
            raise DataError(
                f"'{path}', line {number}: received {line[:80]!r}; "
                "'<file><tab>...<tab>xmin<tab>ymin<tab>xmax<tab>ymax' would do"
            ) from None
        name = PurePosixPath(fields[0]).stem
        found[name] = Boxes((*(found[name].boxes if name in found else ()), box))
    return found
