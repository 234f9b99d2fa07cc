"""What a file returns beside what the Keras model returns. NumPy alone."""

from dataclasses import dataclass

import numpy as np

from deploy.formats import Format

# Runtimes add in other orders, which leaves some 1e-6 of a probability in float32. More than
# this is another model, even where the same class comes first.
MOST = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Probabilities of the same images by a file and by the Keras model."""

    images: int
    same_first: int  # images with the same class first
    largest: float  # difference between two probabilities

    def __str__(self) -> str:
        return (
            f"the same class first on {self.same_first} of {self.images} images, largest "
            f"difference {self.largest:.1e}"
        )

    @property
    def is_good(self) -> bool:
        return self.same_first == self.images and self.largest <= MOST  # not where it is NaN


def compare(expected: np.ndarray, found: np.ndarray) -> Comparison:
    """Compares two arrays of probabilities `[images, classes]`.

    Raises:
        ValueError: they have different shapes.
    """
    if found.shape != expected.shape:
        raise ValueError(f"it returns {list(found.shape)}, not {list(expected.shape)}")
    same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return Comparison(len(expected), same, float(np.abs(found - expected).max()))


@dataclass(frozen=True)
class Checked:
    """A format that was written and whose runtime agrees with the Keras model."""

    format: Format
    bytes: int  # of all its files
    comparison: Comparison

    def figures(self) -> dict[str, str | int | float]:
        """The row of the table, as JSON."""
        same = f"{self.comparison.same_first} of {self.comparison.images} images"
        return {
            "format": self.format.name,
            "file": ", ".join(self.format.files),
            "bytes": self.bytes,
            "largest": self.comparison.largest,
            "same": same,
        }
