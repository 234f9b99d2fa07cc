"""Records of made photographs, for an input pipeline on a machine without data.

The amplitude of a photograph's spectrum falls as 1 / frequency (Field 1987,
https://doi.org/10.1364/JOSAA.4.002379). These images have that spectrum, with random phases. So
they take about the bytes, and the time to decode, of photographs. Flat noise would not.

The contrast is less than that of photographs, which are busy in some places and smooth in others.
It is chosen by the bytes: 3.0 and 2.9 bits a pixel at 160 and 320 px, where 296 photographs of
ImageNet have 3.1 and 2.8.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.build.images import convert
from datasets.records.examples import make_example
from datasets.records.frames import frame
from datasets.records.manifest import shard_name

STORED = (160, 320)  # short sides of the records, in pixels
MEAN, CONTRAST, COLOUR = 118.0, 17.0, 5.0  # of the luma; deviations of the luma and the chroma


def stored_for(size: int) -> int:
    """The short side of the records from which images of `size` pixels are cropped."""
    return STORED[0] if size <= STORED[0] else STORED[1]


def photograph(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """An RGB image with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is set below

    def plane(mean: float, deviation: float) -> np.ndarray:
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
        values = np.fft.irfft2(spectrum, (height, width))
        values *= deviation / values.std()
        return np.clip(mean + values, 0, 255).astype(np.uint8)

    planes = [plane(MEAN, CONTRAST), plane(128.0, COLOUR), plane(128.0, COLOUR)]
    return Image.merge("YCbCr", [Image.fromarray(values) for values in planes]).convert("RGB")


def write_records(root: Path, count: int) -> None:
    """Writes `count` images as records in `root/160` and `root/320`, as the builder makes them."""
    records: dict[int, list[bytes]] = {stored: [] for stored in STORED}
    for number in range(count):
        file = io.BytesIO()
        photograph(number).save(file, "PNG", compress_level=0)
        jpegs = convert(file.getvalue(), STORED, None)
        for stored, (jpeg, width, height) in zip(STORED, jpegs, strict=True):
            name = f"made_{number:05d}.jpg".encode()
            example = make_example(
                jpeg, height=height, width=width, label=1, synset="made", filename=name
            )
            records[stored].append(frame(example))
    for stored, frames in records.items():
        folder = root / str(stored)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / shard_name("train", 0, 1)).write_bytes(b"".join(frames))
