"""The schemas of records that are read: under which keys image and label stand."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class RecordKeys:
    """Keys of a `tf.Example`.

    Attributes:
        image: of the JPEG, one bytes value.
        label: of the class, one int64 value.
        filename: of the image's file name, a bytes value that may be missing.
    """

    image: str
    label: str
    filename: str


# TensorFlow's build_imagenet_data.py, and datasets/build_imagenet_data.py here.
CLASSIC = RecordKeys("image/encoded", "image/class/label", "image/filename")
# TensorFlow Datasets: a feature `Image` and a feature `ClassLabel`.
TFDS = RecordKeys("image", "label", "file_name")

SCHEMAS = (CLASSIC, TFDS)


def keys_among(present: Collection[str]) -> RecordKeys | None:
    """The schema whose image and label are both among the keys of a record."""
    for keys in SCHEMAS:
        if keys.image in present and keys.label in present:
            return keys
    return None
