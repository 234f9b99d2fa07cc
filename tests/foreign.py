"""Records as other programs write them, with TensorFlow's writer and `tf.train.Example`."""

import json
from pathlib import Path

import tensorflow as tf


def feature(value) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def classic_example(jpeg: bytes, number: int, name: str) -> bytes:
    """As `_convert_to_example` of TensorFlow's build_imagenet_data.py; labels from 1."""
    height, width, _ = tf.io.decode_jpeg(jpeg).shape
    fields = {
        "image/height": height,
        "image/width": width,
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/class/label": number + 1,
        "image/class/synset": f"n{number:08d}".encode(),
        "image/class/text": f"class {number}".encode(),
        "image/object/bbox/xmin": [0.25],
        "image/object/bbox/xmax": [0.75],
        "image/object/bbox/ymin": [0.25],
        "image/object/bbox/ymax": [0.75],
        "image/object/bbox/label": [number + 1],
        "image/format": b"JPEG",
        "image/filename": name.encode(),
        "image/encoded": jpeg,
    }
    features = tf.train.Features(feature={k: feature(v) for k, v in fields.items()})
    return tf.train.Example(features=features).SerializeToString()


def tfds_example(jpeg: bytes, number: int, name: str) -> bytes:
    """As TensorFlow Datasets serialises imagenet2012; labels from 0."""
    fields = {"file_name": name.encode(), "image": jpeg, "label": number}
    features = tf.train.Features(feature={k: feature(v) for k, v in fields.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_set(folder: Path, pattern: str, examples: list[bytes], shards: int) -> list[Path]:
    """Writes files named by a pattern with `{index}` and `{count}`, in the examples' order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(shards):
        paths.append(folder / pattern.format(index=f"{index:05d}", count=f"{shards:05d}"))
        with tf.io.TFRecordWriter(str(paths[-1])) as writer:
            for example in examples[index::shards]:
                writer.write(example)
    return paths


CLASSIC_FILES = "{split}-{{index}}-of-{{count}}"
TFDS_FILES = "imagenet2012-{split}.tfrecord-{{index}}-of-{{count}}"


def write_classic(folder: Path, split: str, images: list[tuple[bytes, int, str]], shards=2):
    examples = [classic_example(*image) for image in images]
    return write_set(folder, CLASSIC_FILES.format(split=split), examples, shards)


def write_tfds(folder: Path, split: str, images: list[tuple[bytes, int, str]], shards=2):
    examples = [tfds_example(*image) for image in images]
    return write_set(folder, TFDS_FILES.format(split=split), examples, shards)


def write_tfds_notes(folder: Path, classes: int, images: dict[str, list[int]]) -> None:
    """Writes the parts of TFDS 4.9's `features.json` and `dataset_info.json` that are read."""
    package = "tensorflow_datasets.core.features"
    features = {
        "file_name": {"pythonClassName": f"{package}.text_feature.Text", "text": {}},
        "image": {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "jpeg"},
        },
        "label": {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }
    whole = {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(whole, indent=4))
    info = {
        "fileFormat": "tfrecord",
        "name": "imagenet2012",
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": name,
                "shardLengths": list(map(str, lengths)),
            }
            for name, lengths in images.items()
        ],
        "version": "5.1.0",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
