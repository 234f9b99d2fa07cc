"""Settings of the input pipelines, as they stand in a recipe. Imports no TensorFlow."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0, strict=True)]


class Settings(BaseModel):
    """A group of settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ColourJitter(Settings):
    """The original's optional colour augmentation; needs tensorflow-addons.

    Attributes:
        brightness: largest change of brightness, as a fraction of 255.
        saturation: the saturation is scaled by 1 - s to 1 + s.
        hue: largest turn of the hue in YIQ, in units of pi.
        contrast: the contrast is scaled by 1 - c to 1 + c.
    """

    brightness: Fraction = 0.3
    saturation: Fraction = 0.6
    hue: NotNegative = 0.13
    contrast: Fraction = 0.6


class Augmentation(Settings):
    """What happens to a training image between its JPEG and the batch.

    Attributes:
        crop: `"random_resized"` (ImageNet), `"pad"` (pad by `padding` times the
            size, then crop at random) or `"none"`.
        area: smallest and largest share of the image that a random resized crop has.
        aspect: smallest and largest width / height of that crop.
        padding: share of the image size that is padded on each side.
        fill: what the padding holds, `"reflect"` or `"constant"` (black).
        flip: flip half of the images from left to right.
        scaled_decode: decode at 1/2, 1/4 or 1/8 of the resolution where the crop is that
            many times as large as the image asked for; faster, and less aliased.
        colour: colour jitter, or none.
    """

    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    area: tuple[Positive, Positive] = (0.08, 1.0)
    aspect: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    padding: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    fill: Literal["reflect", "constant"] = "reflect"
    flip: bool = True
    scaled_decode: bool = True
    colour: ColourJitter | None = None


class Evaluation(Settings):
    """How a checkpoint is evaluated, on every image of the validation set.

    Attributes:
        image_size: short side of the crop in pixels, apart from any training size.
        data_dir, prefix: the records.
        batch_size: images at once, on each worker; the figures do not depend on it.
        rectangular: crop to a rectangle near the image's own aspect, in batches of like
            aspect, instead of to the central square.
        flip: average the logits of each image and of its mirror image.
        ema: use the average of the weights, which a run keeps where its recipe has `ema`.
    """

    image_size: Count = 288
    data_dir: str = "320"
    prefix: str = "validation"
    batch_size: Count = 128
    rectangular: bool = False
    flip: bool = False
    ema: bool = False

    @property
    def crop(self) -> str:
        """The choices in a word: `centre` (the default), `rectangular`, `centre+flip+ema`."""
        names = ["rectangular" if self.rectangular else "centre"]
        return "+".join(names + [name for name in ("flip", "ema") if getattr(self, name)])
