"""Decoding, cropping, resizing and mirroring of whole batches of JPEGs in one pass.

Two TensorFlow ops in C++ (`native/jpeg_windows.cc`), compiled for this machine by
`make setup`, or else when they are first used:

    python -m datasets.input.fused_jpeg

TensorFlow exports no libjpeg, so they use the libjpeg-turbo in Pillow's wheel, with the header
in TensorFlow's wheel. Where that fails, the functions here use TensorFlow's own ops, image by
image: pixels differ by at most 1, and a pipeline runs at about half the speed.
"""

import functools
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import tensorflow as tf

from core import files

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "native" / "jpeg_windows.cc"

# libjpeg-turbo's fast DCT, and no smoothing of the chroma: the decoder of a training
# pipeline; evaluation uses the exact one.
FAST = {"dct_method": "INTEGER_FAST", "fancy_upscaling": False}
EXACT = {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": True}


def to_uint8(image: Any) -> Any:
    """Rounds and clips a float image on the scale 0 to 255 to uint8."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


class CannotCompile(RuntimeError):
    """The ops cannot be compiled here; the message says why."""


def build(into: Path = SOURCE.parent, flags: Sequence[str] = ()) -> Path:
    """Compiles the ops, unless that is done; several processes wait for the one that compiles.

    Args:
        into: folder of the library; those of other sources or flags are deleted there.
        flags: for the compiler, beside the usual ones.
    """
    import PIL

    libraries = sorted((Path(PIL.__file__).parent.parent / "pillow.libs").glob("libjpeg-*.so*"))
    if not libraries:
        raise CannotCompile("this Pillow brings no libjpeg of its own, as its wheels for Linux do")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise CannotCompile("there is no C++ compiler; install g++")
    include = Path(tf.sysconfig.get_include()) / "external" / "libjpeg_turbo"
    command = [compiler, *tf.sysconfig.get_compile_flags(), f"-I{include}", "-std=c++17", "-O3"]
    command += ["-ffp-contract=off"]  # the same bits from every processor
    command += [*flags, "-shared", "-fPIC", "-w", str(SOURCE), *tf.sysconfig.get_link_flags()]
    folder, name = libraries[0].parent, libraries[0].name
    command += [f"-L{folder}", f"-l:{name}", f"-Wl,-rpath,{folder}"]
    made_of = "\n".join([tf.version.GIT_VERSION, *command]).encode()
    sources = b"".join(path.read_bytes() for path in [*sorted(SOURCE.parent.glob("*.h")), SOURCE])
    digest = hashlib.sha256(sources + made_of).hexdigest()
    library = into / f"jpeg_windows-{digest[:16]}.so"
    if library.exists():
        return library
    with filelock.FileLock(into / ".build.lock"):
        if library.exists():
            return library
        for old in into.glob("jpeg_windows-*.so*"):
            old.unlink()
        with files.whole(library) as unfinished:
            ran = subprocess.run([*command, "-o", unfinished], capture_output=True, text=True)
            if ran.returncode:
                raise CannotCompile(f"the compiler said: {ran.stderr.strip()[-500:]}")
    return library


@functools.cache
def native() -> Any:
    """The module of the two ops; None, after a warning, where it cannot be compiled or loaded."""
    try:
        ops = tf.load_op_library(str(build()))
        with tf.init_scope():  # this may be called while a pipeline is traced
            ops.jpeg_sizes(tf.constant([], tf.string))
        return ops
    except tf.errors.FailedPreconditionError as error:
        found = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)
        reason = (
            f"the libjpeg in Pillow is not the one of TensorFlow's header ({found}); install the "
            "Pillow that requirements.txt names"
        )
    except (CannotCompile, OSError, tf.errors.OpError) as error:
        reason = str(error)
    slower = "input pipelines will run at about half their speed"
    logger.warning("warning: the fused JPEG decoder is missing, %s: %s", slower, reason)
    return None


def sizes_of(jpegs: Any) -> Any:
    """Heights and widths, `[n, 2]` int32, of the JPEGs `[n]`, from their headers."""
    if native():
        return native().jpeg_sizes(jpegs)
    shapes = tf.map_fn(tf.io.extract_jpeg_shape, jpegs, fn_output_signature=tf.int32)
    return shapes[:, :2]


def decode_windows(
    jpegs: Any, windows: Any, height: Any, width: Any, *, exact: bool = False, scaled: bool = True
) -> Any:
    """Decodes a window of each image, resized bilinearly (half-pixel centres, no antialiasing).

    Args:
        jpegs: `[n]` strings.
        windows: `[n, 5]` int32: top, left, height and width in pixels of the image, and 1
            to mirror it from left to right, else 0. Or `[n, 7]`: also height and width of
            the resized image that it is a window of; 0 and 0 where the image is not resized.
        height, width: of the result, `[n, height, width, 3]` uint8, RGB; integers or scalars.
        exact: the decoder of evaluation, instead of the fast one.
        scaled: let libjpeg decode at 1/2, 1/4 or 1/8 where the window is at least that many
            times as high and as wide as the result. It is faster and antialiases.
            TensorFlow's own ops ignore it.
    """
    static = [side if isinstance(side, int) else None for side in (height, width)]
    if native():
        sides = {"height": height, "width": width}
        images = native().decode_windows(jpegs, windows, **sides, exact=exact, scaled=scaled)
        return tf.ensure_shape(images, (None, *static, 3))
    decoder = EXACT if exact else FAST

    def one(arguments: tuple[Any, Any]) -> Any:
        jpeg, window = arguments

        def of_image() -> Any:
            return tf.image.decode_and_crop_jpeg(jpeg, window[:4], channels=3, **decoder)

        def of_resized() -> Any:
            image = tf.image.resize(tf.io.decode_jpeg(jpeg, channels=3, **decoder), window[5:])
            corner, sides = tf.unstack(window[:2]), tf.unstack(window[2:4])
            return to_uint8(tf.slice(image, [*corner, 0], [*sides, 3]))

        may_resize = windows.shape[1] == 7
        image = tf.cond(window[5] > 0, of_resized, of_image) if may_resize else of_image()
        image = to_uint8(tf.image.resize(image, (height, width)))
        return tf.cond(window[4] > 0, lambda: image[:, ::-1], lambda: image)

    images = tf.map_fn(one, (jpegs, windows), fn_output_signature=tf.uint8)
    return tf.ensure_shape(images, (jpegs.shape[0], *static, 3))


if __name__ == "__main__":
    sys.exit(native() is None)
