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
message_type {
  name: "BytesList" field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED }
}
message_type {
  name: "FloatList" field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED }
}
message_type {
  name: "Int64List" field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
}
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".records.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".records.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".records.Int64List" oneof_index: 0 }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type_name: ".records.Feature" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 type_name: ".records.Entry" label: LABEL_REPEATED }
}
message_type { name: "Example" field { name: "features" number: 1 type_name: ".records.Features" } }
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
    """A serialised `tf.Example` with all the keys of ImageNet's records.

    Equal arguments give equal bytes.

    Args:
        encoded: an RGB JPEG of `height` rows and `width` columns.
        label: the class, counted from 1.
        synset: name of the class folder.
        text: the class in words, where they are known.
        filename: of the source file, without its folders.
        boxes: as (xmin, ymin, xmax, ymax), fractions of the sides. Their label in the record
            is that of the image.
    """
    example = _message("Example")()

    def add(key: str, kind: str, values: Iterable[Any]) -> None:
        values_of_kind = getattr(example.features.feature.add(key=key).value, kind)
        values_of_kind.SetInParent()  # an empty list, too, has a kind
        values_of_kind.value.extend(values)

    add("image/encoded", "bytes_list", [encoded])
    add("image/height", "int64_list", [height])
    add("image/width", "int64_list", [width])
    add("image/class/label", "int64_list", [label])
    add("image/class/synset", "bytes_list", [synset.encode()])
    add("image/class/text", "bytes_list", [text.encode()])
    add("image/filename", "bytes_list", [filename])
    add("image/colorspace", "bytes_list", [b"RGB"])
    add("image/channels", "int64_list", [3])
    add("image/format", "bytes_list", [b"JPEG"])
    boxes = [tuple(box) for box in boxes]
    xmin, ymin, xmax, ymax = zip(*boxes, strict=True) if boxes else ((), (), (), ())
    add("image/object/bbox/xmin", "float_list", xmin)
    add("image/object/bbox/xmax", "float_list", xmax)
    add("image/object/bbox/ymin", "float_list", ymin)
    add("image/object/bbox/ymax", "float_list", ymax)
    add("image/object/bbox/label", "int64_list", [label] * len(boxes))
    return example.SerializeToString()


def parse_example(data: bytes) -> dict[str, list[Any]]:
    """The values of each key of a serialised `tf.Example`: bytes, floats or ints.

    Raises:
        DataError: the data are no `tf.Example`.
    """
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

    `parse_example` needs all of a record. This skips what is large, above all the JPEG, so that
    finding the labels of a data set does not read all of it.
    """
    try:
        for features in _fields(file, begin, end):
            for first, stop in _fields(file, *features):
                if stop - first > len(key.encode()) + 40:  # more than a key and an integer
                    continue
                file.seek(first)
                entry = _message("Entry").FromString(file.read(stop - first))
                if entry.key == key:
                    values = entry.value.int64_list.value
                    return values[0] if len(values) == 1 else None
    except (DecodeError, ValueError):
        pass
    return None


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each field of a protobuf message that has no fields but messages.

    Raises:
        ValueError: the bytes are no such message.
    """
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
