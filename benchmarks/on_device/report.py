"""What the measured rows say: a table, the best setting, rates for `plan --throughput`."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.on_device.plan import CUT, MEMORY, MODES, Cell, Plan, Results, to_do
from core.errors import UserError
from reports.console import time_words
from reports.plan import project
from reports.throughput import Throughput
from training.recipes import load_recipe, presets

GB = 1e9
SOFTWARE = ("tensorflow", "keras", "horovod")
ODD_LOSS = 0.02  # share by which losses of the same weights and batch may differ between settings
NOTES = {
    MEMORY: "did not fit into memory",
    CUT: "cut off: the time was over",
}


def bandwidth(size: float, seconds: float, workers: int) -> float:
    """Bytes a second from a worker to the next, of a ring: 2 (n - 1) / n of the bytes are sent."""
    return 2 * (workers - 1) / workers * size / seconds


def size_words(size: float) -> str:
    """Bytes as people say them, such as 4 KiB or 97.5 MiB."""
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.3g} KiB"


def words_of(cell: Cell, found: Mapping[str, Any], workers: int) -> tuple[str, str]:
    """The result of a cell, and what else was found, for a line."""
    if cell.what == "check":
        return "right", f"{workers} workers add up known values"
    if cell.what == "step":
        memory = f", {found['gib']:.1f} GiB" if "gib" in found else ""
        first = time_words(found["first"])
        return (
            f"{found['images_per_second']:,.0f} images/s",
            f"{1000 * found['step']:.1f} ms{memory}; the first step takes {first} more",
        )
    if cell.what == "input":
        cores = f"on {found['cores']} cores" + ", of made photographs" * found["made"]
        return f"{found['images_per_second']:,.0f} images/s", cores
    if cell.what == "loop":
        more = f"all callbacks of a run, with a report every {found['report_every']} steps"
        return f"{found['added']:.2f} ms a step", more
    speed = bandwidth(found["gradient_bytes"], found["gradients"], workers) / GB
    return (
        f"{1000 * found['gradients']:.2f} ms",
        f"the gradients, {size_words(found['gradient_bytes'])}, {speed:.3g} GB/s; sent as float16 "
        f"{1000 * found['gradients_fp16']:.2f} ms",
    )


def table(results: Results) -> Table:
    """All rows: those of the best setting first, then the others; then what failed."""
    best = results.best
    found = Table("what", "px", "batch", "result", "more")

    def add(cell: Cell, result: str, more: str) -> None:
        name = ", ".join(filter(None, (cell.what, *cell.setting)))
        cells = name, str(cell.size or ""), str(cell.batch or ""), result, more
        found.add_row(*map(Text, cells))  # an error may hold what looks like markup

    ended = [row for row in results.rows if row["row"] == "done"]
    # From the check to the loop, then the steps by setting, size and batch.
    rows = sorted(
        ((Cell(**row["cell"]), row) for row in ended),
        key=lambda pair: (
            pair[0].what == "step",
            pair[0].setting != best,
            *pair[0].setting,
            *((pair[0].size, pair[0].batch) if pair[0].what == "step" else ()),
        ),
    )
    for cell, row in rows:
        alone = ", by one worker" * (row["workers"] != results.plan.workers)
        result, more = words_of(cell, row["found"], row["workers"])
        if cell.what == "input" and (note := needed(results, cell)):
            more = f"{more}; {note}"
        if is_odd(results, cell):
            more += f"; THE LOSS IS {row['found']['loss']:.3f}, other settings have another"
        add(cell, result, more + alone)
        if cell.what == "all_reduce":
            for size, seconds in row["found"]["sizes"]:
                speed = bandwidth(size, seconds, row["workers"]) / GB
                more = f"{size_words(size)}, {speed:.3g} GB/s"
                add(Cell("all_reduce"), f"{1000 * seconds:.2f} ms", more)
    failed = [row for row in results.rows if row["row"] == "failed"]
    first = {(Cell(**row["cell"]), row["workers"]): row for row in reversed(failed)}
    for (cell, _), row in reversed(first.items()):
        add(cell, NOTES.get(row["reason"], "FAILED"), row["text"])
    return found


def needed(results: Results, cell: Cell) -> str:
    """How many cores the input pipeline needs for the fastest step of its size."""
    found = results.done.get(cell)
    rates = [f["images_per_second"] for c, f in results.steps().items() if c.size == cell.size]
    if not (found and rates):
        return ""
    cores = max(rates) * found["cores"] / found["images_per_second"]
    return f"the fastest step, {max(rates):,.0f} images/s, needs {cores:.1f} such cores"


def is_odd(results: Results, cell: Cell) -> bool:
    """Whether a step's loss is not the median of the losses with the same size and batch.

    All begin with the same weights and have the same batch. So the loss may differ by the
    rounding of the policy, and no more.
    """
    same = [
        found["loss"]
        for other, found in results.steps().items()
        if (other.size, other.batch) == (cell.size, cell.batch)
    ]
    if cell not in results.steps() or len(same) < 3:
        return False
    middle = statistics.median(same)
    return abs(results.done[cell]["loss"] - middle) > ODD_LOSS * abs(middle)


def best_words(results: Results) -> str:
    """The best setting in a sentence, as keys of a recipe."""
    rates = results.compared()
    if not rates:
        return "no step could be measured, so no setting is the best"
    best, plan = results.best, results.plan
    keys = {"policy": best.policy, **MODES[best.mode]}
    text = ", ".join(f"{key}: {str(value).lower()}" for key, value in keys.items())
    size = f"{rates[best]:,.0f} images/s at {plan.sizes[0]} px"
    against = [
        f"{rates[best] / rate:.2f} times that of {setting.policy}, {setting.mode}"
        for setting, rate in rates.items()
        if setting != best
    ]
    return "; ".join([f"best: {text}: {size}", *against])


def left_out(plan: Plan, results: Results) -> Iterator[str]:
    """What there was no time for, in a line each for steps and the rest."""
    cells = to_do(plan, results)
    if cells:
        named = "; ".join(cell.words for cell in cells[:4])
        more = f"; and {len(cells) - 4} more" if len(cells) > 4 else ""
        yield f"no time was left for: {named}{more}. A longer --minutes measures them, too."


def rates(results: Results, hardware: str, versions: Mapping[str, str]) -> dict[str, Any] | None:
    """The rates of the best setting, for `plan --throughput`; None where there are none."""
    steps = results.steps(results.best)
    if not steps:
        return None
    best, team = results.best, results.team
    software = ", ".join(f"{name} {versions[name]}" for name in SOFTWARE if name in versions)
    found: dict[str, Any] = {
        "hardware": hardware,
        "source": f"benchmarks/device.py, {best.policy}, {best.mode}; a batch that lies ready, no "
        f"input pipeline; {software}",
        "model": results.plan.model,
        "workers": team,
        "rates": [
            {
                "image_size": cell.size,
                "batch_size": cell.batch,
                "images_per_second": round(steps[cell]["images_per_second"], 1),
            }
            for cell in sorted(steps, key=lambda cell: (cell.size, cell.batch))
        ],
        "tracing_seconds": round(statistics.mean(f["first"] for f in steps.values()), 2),
        "checkpoint_seconds": round(max(f["checkpoint"] for f in steps.values()), 3),
    }
    starts = [row["seconds"] for row in results.rows if row["row"] == "ready"]
    found["start_up_seconds"] = round(max(starts, default=0.0), 2)
    if reduced := results.done.get(Cell("all_reduce")):
        size = reduced["gradient_bytes"]
        speed = bandwidth(size, reduced["gradients"], team)
        found["all_reduce"] = {
            "bytes": size,
            "workers_per_host": team,
            "host_bandwidth": round(speed),
        }
    return found


def projections(found: Mapping[str, Any], price: float | None) -> Table:
    """Time and cost of each preset of the measured model, on as many workers as measured."""
    throughput = Throughput.model_validate(found)
    rows = Table("preset", "images, millions", "projected", "cost" if price else "rates")
    for name in presets():
        recipe = load_recipe(name)
        if recipe.model != throughput.model:
            continue
        schedule = recipe.schedule(throughput.workers)
        images = f"{schedule.images_between(0, schedule.total_steps) / 1e6:.1f}"
        try:
            projected = project(recipe, schedule, throughput, price)
        except UserError as error:
            rows.add_row(name, images, "-", Text(str(error)))
            continue
        guess = "~" * projected["extrapolated"]
        known = "extrapolated in part" if guess else "measured or interpolated"
        cost = f"{projected['cost']:.2f}" if price else known
        time = time_words(projected["totals"]["dawnbench"])
        rows.add_row(name, images, f"{guess}{time}", cost)
    return rows
