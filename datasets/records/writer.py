"""ImageNet's classic `tf.Example` records, written without TensorFlow.

TensorFlow takes seconds and half a gigabyte to import, in each of a builder's
processes. The little of it that writing needs is here: the protobuf wire format of
`tf.Example` and the framing of TFRecord files with its CRC-32C.
"""

import functools
import struct
from collections.abc import Iterable, Mapping

import google_crc32c


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

    Args:
        encoded: an RGB JPEG.
        height: its rows in pixels.
        width: its columns in pixels.
        label: the class, counted from 1.
        synset: name of the class folder.
        text: the class in words, where they are known.
        filename: of the source file, without its folders.
        boxes: bounding boxes as (xmin, ymin, xmax, ymax), fractions of the sides. Their
            label in the record is that of the image.

    Equal arguments give equal bytes.
    """
    features = {
        "image/encoded": _bytes(encoded),
        "image/height": _ints([height]),
        "image/width": _ints([width]),
        "image/class/label": _ints([label]),
        "image/class/synset": _bytes(synset.encode()),
        "image/class/text": _bytes(text.encode()),
        "image/filename": _bytes(filename),
    }
    return _field(
        1, _entries(features) + _same_in_all() + _box_entries(tuple(map(tuple, boxes)), label)
    )


@functools.cache
def _same_in_all() -> bytes:
    return _entries(
        {
            "image/colorspace": _bytes(b"RGB"),
            "image/channels": _ints([3]),
            "image/format": _bytes(b"JPEG"),
        }
    )


@functools.lru_cache(maxsize=4096)
def _box_entries(boxes: tuple[tuple[float, ...], ...], label: int) -> bytes:
    """Most images have no boxes, and then all of a class share these bytes."""
    xmin, ymin, xmax, ymax = zip(*boxes, strict=True) if boxes else ((), (), (), ())
    return _entries(
        {
            "image/object/bbox/xmin": _floats(xmin),
            "image/object/bbox/xmax": _floats(xmax),
            "image/object/bbox/ymin": _floats(ymin),
            "image/object/bbox/ymax": _floats(ymax),
            "image/object/bbox/label": _ints([label] * len(boxes)),
        }
    )


def frame(data: bytes) -> bytes:
    """A record as it stands in a TFRecord file: length, checksum, data, checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, masked_crc(length), data, masked_crc(data)))


def masked_crc(data: bytes) -> bytes:
    """CRC-32C of the data as TFRecord stores it: turned and shifted, lest data hold their own."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


_SMALL = [bytes([value]) for value in range(0x80)]


def _varint(value: int) -> bytes:
    """Protobuf's variable-length number, for `value >= 0`."""
    if value <= 0x7F:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _bytes(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def _ints(values: Iterable[int]) -> bytes:
    packed = b"".join(map(_varint, values))
    return _field(3, _field(1, packed) if packed else b"")


def _floats(values: tuple[float, ...]) -> bytes:
    packed = struct.pack(f"<{len(values)}f", *values)
    return _field(2, _field(1, packed) if packed else b"")


def _entries(features: Mapping[str, bytes]) -> bytes:
    """The entries of a protobuf map of features."""
    return b"".join(_field(1, _key(key) + _field(2, value)) for key, value in features.items())


@functools.cache
def _key(key: str) -> bytes:
    return _field(1, key.encode())
