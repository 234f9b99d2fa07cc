"""The presets of ImageNet, as others published them: sizes, rates, batches, and their work."""

import math

import pytest

from reports.plan import work
from training.recipes import load_recipe

# Epochs and pixels of each published schedule.
SIZES = {
    "alibaba21": [(12, 96), (6, 128), (2, 224), (1, 288)],
    "ffcv16": [(12, 160), (4, 192)],
    "ffcv32": [(25, 160), (7, 192)],
    "fastai35": [(14, 128), (18, 224), (3, 288)],
}


def at(preset, epoch):
    """The learning rate at an epoch."""
    schedule = load_recipe(preset).schedule(8)
    steps = [s for s in range(schedule.total_steps + 1) if schedule.epoch(s) <= epoch + 1e-9]
    return schedule.learning_rate(steps[-1])


@pytest.mark.parametrize("preset", SIZES)
def test_the_sizes_are_those_published(preset):
    phases = load_recipe(preset).training_strategy.root
    epochs = dict.fromkeys((size for _, size in SIZES[preset]), 0)
    for phase in phases:
        epochs[phase.image_size[0]] += phase.epoch[1] - phase.epoch[0]
    assert [(count, size) for size, count in epochs.items()] == SIZES[preset]


# As computed from the published schedules by hand, in epochs of 224 px; imagenet104 in all.
@pytest.mark.parametrize(
    ("preset", "expected"),
    [("alibaba21", 7.8), ("ffcv32", 17.9), ("mosaic36", 11.9), ("imagenet104", 28.5)],
)
def test_work_by_hand(preset, expected):
    assert work(load_recipe(preset).schedule(8)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("preset", "rates"),
    [
        # Up to 1.2 in 5 epochs, then linearly to 1e-4 at epoch 21: half of it at epoch 13.
        ("alibaba21", {0: 0, 5: 1.2, 13: 0.60005, 20: 0.0750938, 21: 1e-4}),
        # 1.7e-4 to 1.7 in 2 epochs, then linearly to 0: half of it at epochs 9 and 17.
        ("ffcv16", {0: 1.7e-4, 2: 1.7, 9: 0.85, 12: 1.7 * 4 / 14, 16: 0}),
        ("ffcv32", {0: 1.7e-4, 2: 1.7, 17: 0.85, 25: 1.7 * 7 / 30, 32: 0}),
        ("fastai35", {0: 1, 2.5: 1.5, 6: 1, 15: 0.4375, 20: 0.04375, 30: 0.004375, 34: 0.00025}),
        ("mosaic36", {0: 0, 4: 1.024, 8: 2.048, 36: 0}),
    ],
)
def test_the_rates_are_those_published(preset, rates):
    for epoch, rate in rates.items():
        assert at(preset, epoch) == pytest.approx(rate, rel=2e-3, abs=1e-6), epoch


@pytest.mark.parametrize(
    ("preset", "batches"),
    [
        ("alibaba21", {96: 2048, 128: 2048, 224: 2048, 288: 1024}),
        ("ffcv16", {160: 4096, 192: 4096}),
        ("mosaic36", {88: 2048, 132: 2048, 176: 2048}),
        ("fastai35", {128: 8 * 512, 224: 8 * 224, 288: 8 * 128}),
    ],
)
def test_the_global_batches_are_those_published(preset, batches):
    recipe = load_recipe(preset)
    found = {p.image_size[0]: 8 * p.batch_size for p in recipe.training_strategy.root}
    assert batches.items() <= found.items()
    assert recipe.workers == 8


def test_mosaics_images_grow_by_4_pixels_between_40_and_80_percent():
    """Composer rounds 88 + 88 t to a multiple of 4, for t from 0 at 40 % to 1 at 80 %."""
    schedule = load_recipe("mosaic36").schedule(8)
    for step in range(0, schedule.total_steps, 50):
        share = step / schedule.total_steps
        exact = 88 + 88 * min(max((share - 0.4) / 0.4, 0), 1)
        assert abs(schedule.phase_at(step).phase.image_size[0] - exact) <= 2.02


def test_mosaics_lines_stay_near_the_cosine():
    schedule = load_recipe("mosaic36").schedule(8)
    for step in range(5000, schedule.total_steps, 25):
        share = (step - 5000) / (schedule.total_steps - 5000)
        cosine = 2.048 * (1 + math.cos(math.pi * share)) / 2
        assert schedule.learning_rate(step) == pytest.approx(
            cosine, abs=0.0066
        )  # 0.3 % of the peak


def test_alibabas_momentum_stays_in_its_range_and_crops_grow_at_the_end():
    phases = load_recipe("alibaba21").training_strategy.root
    ends = [end for phase in phases for end in phase.momentum]
    assert (min(ends), max(ends)) == (0.9, 0.96)
    assert [a.momentum[1] for a in phases[:-1]] == [b.momentum[0] for b in phases[1:]]
    recipe = load_recipe("alibaba21")
    areas = [phase.augmented(recipe.augmentation).area for phase in phases]
    assert areas == [(0.08, 1.0)] * 4 + [(0.5, 1.0)]


@pytest.mark.parametrize(
    ("preset", "pixels", "share"),
    # FFCV evaluates at 256 px on 224 / 256 of the short side, Composer at 224 of 232.
    [("ffcv16", 256, 224 / 256), ("ffcv32", 256, 224 / 256), ("mosaic36", 224, 224 / 232)],
)
def test_the_share_of_an_image_that_is_evaluated_is_the_published_one(preset, pixels, share):
    evaluation = load_recipe(preset).evaluation
    assert evaluation.image_size == pixels
    assert pixels / int(evaluation.data_dir) == pytest.approx(share, abs=2e-3)
