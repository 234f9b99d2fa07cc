"""benchmarks/throughput.py as a user runs it: what it writes is what `plan` reads."""

import json
import runpy
import sys

import pytest

from core import devices
from reports.throughput import load_throughput


def test_measured_rates_are_projected_from(run_process, run_command, tmp_path):
    path = tmp_path / "rates.yaml"
    command = ["benchmarks/throughput.py", "--recipe", "demo", "--output", path]
    ran = run_process(*command, "--steps", 2, "--repeats", 1)
    assert ran.returncode == 0, ran.stderr
    found = load_throughput(path)
    assert (found.model, found.workers) == ("resnet8", 1)
    assert [(r.image_size, r.batch_size) for r in found.rates] == [(20, 50), (28, 40)]
    for rate in found.rates:
        assert f"{rate.image_size} px, batch {rate.batch_size}: " in ran.stdout
    # A trace takes far longer than a step, and a checkpoint is written in between.
    assert found.tracing_seconds > 0.3
    assert 0 < found.checkpoint_seconds < found.start_up_seconds

    ran = run_command("plan", "--recipe", "demo", "--workers", 1, "--throughput", path, "--json")
    assert ran.returncode == 0, ran.stderr
    phases = json.loads(ran.stdout)["projection"]["phases"]
    # 2 epochs of 80 steps of 50 images.
    assert phases[0]["seconds"]["steps"] == pytest.approx(
        160 * 50 / found.rates[0].images_per_second
    )


def test_an_unknown_recipe_is_one_line(monkeypatch, root, tmp_path):
    """In this process, since its imports take longer; before it touches the devices."""
    line = ["throughput.py", "--recipe", "nope", "--output", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setattr(devices, "prepare_devices", lambda team: pytest.fail("too early"))
    with pytest.raises(SystemExit, match=r"throughput.py: error: recipe 'nope'"):
        runpy.run_path(str(root / "benchmarks" / "throughput.py"), run_name="__main__")
