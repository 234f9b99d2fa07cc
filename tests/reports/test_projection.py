"""`plan --throughput`: against the original's published times, and by hand."""

import json

import numpy as np
import pytest

from core.errors import UserError
from core.schedule import Schedule
from launch import commands
from reports.plan import project
from reports.reader import read_record
from reports.throughput import Throughput, load_throughput, throughput_of_run
from training.recipes import load_recipe

FOUR_RATES = [(128, 740, 14200), (224, 256, 4800), (224, 196, 4140), (288, 128, 2645)]


def table(**more):
    keys = ("image_size", "batch_size", "images_per_second")
    rates = [dict(zip(keys, rate, strict=True)) for rate in FOUR_RATES]
    return Throughput.model_validate({"workers": 8, "rates": rates, **more})


def test_the_originals_rates_give_its_time_within_2_percent(run_command, root):
    rates = root / "benchmarks" / "rates" / "v100x8.yaml"
    options = ("--price", 24.48, "--at", "15000", "--json", "--throughput", rates)
    ran = run_command("plan", "--recipe", "imagenet104", *options)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["projection"]
    assert found["totals"]["dawnbench"] == pytest.approx(8109, rel=0.02)
    assert found["at"][0]["seconds"] == pytest.approx(6273, rel=0.02)
    assert found["cost"] == pytest.approx(found["totals"]["everything"] / 3600 * 24.48)


def test_the_four_rates_alone_do_too_and_add_up_by_hand():
    recipe = load_recipe("imagenet104")
    found = project(recipe, recipe.schedule(8), table(), at=[15000])
    images = [1296 * 5920, 3240 * 5920, 6875 * 2048, 3268 * 1568, 5004 * 1024]
    rates = [14200, 14200, 4800, 4140, 2645]
    steps = [count / rate for count, rate in zip(images, rates, strict=True)]
    assert [p["seconds"]["steps"] for p in found["phases"]] == pytest.approx(steps)
    assert found["totals"]["everything"] == pytest.approx(7999.4, abs=0.1)
    assert found["totals"]["everything"] == pytest.approx(8109, rel=0.02)
    # To step 15000: the first four, and 321 steps of the fifth.
    assert found["at"][0]["seconds"] == pytest.approx(sum(steps[:4]) + 321 * 1024 / 2645)
    assert found["at"][0]["seconds"] == pytest.approx(6273, rel=0.02)


# Seconds in all, as published, and the rates of the machine and software on which they ran.
@pytest.mark.parametrize(
    ("preset", "rates", "published"),
    [
        ("imagenet104", "v100x8", 8109),
        ("alibaba21", "v100x8_xla", 21.6 * 60),
        ("ffcv16", "a100x8_ffcv", 14.9 * 60),
        ("ffcv32", "a100x8_ffcv", 28.8 * 60),
        # Circular: the level of these rates is fitted to this time.
        ("fastai35", "v100x8_fastai", 109.2 * 60),
    ],
)
def test_a_preset_takes_its_published_time_on_its_own_machine(root, preset, rates, published):
    recipe = load_recipe(preset)
    throughput = load_throughput(root / "benchmarks" / "rates" / f"{rates}.yaml")
    totals = project(recipe, recipe.schedule(8), throughput)["totals"]
    assert totals["dawnbench"] == pytest.approx(published, rel=0.05)
    assert totals["everything"] == pytest.approx(published, rel=0.05)


def test_mosaics_recipe_scaled_as_published_takes_its_published_time(root):
    """23.8 minutes: a schedule of 28.8 epochs, 0.8 of the preset's, of which 27 were run."""
    recipe = load_recipe("mosaic36")
    phases = [phase.model_dump() for phase in recipe.training_strategy.root]
    for phase in phases:
        phase["epoch"] = [0.8 * epoch for epoch in phase["epoch"]]
    schedule = Schedule(phases, 8, recipe.images)
    rates = load_throughput(root / "benchmarks" / "rates" / "a100x8_composer.yaml")
    (there,) = project(recipe, schedule, rates, at=[27 * 625])["at"]
    assert there["seconds"] == pytest.approx(23.8 * 60, rel=0.05)


def test_the_rates_are_those_of_the_published_curves(root):
    """Epochs of whole batches over their seconds; FFCV's files have 3.5 s of evaluation less."""
    published = root / "benchmarks" / "published"

    def epochs(name):
        record = read_record(published / f"{name}.tsv")
        return np.diff([0.0, *(c.seconds["dawnbench"] for c in record.checkpoints)])

    def rates(name):
        found = load_throughput(root / "benchmarks" / "rates" / f"{name}.yaml")
        return {r.image_size: r.images_per_second for r in found.rates}

    seconds, alibaba = epochs("alibaba_v100x8"), rates("v100x8_xla")
    for size, part in {96: seconds[:12], 128: seconds[12:18], 224: seconds[18:20]}.items():
        assert alibaba[size] == pytest.approx(625 * 2048 / part.mean(), rel=1e-3)
    assert alibaba[288] == pytest.approx(1251 * 1024 / seconds[20], rel=1e-3)
    seconds, ffcv = epochs("ffcv88_a100x8"), rates("a100x8_ffcv")
    for size, part in {160: seconds[1:71], 192: seconds[72:]}.items():
        assert ffcv[size] == pytest.approx(312 * 4096 / (np.median(part) + 3.51), rel=1e-3)
    seconds, fastai = epochs("fastai_v100x8"), rates("v100x8_fastai")
    for size, part in {128: seconds[:18], 224: seconds[18:41], 288: seconds[41:]}.items():
        assert fastai[size] == pytest.approx(1281167 / part.mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("rates", "batch", "measured"),
    [
        ("h100x8_mlperf", 400, {224}),
        ("a100x8_ffcv", 512, {160, 192}),
        ("a100x8_composer", 256, "all"),
    ],
)
def test_only_what_was_measured_there_is_called_measured(root, rates, batch, measured):
    throughput = load_throughput(root / "benchmarks" / "rates" / f"{rates}.yaml")
    for rate in throughput.rates:
        how = throughput.seconds_per_image(rate.image_size**2, batch)[1]
        expected = measured == "all" or rate.image_size in measured
        assert (how == "measured") is expected, rate


def test_the_terms_by_hand():
    """Four stages; checkpoints at 0, 625, ..., 19375 and at the end: 33 of them."""
    recipe = load_recipe("imagenet104")
    plain = project(recipe, recipe.schedule(8), table(), at=[0, 1250])
    costly = table(start_up_seconds=100, tracing_seconds=10, checkpoint_seconds=1)
    found = project(recipe, recipe.schedule(8), costly, price=36, at=[0, 1250])
    assert [p["seconds"]["tracing"] for p in found["phases"]] == [10, 0, 10, 10, 10]
    # Of the first phase: at 0, 625 and 1250; of the last: 15000 to 19375, and 19683.
    assert [p["seconds"]["checkpoints"] for p in found["phases"]] == [3, 5, 11, 5, 9]
    more = {name: found["totals"][name] - plain["totals"][name] for name in found["totals"]}
    assert more == pytest.approx({"training": 0, "dawnbench": 140, "everything": 173})
    assert found["phases"][-1]["until"] == pytest.approx(found["totals"]["everything"])
    # When the checkpoint of that step is written; of step 0, before anything is traced.
    assert found["at"][0]["seconds"] == pytest.approx(100 + 1)
    assert found["at"][1]["seconds"] == pytest.approx(plain["at"][1]["seconds"] + 113)
    assert found["at"][0]["cost"] == pytest.approx(1.01)


def test_what_a_stage_needs_before_its_first_step_is_not_in_the_time_to_its_boundary():
    """The second stage begins at step 4536, where a checkpoint is written, too."""
    recipe = load_recipe("imagenet104").model_copy(update={"checkpoint_every": 648})
    plain = project(recipe, recipe.schedule(8), table(), at=[1296, 4536, 4537, 19683])
    found = project(
        recipe,
        recipe.schedule(8),
        table(start_up_seconds=100, tracing_seconds=10, checkpoint_seconds=1),
        at=[1296, 4536, 4537, 19683],
    )
    more = [b["seconds"] - a["seconds"] for a, b in zip(plain["at"], found["at"], strict=True)]
    # Step 1296 begins a phase in the middle of a stage. Checkpoints at 0, 648, 1296; at those
    # and 1944, ..., 4536; then 19440 // 648 + 1 = 31 of them, and the end's.
    assert more == pytest.approx([100 + 10 + 3, 100 + 10 + 8, 100 + 20 + 8, 100 + 40 + 32])
    assert found["at"][-1]["seconds"] == pytest.approx(found["totals"]["everything"])


def test_rates_come_from_a_run(root, run_command):
    path = root / "benchmarks" / "published" / "gehc_resnet50.tsv"
    found = throughput_of_run(read_record(path))
    # The original's four, as its curve has them between checkpoints; the last phase with
    # the end of the run.
    for rate, (size, batch, images_per_second) in zip(found.rates, FOUR_RATES, strict=True):
        assert (rate.image_size, rate.batch_size) == (size, batch)
        assert rate.images_per_second == pytest.approx(images_per_second, rel=0.015)
    ran = run_command("plan", "--recipe", "imagenet104", "--from_run", path)
    assert ran.returncode == 0, ran.stderr
    assert "A projection, not a run: 8 worker(s), rates of gehc_resnet50" in ran.stdout


def test_rates_of_another_model_are_refused(root):
    recipe = load_recipe("demo")
    rates = load_throughput(root / "benchmarks" / "rates" / "v100x8.yaml")
    with pytest.raises(UserError, match="are of resnet50; they say nothing of resnet8"):
        project(recipe, recipe.schedule(2), rates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price", "1"], "--price needs rates"),
        (["--throughput", "a", "--from_run", "b"], "give one of them, not both"),
        (["--throughput", "none.yaml"], "none.yaml: no such file"),
        (["--from_run", "none"], "none: no such file or folder"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        commands.plan.main(["--recipe", "imagenet104", *arguments], standalone_mode=False)
