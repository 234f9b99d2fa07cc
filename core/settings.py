"""Settings of the input pipelines, as they stand in a recipe. Imports no TensorFlow."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0, strict=True)]


class Settings(BaseModel):
    """A group of settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ColourJitter(Settings):
    """The original's optional colour augmentation; needs tensorflow-addons."""

    brightness: Fraction = 0.3  # largest change, as a fraction of 255
    saturation: Fraction = 0.6  # scaled by 1 - s to 1 + s
    hue: NotNegative = 0.13  # largest turn in YIQ, in units of pi
    contrast: Fraction = 0.6  # scaled by 1 - c to 1 + c


class Augmentation(Settings):
    """What happens to a training image between its JPEG and the batch."""

    # "random_resized" as for ImageNet; "pad": pad, then crop at random; or "none".
    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    # Smallest and largest share of the image, and width / height, of a random resized crop.
    area: tuple[Positive, Positive] = (0.08, 1.0)
    aspect: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    # Share of the image size that is padded on each side, and with what.
    padding: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    fill: Literal["reflect", "constant"] = "reflect"  # "constant" is black
    # Flip half of the images from left to right: drawn anew each time, or "alternating", which
    # flips each image in every other epoch.
    flip: Literal[True, False, "alternating"] = True
    # Decode at 1/2, 1/4 or 1/8 of the resolution where the crop is that many times as large as
    # the image asked for: faster, and less aliased.
    scaled_decode: bool = True
    # Decode as the evaluation does, not with libjpeg's fast and coarse settings. For images of
    # 64 pixels or less it costs next to nothing, and they are all detail.
    exact_decode: bool = False
    colour: ColourJitter | None = None


class Evaluation(Settings):
    """How a checkpoint is evaluated, on every image of the validation set."""

    image_size: Count = 288  # short side of the crop in pixels, apart from any training size
    data_dir: str = "320"
    prefix: str = "validation"
    batch_size: Count = 128  # images at once, on each worker; the figures do not depend on it
    # Crop to a rectangle near the image's own aspect, in batches of like aspect, instead of to
    # the central square.
    rectangular: bool = False
    flip: bool = False  # average the logits of each image and its mirror image
    # Average with two views of half the weight, shifted by so many pixels along the diagonal.
    shift: Annotated[int, Field(ge=0, strict=True)] = 0
    ema: bool = False  # use the average of the weights, which the recipe's `ema` keeps
    # Estimate BatchNorm's statistics anew, on so many training images of this size. They are
    # those of `data_dir`, with the last phase's prefix.
    statistics_images: Count | None = None

    @field_validator("shift")
    @classmethod
    def _a_shift_stays_inside_the_image(cls, shift: int, info: ValidationInfo) -> int:
        size = info.data.get("image_size", math.inf)
        if shift >= size:
            raise PydanticCustomError(
                "shift", "evaluation.shift must be below the image size, {size}", {"size": size}
            )
        return shift

    @property
    def crop(self) -> str:
        """The choices in a word: `centre` (the default), `rectangular+ema`, `centre+shift1`."""
        chosen = {
            "flip": self.flip,
            f"shift{self.shift}": self.shift,
            "ema": self.ema,
            f"statistics{self.statistics_images}": self.statistics_images,
        }
        names = ["rectangular" if self.rectangular else "centre"]
        return "+".join(names + [name for name, is_chosen in chosen.items() if is_chosen])
