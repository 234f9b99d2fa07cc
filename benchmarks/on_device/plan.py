"""What `device.py` measures and in which order: the most useful first. Imports no TensorFlow.

A cell is one measurement. Which cell comes next follows from the rows of those that have ended
and from the time that is left. So workers that start after a fault go on where others stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

# How a step is computed: the keys of the recipe. `fused` and `plain` are without XLA.
MODES: dict[str, dict[str, Any]] = {
    "fused": {"xla": False, "batch_norm": "fused"},
    "xla": {"xla": True, "batch_norm": "keras"},
    "plain": {"xla": False, "batch_norm": "keras"},
    "xla, fused": {"xla": True, "batch_norm": "fused"},
}
SMALLEST_BATCH = 8

# Seconds of a cell of which none has been measured yet, and of the start of the workers.
# Assumed, not measured; XLA compiles ResNet-50 anew for each size and batch.
GUESSES = {"check": 15.0, "all_reduce": 30.0, "input": 20.0, "loop": 30.0, "step": 40.0}
GUESS_XLA, GUESS_START = 120.0, 45.0
MARGIN = 1.2  # a cell may take so much longer than the longest of its kind

# Why a cell failed. What did not fit into memory is tried with half the batch.
MEMORY, ERROR, ENDED, HUNG, CUT = "memory", "error", "ended", "hung", "cut"


class Setting(NamedTuple):
    """How a model is trained: the dtype policy, and one of `MODES`."""

    policy: str
    mode: str


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        what: "check" and "all_reduce" of the workers, a training "step", the "input" pipeline, or
            the "loop", which is what our callbacks cost.
        size, batch: of the images in pixels, and of a worker; 0 where they do not matter.
    """

    what: str
    size: int = 0
    batch: int = 0
    policy: str = ""
    mode: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(self.policy, self.mode)

    @property
    def words(self) -> str:
        """Such as `step, 224 px, batch 256, mixed_float16, fused`."""
        size, batch = f"{self.size} px", f"batch {self.batch}"
        kept = [self.what, size * bool(self.size), batch * bool(self.batch), *self.setting]
        return ", ".join(filter(None, kept))


@dataclass(frozen=True)
class Plan:
    """What there is to measure on a machine. The defaults are those of a machine with GPUs."""

    workers: int = 1
    model: str = "resnet50"
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    # The first ones of each are measured first, and settings are compared at the first size.
    sizes: Sequence[int] = (224, 96, 288, 128, 160)
    policies: Sequence[str] = ("mixed_float16", "mixed_bfloat16")
    modes: Sequence[str] = ("fused", "xla", "plain")
    late_modes: Sequence[str] = ("xla, fused",)
    batch: int = 256
    largest_batch: int = 8192
    whole_grid: bool = True  # once the best setting is known, all the others, too
    input_sizes: Sequence[int] = (128, 224, 96)
    photographs: int = 96  # that are made for the input pipeline
    largest_message: int = 1 << 28  # bytes of an all-reduce
    seconds: float = 1.0  # of each timing
    loop_blocks: tuple[int, int] = (8, 100)  # pairs of blocks; steps of one, with one report
    needs_gpu: bool = True

    @property
    def first(self) -> Setting:
        return Setting(self.policies[0], self.modes[0])


# On a machine without a GPU: the same way, in a minute. Its figures say nothing of a GPU.
MINIATURE = Plan(
    model="resnet8",
    model_arguments={"widths": [16, 16, 16]},
    sizes=(16,),
    policies=("float32", "mixed_bfloat16"),
    modes=("fused", "xla"),
    late_modes=(),
    batch=8,
    largest_batch=8,
    whole_grid=False,
    input_sizes=(96,),
    photographs=8,
    largest_message=1 << 16,
    seconds=0.02,
    loop_blocks=(2, 5),
    needs_gpu=False,
)


class Results:
    """The rows so far, as they are needed to go on and to report.

    Attributes:
        team: number of workers with which measuring goes on. It is 1 instead of the plan's number
            once the workers cannot compute together.
        done: what was found, by cell, with that number of workers.
        failed: the rows of those that failed, likewise.
    """

    def __init__(self, plan: Plan, rows: Sequence[Mapping[str, Any]]):
        self.plan = plan
        self.rows = rows
        ended = [row for row in rows if row["row"] in ("done", "failed")]
        self.team = 1 if _cannot_work_together(ended, plan.workers) else plan.workers
        own = [(Cell(**row["cell"]), row) for row in ended if row["workers"] == self.team]
        self.done = {cell: row["found"] for cell, row in own if row["row"] == "done"}
        self.failed: dict[Cell, Mapping[str, Any]] = {}
        for cell, row in own:
            # Of a cell that failed on several workers, the first counts, or one for memory.
            if row["row"] == "failed" and (cell not in self.failed or row["reason"] == MEMORY):
                self.failed[cell] = row
        self._seconds: dict[tuple[str, str], float] = {}
        for cell, row in own:
            if row["row"] == "done":
                key = cell.what, cell.mode
                self._seconds[key] = max(row["seconds"], self._seconds.get(key, 0.0))

    def cost(self, cell: Cell) -> float:
        """Seconds that a cell may take: what the longest of its kind took, or a guess."""
        if known := self._seconds.get((cell.what, cell.mode)):
            return MARGIN * known
        return GUESS_XLA if "xla" in cell.mode else GUESSES[cell.what]

    @property
    def start(self) -> float:
        """Seconds that the workers may take to start."""
        known = [row["seconds"] for row in self.rows if row["row"] == "ready"]
        return MARGIN * max(known) if known else GUESS_START

    def is_too_large(self, cell: Cell) -> bool:
        """Whether a step of this setting with no more pixels did not fit into memory."""
        return any(
            row["reason"] == MEMORY
            and (other.what, other.setting) == (cell.what, cell.setting)
            and other.size**2 * other.batch <= cell.size**2 * cell.batch
            for other, row in self.failed.items()
        )

    def is_hopeless(self, cell: Cell) -> bool:
        """Whether a cell failed or will fail: it is too large, or its setting failed twice."""
        if cell in self.failed or self.is_too_large(cell):
            return True
        failures = [c for c in self.failed if c.setting == cell.setting and _is_a_fault(self, c)]
        works = any(c.setting == cell.setting for c in self.done)
        return cell.what == "step" and len(failures) >= 2 and not works

    def step(self, setting: Setting, size: int) -> Cell:
        """A step with the plan's batch, or the half, a quarter, ... of it that fits into memory."""
        cell = Cell("step", size, self.plan.batch, *setting)
        while self.is_too_large(cell) and cell.batch >= 2 * SMALLEST_BATCH:
            cell = replace(cell, batch=cell.batch // 2)
        return cell

    def doubled(self, setting: Setting, size: int) -> Iterator[Cell]:
        """Steps with twice the batch, again and again: up to the first one that is not done."""
        cell = self.step(setting, size)
        while cell in self.done and 2 * cell.batch <= self.plan.largest_batch:
            cell = replace(cell, batch=2 * cell.batch)
            yield cell

    def steps(self, setting: Setting | None = None) -> dict[Cell, Any]:
        """The steps that are done; those of one setting, where it is given."""
        return {
            cell: found
            for cell, found in self.done.items()
            if cell.what == "step" and setting in (None, cell.setting)
        }

    def compared(self) -> dict[Setting, float]:
        """Images a second of each setting at the first size, with the plan's batch at most."""
        rates: dict[Setting, float] = {}
        for cell, found in self.steps().items():
            if cell.size == self.plan.sizes[0] and cell.batch <= self.plan.batch:
                best = max(found["images_per_second"], rates.get(cell.setting, 0.0))
                rates[cell.setting] = best
        return rates

    @property
    def best(self) -> Setting:
        """The fastest setting so far; the plan's first one where none is known."""
        rates = self.compared()
        return max(rates, key=rates.__getitem__) if rates else self.plan.first


def _is_a_fault(results: Results, cell: Cell) -> bool:
    return results.failed[cell]["reason"] not in (MEMORY, CUT)


def _cannot_work_together(ended: Sequence[Mapping[str, Any]], workers: int) -> bool:
    """Whether the check failed, or the first two steps did for another reason than memory."""
    together = [row for row in ended if row["workers"] == workers > 1]
    faults = {
        Cell(**row["cell"])
        for row in together
        if row["row"] == "failed" and row["reason"] not in (MEMORY, CUT)
    }
    steps = [cell for cell in faults if cell.what == "step"]
    works = any(row["row"] == "done" and row["cell"]["what"] == "step" for row in together)
    return Cell("check") in faults or (len(steps) >= 2 and not works)


def wanted(plan: Plan, results: Results) -> Iterator[Cell]:
    """All cells, those that are worth most first; the done and the hopeless ones are among them.

    1. Whether the workers add up rightly, and how fast.
    2. A whole set of rates, with the setting that needs no compilation by XLA.
    3. Whether the input keeps up, and what the loop costs.
    4. The other modes, and the other policy with the fastest of them, at one size.
    5. The fastest setting at all sizes, then with larger batches until memory is full.
    6. The rest.
    """
    if results.team > 1:
        yield Cell("check")
        yield Cell("all_reduce")
    for size in plan.sizes:
        yield results.step(plan.first, size)
    for size in plan.input_sizes:
        yield Cell("input", size, plan.batch)
    yield Cell("loop")
    for mode in plan.modes[1:]:
        yield results.step(Setting(plan.policies[0], mode), plan.sizes[0])
    for policy in plan.policies[1:]:
        yield results.step(Setting(policy, results.best.mode), plan.sizes[0])
    for size in plan.sizes:
        yield results.step(results.best, size)
    for mode in plan.late_modes:
        yield results.step(Setting(plan.policies[0], mode), plan.sizes[0])
    for size in plan.sizes[:2]:
        yield from results.doubled(results.best, size)
    if plan.whole_grid:
        grid = [Setting(p, m) for p in plan.policies for m in (*plan.modes, *plan.late_modes)]
        for size in plan.sizes:
            yield from (results.step(setting, size) for setting in grid)
        for size in plan.sizes:
            for setting in (results.best, *grid):
                yield from results.doubled(setting, size)


def to_do(plan: Plan, results: Results) -> list[Cell]:
    """The cells that are neither done nor hopeless, as far as they are known by now."""
    cells = dict.fromkeys(wanted(plan, results))
    return [c for c in cells if c not in results.done and not results.is_hopeless(c)]


def next_cell(
    plan: Plan, rows: Sequence[Mapping[str, Any]], left: float, has_started: bool
) -> Cell | None:
    """The first cell for which there is time in the `left` seconds; None if there is none."""
    results = Results(plan, rows)
    left -= 0.0 if has_started else results.start
    return next((cell for cell in to_do(plan, results) if results.cost(cell) <= left), None)
