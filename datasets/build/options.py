"""What a user decides about a build."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import DataError
from datasets.build.processes import available


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build, as on the command line. Wrong values raise a `DataError`."""

    source: str | Path  # folder of the set; its validation part may be missing
    output: str | Path
    sizes: Sequence[int]  # short sides in pixels; none: all sizes of a set that is resized already
    shards: int | None = None  # files of a split; None: see `shard_counts`
    validation_shards: int | None = None
    quality: int = 90  # of the JPEGs
    seed: int = 0  # of the order of the images
    processes: int = field(default_factory=available)  # 1 starts none
    layout: str | None = None  # one of `LAYOUTS`; None: what the set looks like
    class_names: str | Path | None = None  # lines of `<class><tab>words`; None: the set's own
    bboxes: Sequence[str | Path] = ()  # folders and archives of annotation XML, beside the set's
    enlarge: bool = False
    max_rejected: float = 0.001  # the build fails with a larger fraction of unreadable images
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if (self.sizes and min(self.sizes) < 1) or len(set(self.sizes)) < len(self.sizes):
            sizes = ",".join(map(str, self.sizes))
            raise DataError(f"--sizes: received {sizes}; give different sides, like 160,320")
        if not 1 <= self.quality <= 100:
            raise DataError(f"--quality: received {self.quality}; give a number from 1 to 100")
        if self.processes < 1:
            raise DataError(f"--processes: received {self.processes}; give 1 or more")
        if not 0 <= self.max_rejected <= 1:
            raise DataError(f"--max_rejected: received {self.max_rejected}; give 0 to 1")
