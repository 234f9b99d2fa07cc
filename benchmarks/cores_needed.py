"""How many cores the input of the presets needs on published hardware, from rates measured here.

`input_pipeline.py` prints the table. What a machine's model asks for is the projection of
docs/projections.md: published rates of others, in benchmarks/rates. What a core delivers is
measured. The cores are the quotient: it assumes that twice the cores deliver twice the images, that
they are like those measured, and that nothing else runs on them.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from benchmarks.project_presets import FASTEST
from reports.plan import project
from reports.throughput import EXTRAPOLATED, Throughput, load_throughput
from training.recipes import Recipe, load_recipe, presets

RATES = Path(__file__).resolve().parent / "rates"
WORKERS = 8

Case = tuple[int, int]  # short side of the images in the records, side of a training image; pixels


class Demand(NamedTuple):
    """What the phase with the most images a second asks of the input."""

    images_per_second: float  # of all workers
    case: Case
    measured: bool  # whether the model's rate was


def fastest_phase(recipe: Recipe, rates: Throughput) -> Demand:
    """The phase of a recipe that asks for the most images a second, at these rates."""
    schedule = recipe.schedule(WORKERS)
    projected = project(recipe, schedule, rates)["phases"]
    found = []
    for phase, scheduled in zip(projected, schedule.phases, strict=True):
        case = int(scheduled.phase.data_dir), max(phase["image_size"])
        found.append(Demand(phase["images_per_second"], case, phase["how"] != EXTRAPOLATED))
    return max(found, key=lambda demand: demand.images_per_second)


def rate_of_a_core(case: Case, measured: Mapping[Case, float]) -> float:
    """Images a second that one core delivers.

    A size that was not measured counts as the next larger one of the same records, which costs
    more. Without a larger one it is not a number.
    """
    stored, size = case
    enough = [known for known in measured if known[0] == stored and known[1] >= size]
    return measured[min(enough)] if enough else math.nan


def demands() -> Iterator[tuple[str, list[Demand]]]:
    """Each preset of ImageNet, with its demand on each of the machines."""
    machines = [load_throughput(RATES / file) for file in FASTEST.values()]
    for name in presets():
        recipe = load_recipe(name)
        if recipe.model == "resnet50":
            yield name, [fastest_phase(recipe, rates) for rates in machines]


def table(measured: Mapping[Case, float]) -> Table:
    """The cores that each preset's fastest phase needs.

    Args:
        measured: images a second of one core, by short side and training size.
    """
    found = Table("preset", "its fastest phase")
    for machine in FASTEST:
        found.add_column(f"{machine}: images/s", justify="right")
        found.add_column("cores", justify="right")
    for name, wanted in demands():
        cells = []
        for rate, case, is_measured in wanted:
            cores = rate / rate_of_a_core(case, measured)
            cells.append(f"{'' if is_measured else '~'}{rate:,.0f}")
            cells.append("not measured" if math.isnan(cores) else f"{cores:.0f}")
        phases = dict.fromkeys(f"{stored} to {size} px" for _, (stored, size), _ in wanted)
        found.add_row(name, " or ".join(phases), *cells)
    return found
