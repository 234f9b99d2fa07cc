"""Image files of every kind that image sets hold, read and made into RGB JPEGs of a given size."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

Jpeg = tuple[bytes, int, int]  # the file, its width and its height

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")

# From here to twice as many Pillow only warns; a process needs about 9 bytes a pixel.
MAX_PIXELS = 89_478_485
MAX_BYTES = 1 << 28
SMALL = 64  # pixels; images whose short side is no longer are kept at a higher quality

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SRGB_NAMES = ("sRGB", "c2", "IEC61966-2.1")  # parts of the names of sRGB's profiles


class Refused(ValueError):
    """A file that the builder does not make an image of, with the reason."""


class ImageFile(NamedTuple):
    """Where one image is. The strings are shared; a million of these take about 200 MB."""

    name: str  # `<class>/<file>`, unique in its split
    place: str  # the folder or archive that holds it, relative to the root of the source
    offset: int  # of its first byte in the archive; -1 for a file in a folder
    size: int  # in bytes; -1 if it is not a regular file
    refused: str = ""  # why it must not be read, if its archive shows that already

    @property
    def label(self) -> str:
        return self.name.split("/", 1)[0]

    @property
    def file(self) -> str:
        return self.name.split("/", 1)[1]

    @property
    def path(self) -> str:
        """Its path from the root, through the archive, for messages."""
        return f"{self.place}/{self.file if self.offset < 0 else self.name}"


def read_bytes(root: Path, image: ImageFile) -> bytes:
    """Contents of an image's file; a file that is no image for sure raises `Refused`."""
    if image.refused:
        raise Refused(image.refused)
    if image.size == 0:
        raise Refused("empty file")
    if image.size < 0:
        raise Refused("no regular file, or a link to none")
    if image.size > MAX_BYTES:
        raise Refused(f"{image.size:,} bytes; at most {MAX_BYTES:,} are read")
    if image.offset < 0:
        return (root / image.place / image.file).read_bytes()
    with open(root / image.place, "rb") as archive:
        archive.seek(image.offset)
        data = archive.read(image.size)
    if len(data) < image.size:
        raise Refused("the archive ends in the middle of it")
    return data


def read_image(data: bytes) -> tuple[Image.Image, bool]:
    """Decodes any of `FORMATS` to an upright sRGB image.

    Transparent pixels become white, 16-bit values keep their upper 8 bits, an animation
    gives its first frame, and an ICC profile other than sRGB is converted to sRGB. The second
    result is whether `data` is a baseline RGB JPEG of exactly these pixels. Too many pixels
    raise `Refused`; broken images raise nearly any `Exception`, from Pillow.
    """
    with _opened(data) as image:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        profile = _profile(image)
        rgb_jpeg = image.format == "JPEG" and image.mode == "RGB"
        plain = rgb_jpeg and profile is None and _is_baseline(data)
        rgb = _rgb(image, profile)
    return (rgb, plain) if turn is None else (rgb.transpose(turn), False)


def _opened(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Refused(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
    return image


def _rgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    if profile is not None:
        try:
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
            assert converted is not None  # it is only where the image is changed in place
            return converted
        except ImageCms.PyCMSError:
            pass  # the profile is for another colour space
    if image.mode.startswith("I"):
        pixels = np.clip(np.asarray(image, np.int64) >> 8, 0, 255)
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The ICC profile to convert from; None for sRGB, no profile or a broken one."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "CMYK"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile).strip()
    except Exception:  # a broken profile; the pixels are good
        return None
    return None if any(part in name for part in _SRGB_NAMES) else profile


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block raises anything; the pixels are good
        return 1


def stored_shape(data: bytes) -> tuple[int, int, int]:
    """Width, height and EXIF orientation of an image as stored, from its header alone."""
    with _opened(data) as image:
        return image.width, image.height, _orientation(image)


def _is_baseline(data: bytes) -> bool:
    """Whether the frame marker of a JPEG names the baseline process, which every decoder knows."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _SOF_MARKERS:
            return marker == 0xC0
        length = int.from_bytes(data[position + 2 : position + 4])
        position += 1 if marker == 0xFF else 2 + length  # 0xFF: a fill byte
    return False


def resized(width: int, height: int, size: int, enlarge: bool) -> tuple[int, int]:
    """Width and height in pixels with `size` as the short side and the same aspect."""
    short = min(width, height)
    if short == size or (short < size and not enlarge):
        return width, height
    return (width * size + short // 2) // short, (height * size + short // 2) // short


def default_quality(short_side: int) -> int:
    """The JPEG quality for images of a short side in pixels, where the build names none.

    Small images are all detail, and the bytes saved are few (measured in
    docs/building_records.md).
    """
    return 98 if short_side <= SMALL else 90


def convert(
    data: bytes,
    sizes: Sequence[int],
    quality: int | None,
    enlarge: bool = False,
    restart_markers: bool = True,
) -> list[Jpeg]:
    """An image as a JPEG for each short side in pixels; `quality` None is `default_quality`.

    With `restart_markers`, an image above `SMALL` has one behind every unit of blocks, so that
    the input pipeline decodes only what a crop needs.

    A baseline RGB JPEG that already has the size is returned byte for byte. A smaller image
    keeps its size without `enlarge`.

    All sizes come from one full decode. libjpeg's scaled decode (Pillow's draft mode) changes
    the pixels (44 to 48 dB), and few photographs of ImageNet are large enough to gain by it.
    """
    image, plain = read_image(data)
    out = []
    for size in sizes:
        target = resized(image.width, image.height, size, enlarge)
        if plain and target == image.size:
            out.append((data, *target))
        else:
            small = image.resize(target, Image.Resampling.LANCZOS)
            jpeg = _jpeg(small, quality, restart_markers)
            out.append((jpeg, *target))
    return out


def keep(data: bytes, quality: int | None, restart_markers: bool = True) -> Jpeg:
    """An image at its own size: a JPEG that any decoder shows upright.

    RGB and greyscale JPEGs are kept byte for byte, baseline or progressive, whatever their
    profile. Others (CMYK, turned by EXIF, other formats) are encoded again.
    """
    with _opened(data) as image:
        image.load()
        if image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation(image) == 1:
            return data, image.width, image.height
    upright, _ = read_image(data)
    return _jpeg(upright, quality, restart_markers), upright.width, upright.height


def _jpeg(image: Image.Image, quality: int | None, restart_markers: bool) -> bytes:
    # 4:2:0 keeps a quarter of the colour. Photographs do not show it; in a small image it
    # blurs whole objects, and the bytes saved are few.
    subsampling = "4:4:4" if min(image.size) <= SMALL else "4:2:0"
    quality = quality or default_quality(min(image.size))
    # Without these two Pillow copies the source's comment and profile.
    options = {"quality": quality, "subsampling": subsampling, "comment": b"", "icc_profile": None}
    # Where images are small, crops take nearly all of them.
    if min(image.size) > SMALL:
        options["restart_marker_blocks"] = int(restart_markers)
        try:
            # Huffman tables of the image's own save the 3 to 4 % of the bytes that markers take.
            return _saved(image, optimize=True, **options)
        except OSError:
            pass  # noise: Pillow has room for a byte a pixel here
    return _saved(image, **options)


def _saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def reason(error: Exception) -> str:
    """Why an image was not read, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image: " + ", ".join(FORMATS) + " are read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
