import io
import tarfile

import pytest

from core.errors import DataError
from datasets.build.images import ImageFile
from datasets.build.sources.tar import read_members


def tar_bytes(files: dict[str, bytes], **options) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=options.pop("mode", "w"), **options) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def contents(path, members) -> dict[str, bytes]:
    whole = path.read_bytes()
    return {m.name: whole[m.offset : m.offset + m.size] for m in members}


FILES = {
    "a.JPEG": b"first",
    "folder/b.JPEG": bytes(513),
    "empty.JPEG": b"",
    "ä ' \" x.JPEG": b"name",
    "long/" * 40 + "c.JPEG": b"long name",
}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_where_their_addresses_say(tmp_path, format):
    files = FILES if format != tarfile.USTAR_FORMAT else dict(list(FILES.items())[:4])
    path = tmp_path / "set.tar"
    path.write_bytes(tar_bytes(files, format=format))
    assert contents(path, read_members(path)) == files


def test_files_of_tars_in_a_tar(tmp_path):
    path = tmp_path / "train.tar"
    inner = {"n01.tar": tar_bytes({"n01_1.JPEG": b"one"}), "n02.tar": tar_bytes(FILES)}
    path.write_bytes(tar_bytes(inner))
    expected = {"n01/n01_1.JPEG": b"one"} | {f"n02/{name}": data for name, data in FILES.items()}
    assert contents(path, read_members(path, nested=True)) == expected


def test_what_is_no_plain_file_inside_the_archive_is_refused(tmp_path):
    path = tmp_path / "bad.tar"
    names = {
        "../../up.JPEG": tarfile.REGTYPE,
        "/etc/absolute.JPEG": tarfile.REGTYPE,
        "soft.JPEG": tarfile.SYMTYPE,
        "hard.JPEG": tarfile.LNKTYPE,
        "pipe.JPEG": tarfile.FIFOTYPE,
        "disk.JPEG": tarfile.BLKTYPE,
        "folder.JPEG": tarfile.DIRTYPE,
        "good.JPEG": tarfile.REGTYPE,
    }
    with tarfile.open(path, "w") as archive:
        for name, kind in names.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    refused = {member.name: member.refused for member in read_members(path)}
    assert list(refused) == [name for name in names if name != "folder.JPEG"]
    assert refused.pop("good.JPEG") == ""
    assert all(refused.values())


@pytest.mark.parametrize("lost", [1, 511, 512, 1024, 1500, 3000, 5500])
@pytest.mark.parametrize("nested", [False, True])
def test_a_cut_archive_is_refused(tmp_path, nested, lost):
    path = tmp_path / "set.tar"
    inner = tar_bytes({"a.JPEG": bytes(1000), "b.JPEG": bytes(1000)}).rstrip(b"\0")
    inner += bytes(-len(inner) % 512 + 1024 + 512)
    whole = tar_bytes({"n01.tar": inner}) if nested else inner
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    path.write_bytes(whole[: max(end + 512 - lost, 1)])
    with pytest.raises(DataError, match="cut short or damaged"):
        list(read_members(path, nested=nested))


def test_a_broken_header_is_not_the_end(tmp_path):
    path = tmp_path / "set.tar"
    data = bytearray(tar_bytes({"a.JPEG": b"a", "b.JPEG": b"b", "c.JPEG": b"c"}))
    data[1024 + 150] ^= 1  # in the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        list(read_members(path))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_refused(tmp_path, mode):
    path = tmp_path / "set.tar"
    path.write_bytes(tar_bytes(FILES, mode=mode))
    with pytest.raises(DataError, match="uncompress"):
        list(read_members(path))


def test_a_tar_of_something_else(tmp_path):
    path = tmp_path / "train.tar"
    path.write_bytes(tar_bytes({"n01_1.JPEG": b"one"}))
    with pytest.raises(DataError, match=r"'n01_1.JPEG'.*<class>.tar"):
        list(read_members(path, nested=True))


def test_order_of_members_is_that_of_the_archive(tmp_path):
    path = tmp_path / "set.tar"
    path.write_bytes(tar_bytes({"b": b"12", "a": b"3"}))
    expected = [ImageFile("b", "set.tar", 512, 2), ImageFile("a", "set.tar", 1536, 1)]
    assert list(read_members(path)) == expected
