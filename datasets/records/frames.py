"""The frames of TFRecord files: written, read and stepped over, without TensorFlow.

A frame is the length of the data (8 bytes, little endian), its masked CRC-32C, the data and
their masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from core.errors import DataError

HEADER, TRAILER = 12, 4  # bytes before and behind the data
_GZIP = b"\x1f\x8b"
_WINDOW = 1 << 20


class BrokenFraming(DataError):
    """A record (its number counts from 0) from which on a TFRecord file cannot be read.

    `cut_short` if the file ends too early; otherwise a length is damaged.
    """

    def __init__(self, path: str | Path, record: int, reason: str, cut_short: bool):
        super().__init__(f"record file '{path}', record {record} (from 0): {reason}")
        self.record, self.reason, self.cut_short = record, reason, cut_short


def frame(data: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, masked_crc(length), data, masked_crc(data)))


def masked_crc(data: bytes) -> bytes:
    """CRC-32C of the data as TFRecord stores it: rotated and shifted, as data may hold CRCs."""
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def walk(
    file: BinaryIO, path: str | Path, check: bool = True, start: int = 0
) -> Iterator[tuple[int, int]]:
    """Where the data of each record begin and end, from the headers alone.

    After the last whole record of a broken file it raises `BrokenFraming`. The caller may read
    and seek in the file between two records. Without `check`, only a length that goes beyond
    the file has its checksum tested. `start` is the byte where the first record begins.
    """
    size = os.fstat(file.fileno()).st_size
    record = 0
    while start < size:
        file.seek(start)
        header = file.read(HEADER)
        begin, end = start + HEADER, start + HEADER + int.from_bytes(header[:8], "little")
        missing = end + TRAILER - size
        if len(header) < HEADER:
            raise BrokenFraming(path, record, "the file ends in the middle of its length", True)
        if (check or missing > 0) and masked_crc(header[:8]) != header[8:]:
            reason = "the checksum of its length is wrong; the rest of the file cannot be read"
            if record == 0:
                reason = "the file is no TFRecord file"
                if header[:2] == _GZIP:
                    reason = "the file is compressed with gzip; decompress it (gunzip)"
            raise BrokenFraming(path, record, reason, False)
        if missing > 0:
            reason = f"the file ends in the middle of it, {missing:,} bytes early"
            raise BrokenFraming(path, record, reason, True)
        yield begin, end
        start = end + TRAILER
        record += 1


def find_header(file: BinaryIO, start: int) -> int:
    """Where, from `start` on, the next record with a right length begins; else the file's size."""
    size = os.fstat(file.fileno()).st_size
    while start + HEADER <= size:
        file.seek(start)
        window = file.read(_WINDOW)
        # Lengths are below 4 GiB: their upper half is zeros.
        place = window.find(b"\0\0\0\0", 4)
        while 0 <= place <= len(window) - 8:
            header = window[place - 4 : place + 8]
            length = int.from_bytes(header[:8], "little")
            whole = start + place - 4 + HEADER + length + TRAILER <= size
            if whole and masked_crc(header[:8]) == header[8:]:
                return start + place - 4
            place = window.find(b"\0\0\0\0", place + 1)
        if len(window) < _WINDOW:
            break
        start += len(window) - HEADER
    return size


def read_data(file: BinaryIO, begin: int, end: int) -> tuple[bytes, bool]:
    """The data of a record, and whether their checksum is right."""
    file.seek(begin)
    data, checksum = file.read(end - begin), file.read(TRAILER)
    if len(checksum) < TRAILER:
        raise OSError("the file became shorter while it was read")
    return data, masked_crc(data) == checksum


def read_frames(
    path: Path, note: Callable[[bytes], object] = lambda _: None
) -> Iterator[tuple[bytes, bool]]:
    """The data of each record of a file, and whether their checksum is right; raises as `walk`.

    `note` receives all bytes of the file in order, for a checksum of the whole.
    """
    with open(path, "rb", buffering=1 << 18) as file:
        for begin, end in walk(file, path):
            file.seek(begin - HEADER)
            note(file.read(end + TRAILER - begin + HEADER))
            yield read_data(file, begin, end)


def read_record(path: Path, record: int) -> bytes:
    """The data of one record, by its number from 0."""
    with open(path, "rb") as file:
        for number, (begin, end) in enumerate(walk(file, path)):
            if number == record:
                return read_data(file, begin, end)[0]
    raise BrokenFraming(path, record, "the file ends before it", cut_short=True)


def count_records(path: str | Path) -> int:
    """Records in a TFRecord file, from their lengths alone; raises as `walk`."""
    with open(path, "rb", buffering=0) as file:
        return sum(1 for _ in walk(file, path, check=False))
