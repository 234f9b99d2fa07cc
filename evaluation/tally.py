"""What evaluation counts, in whole numbers. No TensorFlow."""

from dataclasses import astuple, dataclass
from typing import Any, ClassVar

# Losses are added as whole multiples of this: float32's step at 1 to 2. Whole numbers have
# one sum in whatever order and shares they are added; floats have not.
LOSS_UNIT = 2.0**-23


@dataclass(frozen=True)
class Tally:
    """What was counted over some images; tallies of disjoint images add up.

    Attributes:
        images: how many.
        top1, top5: how many have their label first, or among the first five.
        loss: sum of their cross-entropies, in units of `LOSS_UNIT`.
        not_finite: how many have a logit that is no finite number. They count as wrong.
    """

    FIELDS: ClassVar[int] = 5

    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: int = 0
    not_finite: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, Any]:
        """`top1` and `top5` as fractions, `loss` (mean cross-entropy) and `images`."""
        loss = self.loss * LOSS_UNIT / self.images if not self.not_finite else float("nan")
        return {
            "top1": self.top1 / self.images,
            "top5": self.top5 / self.images,
            "loss": loss,
            "images": self.images,
        }
