"""Reads TFRecord files and the `tf.Example`s in them without TensorFlow.

https://www.tensorflow.org/tutorials/load_data/tfrecord describes the framing: a length
(8 bytes, little endian), its masked CRC-32C, the data, their masked CRC-32C.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from core.errors import DataError
from datasets.records.writer import masked_crc

_GZIP = b"\x1f\x8b"


class BrokenFraming(DataError):
    """A TFRecord file that cannot be read on from some record.

    Attributes:
        record: number of the record, from 0.
        reason: what is wrong with it.
        cut_short: whether the file ends too early; else a length is damaged.
    """

    def __init__(self, path: Path, record: int, reason: str, cut_short: bool):
        super().__init__(f"record file '{path}', record {record}: {reason}")
        self.record = record
        self.reason = reason
        self.cut_short = cut_short


@dataclass(frozen=True)
class Frame:
    """A record: its number in the file from 0, its data, whether their CRC is right."""

    record: int
    data: bytes
    intact: bool


def read_frames(path: Path, note: Callable[[bytes], object] = lambda _: None) -> Iterator[Frame]:
    """The records of a file, one in memory at a time.

    Args:
        path: a TFRecord file.
        note: receives every byte of the file in order, for a checksum of the whole.

    Raises:
        BrokenFraming: after the last record that could be read.
        OSError: the file cannot be read.
    """
    left = path.stat().st_size
    record = 0
    with open(path, "rb", buffering=1 << 18) as file:
        while header := file.read(12):
            left -= len(header)
            length = checked_length(header, path, record)
            rest = file.read(length + 4) if length + 4 <= left else b""
            if len(rest) != length + 4:
                reason = f"the file ends in the middle of it, {length + 4 - left:,} bytes early"
                raise BrokenFraming(path, record, reason, cut_short=True)
            left -= len(rest)
            note(header)
            note(rest)
            data = rest[:-4]
            yield Frame(record, data, masked_crc(data) == rest[-4:])
            record += 1


def checked_length(header: bytes, path: Path, record: int) -> int:
    """Length in bytes of a record's data, from the 12 bytes before them.

    Raises:
        BrokenFraming: fewer than 12 bytes, or the length's checksum is not right.
    """
    if len(header) < 12:
        raise BrokenFraming(path, record, "the file ends in the middle of its length", True)
    if masked_crc(header[:8]) != header[8:]:
        reason = "the checksum of its length is wrong; what follows cannot be read"
        if record == 0:
            reason = "no TFRecord begins here"
            if header[:2] == _GZIP:
                reason = "the file is compressed with gzip; unpack it (gunzip)"
        raise BrokenFraming(path, record, reason, cut_short=False)
    return struct.unpack("<Q", header[:8])[0]


def read_record(path: Path, record: int) -> bytes:
    """The data of one record, by its number from 0; the others are stepped over."""
    with open(path, "rb", buffering=0) as file:
        for number in range(record):
            file.seek(checked_length(file.read(12), path, number) + 4, 1)
        return file.read(checked_length(file.read(12), path, record))


def parse_example(data: bytes) -> dict[str, list[Any]]:
    """The values of each key of a serialised `tf.Example`: bytes, floats or ints.

    Raises:
        DataError: the data are none.
    """
    try:
        features = _example_class().FromString(data).features.feature
    except DecodeError:
        raise DataError("it is no tf.Example") from None
    found = {}
    for key, feature in features.items():
        kind = feature.WhichOneof("kind")
        found[key] = list(getattr(feature, kind).value) if kind else []
    return found


@functools.cache
def _example_class() -> Any:
    """`tf.train.Example` from its definition (tensorflow/core/example/*.proto).

    In a pool of its own: TensorFlow, where it is loaded too, registers the same names.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorflow/core/example/example.proto", package="tensorflow", syntax="proto3"
    )

    def message(name: str, parent: Any = None) -> Any:
        return (parent.nested_type if parent else file.message_type).add(name=name)

    def add(to: Any, name: str, number: int, kind: Any, type_name: str = "", **more: Any) -> None:
        label = more.pop("label", field.LABEL_OPTIONAL)
        to.field.add(
            name=name, number=number, type=kind, type_name=type_name or None, label=label, **more
        )

    lists = {"BytesList": field.TYPE_BYTES, "FloatList": field.TYPE_FLOAT}
    for name, kind in (lists | {"Int64List": field.TYPE_INT64}).items():
        add(message(name), "value", 1, kind, label=field.LABEL_REPEATED)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), 1):
        type_name = ".tensorflow." + name.title().replace("_", "")
        add(feature, name, number, field.TYPE_MESSAGE, type_name, oneof_index=0)
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, ".tensorflow.Feature")
    add(
        features, "feature", 1, field.TYPE_MESSAGE, ".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )  # fmt: skip
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, ".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
