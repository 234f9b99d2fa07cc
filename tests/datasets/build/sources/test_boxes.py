import io
import tarfile

import pytest
from PIL import Image

from core.errors import DataError
from datasets.build.sources.boxes import (
    Box,
    Boxes,
    parse_xml,
    read_box_list,
    read_boxes,
    relative_boxes,
)
from tests.datasets.build.sources.test_tar import tar_bytes

# The form of ImageNet's files, with figures made up.
XML = """<annotation>
  <folder>n02</folder><filename>n02_7</filename>
  <size><width>200</width><height>100</height><depth>3</depth></size>
  <object><name>n02</name><bndbox>
    <xmin>50</xmin><ymin>10</ymin><xmax>150</xmax><ymax>60</ymax></bndbox></object>
  <object><name>Scottish_deerhound</name><bndbox>
    <xmin>-4</xmin><ymin>100</ymin><xmax>100</xmax><ymax>50</ymax></bndbox></object>
  <object><name>n01</name><bndbox>
    <xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
  <object><name>n02</name><bndbox>
    <xmin>30</xmin><ymin>0</ymin><xmax>30</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


def test_xml_becomes_fractions():
    boxes = relative_boxes(parse_xml(XML.encode()), (999, 999, 1), "n02", ("n01", "n02"))
    # The second is clipped and put in order, the third is of another class, the last is flat.
    assert [box[:4] for box in boxes] == [(0.25, 0.1, 0.75, 0.6), (0, 0.5, 0.5, 1)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(orientation):
    from datasets.build.images import read_image

    image = Image.new("RGB", (80, 40), "black")
    image.paste((255, 255, 255), (8, 16, 24, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    upright, _ = read_image(file.getvalue())
    left, top, right, bottom = upright.convert("L").getbbox()
    width, height = upright.size
    expected = (left / width, top / height, right / width, bottom / height)
    [box] = relative_boxes(Boxes((Box(8, 16, 24, 24),)), (80, 40, orientation), "n01")
    assert box[:4] == pytest.approx(expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<annotation/>",
        b"<annotation>",
        b"\xff\xfe",
        XML.replace("200", "0").encode(),
        XML.replace("150", "far").encode(),
    ],
)
def test_what_is_no_annotation(data):
    with pytest.raises(ValueError, match=r"\w"):
        parse_xml(data)


def test_xml_is_found_in_folders_and_archives(tmp_path, caplog):
    folder = tmp_path / "train"
    (folder / "n02").mkdir(parents=True)
    (folder / "n02" / "n02_7.xml").write_text(XML)
    (folder / "n02" / "broken.xml").write_text("<annotation>")
    flat = tmp_path / "val.tgz"
    flat.write_bytes(tar_bytes({"val/ILSVRC2012_val_00000001.xml": XML.encode()}, mode="w:gz"))
    nested = tmp_path / "tars.tar.gz"
    inner = tar_bytes({"n03_1.xml": XML.encode()}, mode="w:gz")
    nested.write_bytes(tar_bytes({"Annotation/n03.tar.gz": inner}, mode="w:gz"))
    found = read_boxes([folder, flat, nested], ["n02", "n03"])
    assert found.keys() == {"n02/n02_7", "ILSVRC2012_val_00000001", "n03/n03_1"}
    assert len({id(boxes) for boxes in found.values()}) == 3
    assert all(boxes == parse_xml(XML.encode()) for boxes in found.values())
    assert any("1 file(s)" in text and "broken.xml" in text for text in caplog.messages)


def test_links_in_an_archive_of_boxes_are_not_followed(tmp_path):
    outside = tmp_path / "outside.xml"
    outside.write_text(XML)
    path = tmp_path / "boxes.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("n02/n02_7.xml")
        member.type, member.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(member)
    with pytest.raises(DataError, match="no annotation"):
        read_boxes([path], ["n02"])


@pytest.mark.parametrize("name", ["none", "words.txt"])
def test_no_boxes(tmp_path, name):
    (tmp_path / "words.txt").write_text("n01\ttench")
    with pytest.raises(DataError, match=name):
        read_boxes([tmp_path / name], ["n01"])


def test_a_list_of_boxes(tmp_path):
    path = tmp_path / "n01_boxes.txt"
    path.write_text(
        "n01_0.JPEG\t0\t10\t63\t58\nn01_0.JPEG\t1\t2\t3\t4\n\nval_1.JPEG\tn01\t5\t6\t7\t8\n"
    )
    assert read_box_list(path) == {
        "n01_0": Boxes((Box(0, 10, 63, 58), Box(1, 2, 3, 4))),
        "val_1": Boxes((Box(5, 6, 7, 8),)),
    }
    path.write_text("n01_0.JPEG\t0\t10\t63\t58\nn01_0.JPEG\t0\tten\t63\t58\n")
    with pytest.raises(DataError, match="line 2"):
        read_box_list(path)
