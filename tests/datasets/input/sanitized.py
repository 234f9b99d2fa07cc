"""The compiled op over odd JPEGs, with the sanitizers of addresses and of undefined behaviour.

    python -m tests.datasets.input.sanitized 5000    # JPEGs, each with a seed; about four minutes

Whole and mutated JPEGs of many kinds, windows inside and outside, each decoder. An image may be
decoded or refused. A read or write outside an array, or an overflow, ends the process: then the
report names the line, and the seed is the last one printed. libjpeg itself is Pillow's, as it is.
"""

import collections
import io
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.test_fuzz import mutated

FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined")
FLAGS = (*FLAGS, "-fno-sanitize-recover=all")
CHILD = "SANITIZED_LIBRARY"  # names the library to the process that runs under the sanitizers
MAX_PIXELS = 1 << 22  # of a size that a mutated header claims; libjpeg would take gigabytes


def odd_jpeg(draw: random.Random) -> bytes:
    """Noise of an odd size, in any coding that Pillow writes, and mostly mutated."""
    mode = draw.choice(["RGB", "RGB", "RGB", "L", "CMYK"])
    width, height = (draw.choice([1, 2, 7, 8, 9, 16, 17, 33, 64, 100]) for _ in range(2))
    noise = np.random.default_rng(draw.randrange(1 << 30))
    channels = {"RGB": (3,), "L": (), "CMYK": (4,)}[mode]
    pixels = noise.integers(0, 256, (height, width, *channels), np.uint8)
    options = {
        "quality": draw.choice([1, 50, 90, 100]),
        "progressive": draw.random() < 0.2,
        "optimize": draw.random() < 0.3,
        "restart_marker_blocks": draw.choice([0, 1, 1, 2, 3, 5, 10, 20, 1000]),
        **({"subsampling": draw.choice([0, 1, 2])} if mode == "RGB" else {}),
    }
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    if draw.random() < 0.3:
        return data
    if draw.random() < 0.5:  # a few bytes of the markers and tables
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(min(700, len(data)))] = draw.choice([0, 1, 8, 17, 127, 255])
        return bytes(changed)
    return mutated(data, draw)


def odd_window(height: int, width: int, draw: random.Random) -> list[int]:
    """Of the image, or of the image resized."""
    resized = [0, 0]
    if draw.random() < 0.3:
        resized = [height, width] = [draw.choice([1, 5, 17, 64, 300]) for _ in range(2)]
        if draw.random() < 0.05:
            resized[draw.randrange(2)] = draw.choice([-1, 0, 1 << 30, -(1 << 31)])
    top, left = draw.randrange(height), draw.randrange(width)
    window = [top, left, draw.randint(1, height - top), draw.randint(1, width - left)]
    if draw.random() < 0.05:
        window[draw.randrange(4)] = draw.choice([-1, 0, height, width, 1 << 30, -(1 << 31)])
    return [*window, draw.randrange(2), *resized]


def decode(count: int, library: str) -> None:
    """Runs the op, and prints how many were decoded and how many refused."""
    import tensorflow as tf

    ops = tf.load_op_library(library)
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(count):
        if seed % 500 == 0:
            print(f"from seed {seed} on", flush=True)
        draw = random.Random(seed)
        jpeg = tf.constant([odd_jpeg(draw)])
        try:
            height, width = ops.jpeg_sizes(jpeg).numpy()[0].tolist()
        except tf.errors.InvalidArgumentError:
            outcomes["no header"] += 1
            height, width = 8, 8
        if height * width > MAX_PIXELS:
            outcomes["too large to try"] += 1
            continue
        for _ in range(3):
            try:
                ops.decode_windows(
                    jpeg,
                    [odd_window(height, width, draw)],
                    height=draw.choice([1, 8, 31, 64]),
                    width=draw.choice([1, 3, 8, 17, 64]),
                    exact=draw.random() < 0.5,
                    scaled=draw.random() < 0.5,
                    plain=draw.random() < 0.3,
                )
                outcomes["decoded"] += 1
            except tf.errors.InvalidArgumentError:
                outcomes["refused"] += 1
    print(f"{count:,} JPEGs: " + ", ".join(f"{n:,} {name}" for name, n in outcomes.items()))


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    if library := os.environ.get(CHILD):
        decode(count, library)
        return 0
    from datasets.input import fused_jpeg

    compiler = os.environ.get("CXX", "g++")
    # The second one, since the sanitizer looks for `throw` when Python begins, which is in C.
    runtimes = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    with tempfile.TemporaryDirectory() as folder:
        library = fused_jpeg.build(Path(folder), FLAGS)
        # Python and TensorFlow are not compiled for the sanitizers, and keep memory at their end.
        options = "detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0"
        environment = {
            **os.environ,
            CHILD: str(library),
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": options,
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, "-m", "tests.datasets.input.sanitized", str(count)]
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
