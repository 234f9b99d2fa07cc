"""The pipelines that `input_pipeline.py` compares, one in each process.

`input_pipeline.py` starts this file with one JSON object, in the project's environment or
in that of the peers. Each line on the standard input then asks for one pass over the
images, and a line of JSON answers. Each pipeline imports what it alone needs.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Passes = Callable[[], int]  # runs once over the images and returns their number

ASPECT = (3 / 4, 4 / 3)


def tensorflow_threads(threads: int) -> Any:
    """TensorFlow with the settings of a run of this project, on a number of threads."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "tensorflow", "3"
    import tensorflow as tf

    from core.devices import _keep_freed_memory

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    _keep_freed_memory()
    return tf


def drained(dataset: Any) -> int:
    return sum(len(labels) for _, labels in dataset)


def ours(settings: dict[str, Any]) -> Passes:
    tensorflow_threads(settings["threads"])
    from core.settings import Augmentation
    from datasets.input import fused_jpeg
    from datasets.input.pipeline import ReadPlan, training_pipeline
    from datasets.records.schema import Records

    if settings["pipeline"] == "ours, TensorFlow's own ops":
        fused_jpeg.native = lambda: None
    elif fused_jpeg.native() is None:
        raise ImportError("the compiled decoder is missing")
    files = tuple(Path(file) for file in settings["records"])
    steps = settings["images"] // settings["batch_size"]
    cold = settings["pipeline"] == "ours, from disk"
    # Traced once, as a stage of a run is; each pass makes a new iterator, with empty buffers.
    dataset = training_pipeline(
        Records(files, settings["images"]),
        ReadPlan(settings["batch_size"], steps, shuffle_buffer=256, threads=settings["threads"]),
        range(steps),
        image_size=(settings["size"],) * 2,
        classes=1000,
        augmentation=Augmentation(area=settings["area"]),
    )

    def run() -> int:
        for file in files if cold else ():
            forget(file)
        return drained(dataset)

    return run


def forget(file: Path) -> None:
    """Drops a file from the system's cache, so that the next read goes to the disk."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours_evaluating(settings: dict[str, Any]) -> Passes:
    tensorflow_threads(settings["threads"])
    from core.settings import Evaluation
    from datasets.input.validation import evaluation_pipeline
    from datasets.records.schema import Records

    records = Records(tuple(Path(file) for file in settings["records"]), settings["images"])
    evaluation = Evaluation(image_size=settings["size"], batch_size=settings["batch_size"])
    dataset = evaluation_pipeline(records, evaluation, 1000, threads=settings["threads"])

    def run() -> int:
        drained(dataset)
        return settings["images"]  # the last batch may be filled up

    return run


def plain_keras(settings: dict[str, Any]) -> Passes:
    """What the Keras guides show: the directory's images, and layers that augment them.

    Keras has no random resized crop; a random crop of the stored size and a random zoom
    are the nearest of its layers.
    """
    tensorflow_threads(settings["threads"])
    import keras

    layers = keras.Sequential(
        [
            keras.layers.RandomCrop(settings["size"], settings["size"]),
            keras.layers.RandomZoom(0.25),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    dataset = keras.utils.image_dataset_from_directory(
        settings["tree"],
        image_size=(settings["short_side"],) * 2,
        crop_to_aspect_ratio=True,
        batch_size=settings["batch_size"],
        verbose=False,
    )
    dataset = dataset.map(
        lambda images, labels: (layers(images, training=True), labels),
        num_parallel_calls=settings["threads"],
    ).prefetch(4)
    return lambda: drained(dataset)


def torchvision(settings: dict[str, Any]) -> Passes:
    import torch

    try:
        import torchvision
    except RuntimeError:
        # If torchvision was built for GPUs and torch was not, torchvision misses its compiled
        # ops. Its transforms of PIL images, which are all that runs here, use none of them.
        ops = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import torchvision
    from torchvision import transforms

    torch.set_num_threads(1)
    augmentation = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings["size"], scale=settings["area"], ratio=ASPECT),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    images = torchvision.datasets.ImageFolder(settings["tree"], augmentation)
    loader = torch.utils.data.DataLoader(
        images,
        settings["batch_size"],
        shuffle=True,
        num_workers=settings["threads"],
        persistent_workers=True,
        drop_last=True,
    )
    return lambda: drained(loader)


def dali(settings: dict[str, Any]) -> Passes:
    from nvidia.dali import fn, pipeline_def, types

    # The same fast DCT and filter as ours; DALI's defaults are the exact DCT and antialiasing.
    as_ours = settings["pipeline"] != "DALI, CPU, its defaults"

    @pipeline_def(
        batch_size=settings["batch_size"], num_threads=settings["threads"], device_id=None
    )
    def pipeline() -> Any:
        jpegs, labels = fn.readers.file(file_root=settings["tree"], random_shuffle=True)
        images = fn.decoders.image_random_crop(
            jpegs,
            device="cpu",
            random_area=settings["area"],
            random_aspect_ratio=ASPECT,
            use_fast_idct=as_ours,
        )
        images = fn.resize(
            images,
            size=[settings["size"]] * 2,
            interp_type=types.INTERP_LINEAR,
            antialias=not as_ours,
        )
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    running = pipeline()
    running.build()
    steps = settings["images"] // settings["batch_size"]

    def run() -> int:
        for _ in range(steps):
            running.run()
        return steps * settings["batch_size"]

    return run


def ffcv(settings: dict[str, Any], raw: bool) -> Passes:
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor
    from ffcv.writer import DatasetWriter
    from PIL import Image

    files = sorted(Path(settings["tree"]).glob("*/*"))

    class Images:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            if raw:
                return np.asarray(Image.open(files[index]).convert("RGB")), 0
            return Image.open(files[index]).convert("RGB"), 0

    beton = Path(settings["tree"]).with_suffix(".raw" if raw else ".jpg")
    field = RGBImageField(write_mode="raw" if raw else "jpg", jpeg_quality=90)
    writer = DatasetWriter(str(beton), {"image": field, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Images())
    decoder = RandomResizedCropRGBImageDecoder(
        (settings["size"],) * 2, scale=tuple(settings["area"]), ratio=tuple(ASPECT)
    )
    loader = Loader(
        str(beton),
        batch_size=settings["batch_size"],
        num_workers=settings["threads"],
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": [decoder, RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return lambda: drained(loader)


def decoding_alone(settings: dict[str, Any]) -> Passes:
    """Whole images through Pillow's libjpeg-turbo, in threads, and nothing else."""
    import io
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    images = [path.read_bytes() for path in sorted(Path(settings["tree"]).glob("*/*"))]
    pool = ThreadPoolExecutor(settings["threads"])

    def decode(share: list[bytes]) -> int:
        for data in share:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        return len(share)

    shares = [images[i :: settings["threads"]] for i in range(settings["threads"])]
    return lambda: sum(pool.map(decode, shares))


PIPELINES: dict[str, Callable[[dict[str, Any]], Passes]] = {
    "ours": ours,
    "ours, from disk": ours,
    "ours, TensorFlow's own ops": ours,
    "ours, evaluation": ours_evaluating,
    "decoding alone (Pillow)": decoding_alone,
    "Keras, from directory": plain_keras,
    "torchvision": torchvision,
    "DALI, CPU": dali,
    "DALI, CPU, its defaults": dali,
    "FFCV, JPEG": lambda settings: ffcv(settings, raw=False),
    "FFCV, raw pixels": lambda settings: ffcv(settings, raw=True),
}


def answers(run: Passes) -> Iterator[dict[str, Any]]:
    yield {"ready": run()}  # the first pass traces and warms up
    for _ in sys.stdin:
        began = time.perf_counter()
        images = run()
        yield {"images_per_second": images / (time.perf_counter() - began)}


def main() -> None:
    # What a library prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    try:
        run = PIPELINES[settings["pipeline"]](settings)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=out)
        return
    for answer in answers(run):
        print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main()
