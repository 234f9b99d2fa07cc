"""The cores that the input of the presets needs: published rates over those of a core."""

import io
import math

import pytest
from rich.console import Console

from benchmarks.cores_needed import Demand, demands, fastest_phase, rate_of_a_core, table
from reports.throughput import load_throughput
from training.recipes import load_recipe


def test_the_fastest_phase_is_that_of_the_published_curve(root):
    """Alibaba's entry: 37.30 s for an epoch of 625 steps of 2,048 images at 96 px."""
    rates = load_throughput(root / "benchmarks" / "rates" / "v100x8_xla.yaml")
    found = fastest_phase(load_recipe("alibaba21"), rates)
    assert found.images_per_second == pytest.approx(625 * 2048 / 37.30, rel=1e-3)
    assert found[1:] == ((160, 96), True)
    # The original's: 14,200 at 128 px, where its rates were measured.
    rates = load_throughput(root / "benchmarks" / "rates" / "v100x8.yaml")
    original = fastest_phase(load_recipe("imagenet104"), rates)
    assert original == Demand(pytest.approx(14200), (160, 128), True)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((160, 96), 5000),
        ((160, 88), 5000),  # the next larger one costs more
        ((160, 100), 4000),
        ((320, 160), 1500),
        ((160, 160), math.nan),
        ((256, 96), math.nan),
    ],
)
def test_a_size_that_was_not_measured_counts_as_the_next_larger(case, expected):
    measured = {(160, 128): 4000.0, (160, 96): 5000.0, (320, 224): 1500.0}
    assert rate_of_a_core(case, measured) == pytest.approx(expected, nan_ok=True)


def test_the_table_divides_and_says_what_is_not_measured():
    """NVIDIA's 208,400 images/s at 96 px are taken over from other hardware: a ~."""
    console = Console(width=200, file=io.StringIO())
    console.print(table({(160, 96): 5000.0, (160, 128): 4000.0}))
    rows = {line.split()[1]: line for line in console.file.getvalue().splitlines() if "px" in line}
    assert rows.keys() == {name for name, _ in demands()}
    cells = [cell.strip() for cell in rows["alibaba21"].strip("│ ").split("│")]
    assert cells[1:3] == ["160 to 96 px", "34,315"]
    assert cells[3] == "7"  # 34,315 / 5,000
    assert cells[-2:] == ["~208,400", "42"]
    assert "not measured" in rows["ffcv16"]  # from 320 px
