"""`tf.Example`s, written and read without TensorFlow.

TensorFlow takes seconds and half a gigabyte to import, in each of a builder's processes.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from core.errors import DataError

# After tensorflow/core/example/*.proto. There, `feature` is a map. Protobuf writes a map in any
# order; as a list of entries it has the same form and is written in the list's order.
_DEFINITION = """
name: "example.proto" package: "records" syntax: "proto3"
message_type { name: "Bytes"
  field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "Floats"
  field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED } }
message_type { name: "Ints"
  field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes" number: 1 type_name: ".records.Bytes" oneof_index: 0 }
  field { name: "floats" number: 2 type_name: ".records.Floats" oneof_index: 0 }
  field { name: "ints" number: 3 type_name: ".records.Ints" oneof_index: 0 } }
message_type { name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type_name: ".records.Feature" } }
message_type { name: "Features"
  field { name: "feature" number: 1 type_name: ".records.Entry" label: LABEL_REPEATED } }
message_type { name: "Example"
  field { name: "features" number: 1 type_name: ".records.Features" } }
"""


@functools.cache
def _message(name: str) -> Any:
    """One of the classes defined above, in a pool apart from TensorFlow's own."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_DEFINITION, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"records.{name}"))


def make_example(
    encoded: bytes,
    *,
    height: int,
    width: int,
    label: int,
    synset: str,
    text: str = "",
    filename: bytes = b"",
    boxes: Iterable[Iterable[float]] = (),
) -> bytes:
    """A serialised `tf.Example` with all the keys of ImageNet's records, in a fixed order.

    Args:
        encoded: an RGB JPEG of `height` rows and `width` columns.
        label: the class, counted from 1; the boxes get it, too.
        synset: name of the class folder.
        text: the class in words, where they are known.
        filename: of the source file, without its folders.
        boxes: as (xmin, ymin, xmax, ymax), fractions of the sides.
    """
    boxes = list(boxes)
    xmin, ymin, xmax, ymax = zip(*boxes, strict=True) if boxes else ((), (), (), ())
    features = (
        ("image/encoded", "bytes", [encoded]),
        ("image/height", "ints", [height]),
        ("image/width", "ints", [width]),
        ("image/class/label", "ints", [label]),
        ("image/class/synset", "bytes", [synset.encode()]),
        ("image/class/text", "bytes", [text.encode()]),
        ("image/filename", "bytes", [filename]),
        ("image/colorspace", "bytes", [b"RGB"]),
        ("image/channels", "ints", [3]),
        ("image/format", "bytes", [b"JPEG"]),
        ("image/object/bbox/xmin", "floats", xmin),
        ("image/object/bbox/xmax", "floats", xmax),
        ("image/object/bbox/ymin", "floats", ymin),
        ("image/object/bbox/ymax", "floats", ymax),
        ("image/object/bbox/label", "ints", [label] * len(boxes)),
    )
    # One call with a dictionary is faster than a call for each field.
    entries = [{"key": key, "value": {kind: {"value": v}}} for key, kind, v in features]
    return _message("Example")(features={"feature": entries}).SerializeToString()


def parse_example(data: bytes) -> dict[str, list[Any]]:
    """The values of each key of a serialised `tf.Example`; others raise `DataError`."""
    try:
        entries = _message("Example").FromString(data).features.feature
    except DecodeError:
        raise DataError("it is no tf.Example") from None
    found = {}
    for entry in entries:
        kind = entry.value.WhichOneof("kind")
        found[entry.key] = list(getattr(entry.value, kind).value) if kind else []
    return found


def read_label(file: BinaryIO, begin: int, end: int, key: str) -> int | None:
    """The one integer under `key` in the `tf.Example` at those bytes of a file, if there is one.

    `parse_example` needs all of a record; this skips what is large, above all the JPEG.
    """
    try:
        for features in _fields(file, begin, end):
            for first, stop in _fields(file, *features):
                if stop - first > len(key.encode()) + 40:  # more than a key and an integer
                    continue
                file.seek(first)
                entry = _message("Entry").FromString(file.read(stop - first))
                if entry.key == key:
                    values = entry.value.ints.value
                    return values[0] if len(values) == 1 else None
    except (DecodeError, ValueError):
        pass
    return None


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each field of a message that has only messages; others raise ValueError."""
    while begin < end:
        file.seek(begin)
        tag, *length_bytes = file.read(min(11, end - begin))
        length = 0
        for count, byte in enumerate(length_bytes):  # 7 bits each, the lowest first
            length |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                break
        else:
            raise ValueError("no length")
        begin += count + 2
        if tag & 7 != 2 or begin + length > end:
            raise ValueError("no message")
        yield begin, begin + length
        begin += length
