"""The schedule against the published run, hand calculations and its own invariants."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.schedule import Phase, Schedule
from core.settings import Augmentation

# training_strategy of the published DAWNBench entry.
KEYS = ("epoch", "lr", "lr_method", "batch_size", "image_size", "data_dir", "prefix")
ROWS = [
    ([0, 6], [1.0, 2.0], "linear", 740, (128, 128), "160", "train"),
    ([6, 21], [2.0, 0.45], "linear", 740, (128, 128), "160", "train"),
    ([21, 32], [0.45, 0.02], "exp", 256, (224, 224), "320", "train"),
    ([32, 36], [0.02, 0.004], "exp", 196, (224, 224), "320", "train"),
    ([36, 40], [0.004, 0.002], "exp", 128, (288, 288), "320", "train"),
]
ORIGINAL = [dict(zip(KEYS, row, strict=True)) for row in ROWS]
IMAGES = 1281167

# Step, rate, batch and size as the original's own log printed them.
PUBLISHED_LOG = [
    (0, "1.00000", 740, 128),
    (1, "1.00077", 740, 128),
    (625, "1.48225", 740, 128),
    (1250, "1.96451", 740, 128),
    (1875, "1.72301", 740, 128),
    (2500, "1.42401", 740, 128),
    (3125, "1.12502", 740, 128),
    (3750, "0.82602", 740, 128),
    (4375, "0.52702", 740, 128),
    (5000, "0.36471", 256, 224),
    (5625, "0.27481", 256, 224),
    (6250, "0.20706", 256, 224),
    (7500, "0.11756", 256, 224),
    (8750, "0.06674", 256, 224),
    (10000, "0.03789", 256, 224),
    (11250, "0.02151", 256, 224),
    (11875, "0.01591", 196, 224),
    (12500, "0.01170", 196, 224),
    (13125, "0.00860", 196, 224),
    (14375, "0.00465", 196, 224),
    (15000, "0.00383", 128, 288),
    (16250, "0.00322", 128, 288),
    (17500, "0.00271", 128, 288),
    (19375, "0.00209", 128, 288),
]


@pytest.fixture(scope="module")
def original():
    return Schedule(ORIGINAL, workers=8, images=IMAGES)


def test_boundaries_are_the_published_ones(original):
    assert [p.first for p in original.phases] == [0, 1296, 4536, 11411, 14679]
    assert original.total_steps == 19683


def test_steps_per_epoch_are_the_published_ones(original):
    assert [p.steps_per_epoch for p in original.phases] == [216, 216, 625, 817, 1251]


@pytest.mark.parametrize(("step", "rate", "batch", "size"), PUBLISHED_LOG)
def test_rate_batch_and_size_are_those_of_the_published_log(original, step, rate, batch, size):
    assert f"{original.learning_rate(step):.5f}" == rate
    phase = original.phase_at(step).phase
    assert (phase.batch_size, phase.image_size) == (batch, (size, size))


def test_a_phases_first_step_is_its_own():
    """Where the rate jumps. 50,000 images by 2 workers: 195 steps an epoch of 128, 260 of 96
    and 390 of 64, so the batch changes after 3 x 195 steps and 10 x 260 more.
    """
    rows = [([0, 3], [0.3, 0.28], 128), ([3, 13], [0.25, 0.07], 96), ([13, 19], [0.047, 0.0], 64)]
    phases = [
        {"epoch": epoch, "lr": lr, "batch_size": batch, "lr_method": "linear", "image_size": 16}
        | {"data_dir": "16"}
        for epoch, lr, batch in rows
    ]
    schedule = Schedule(phases, workers=2, images=50000)
    assert [schedule.learning_rate(step) for step in (585, 3185)] == [0.25, 0.047]
    batches = [schedule.phase_at(step).phase.batch_size for step in (584, 585, 3184, 3185)]
    assert batches == [128, 96, 96, 64]
    assert [schedule.epoch(step) for step in (585, 3185)] == [3, 13]


def test_epochs_are_those_of_the_strategy(original):
    at = {0: 0, 1296: 6, 4536: 21, 11411: 32, 14679: 36, 19683: 40, 216: 1, 4536 + 625: 22}
    assert {step: original.epoch(step) for step in at} == pytest.approx(at)


def test_after_the_end_the_last_rate_stays(original):
    assert original.learning_rate(10**6) == pytest.approx(0.002)


def test_phases_with_the_same_data_are_one_stage(original):
    assert [(s.first, s.end) for s in original.stages()] == [
        (0, 4536),
        (4536, 11411),
        (11411, 14679),
        (14679, 19683),
    ]


def test_a_resumed_run_gets_the_rest_of_its_stage(original):
    stages = list(original.stages(5000))
    assert [(s.begin, s.end, s.steps) for s in stages] == [
        (5000, 11411, 6411),
        (11411, 14679, 3268),
        (14679, 19683, 5004),
    ]
    assert list(original.stages(19683)) == []


def test_images_are_counted_over_all_workers_and_phases(original):
    assert original.images_between(0, 1296) == 1296 * 740 * 8
    assert original.images_between(4535, 4537) == 740 * 8 + 256 * 8
    # By images seen, the published curve says epoch 36.2 at step 15000.
    assert round(original.images_between(0, 15000) / IMAGES, 1) == 36.2


def test_fractions_of_epochs_round_each_boundary_to_the_nearest_step():
    phases = [
        ORIGINAL[0] | {"epoch": [0, 0.3], "batch_size": 10},
        ORIGINAL[0] | {"epoch": [0.3, 1.75], "batch_size": 10},
    ]
    schedule = Schedule(phases, workers=1, images=100)
    # 10 steps an epoch: 3 steps, then up to 17.5, half a step up.
    assert [(p.first, p.end) for p in schedule.phases] == [(0, 3), (3, 18)]


def test_one_number_is_a_square_image():
    schedule = Schedule([ORIGINAL[0] | {"image_size": 128}], workers=8, images=IMAGES)
    assert schedule.phases[0].phase.image_size == (128, 128)


def test_each_data_folder_may_have_a_number_of_images_of_its_own():
    schedule = Schedule(ORIGINAL, workers=8, images={"160": 8 * 7400, "320": IMAGES})
    assert [p.steps_per_epoch for p in schedule.phases] == [10, 10, 625, 817, 1251]


TWO_PREFIXES = [
    ORIGINAL[0] | {"epoch": [0, 1], "batch_size": 10},
    ORIGINAL[0] | {"epoch": [1, 2], "batch_size": 10, "prefix": "extra"},
]


@pytest.mark.parametrize(
    ("images", "steps"),
    [
        ({"160/train": 5000, "160/extra": 100}, [500, 10]),
        ({"160": 100}, [10, 10]),
        ({"160/train": 5000, "160": 100}, [500, 10]),
        (100, [10, 10]),
    ],
)
def test_each_prefix_of_a_folder_may_have_a_number_of_its_own(images, steps):
    """That of the folder is for every prefix without one."""
    schedule = Schedule(TWO_PREFIXES, workers=1, images=images)
    assert [p.steps_per_epoch for p in schedule.phases] == steps
    assert [(p.first, p.end) for p in schedule.phases] == [(0, steps[0]), (steps[0], sum(steps))]


def test_a_batch_is_compared_with_the_images_of_its_prefix():
    with pytest.raises(UserError, match=r"phase 2.*the 9 images in '160/extra' is 9"):
        Schedule(TWO_PREFIXES, workers=1, images={"160/train": 5000, "160/extra": 9})


def test_records_without_a_number_are_named():
    with pytest.raises(UserError, match="'160/extra'"):
        Schedule(TWO_PREFIXES, workers=1, images={"160/train": 5000})


REFUSALS = {
    "gap": ({1: {"epoch": [7, 21]}}, "phase 2, key 'epoch'.*begins at 7.*ends at 6: a gap"),
    "overlap": ({1: {"epoch": [5, 21]}}, "phase 2, key 'epoch'.*ends at 6: an overlap"),
    "not from 0": ({0: {"epoch": [1, 6]}}, "phase 1, key 'epoch'.*begins at 1.*a gap"),
    "shrinks": ({2: {"epoch": [21, 20]}}, r"phase 3, key 'epoch'.*\[21, 20\].*above"),
    "stands still": ({2: {"epoch": [21, 21]}}, "phase 3, key 'epoch'.*above"),
    "three epochs": ({0: {"epoch": [0, 3, 6]}}, "phase 1, key 'epoch'"),
    "no number": ({0: {"epoch": [0, float("nan")]}}, "phase 1, key 'epoch'.*nan"),
    "unknown key": ({3: {"momenta": 0.9}}, "phase 4, key 'momenta' is not known.*0.9"),
    "missing key": ({3: {"lr": None}}, "phase 4, key 'lr'.*None"),
    "method": ({4: {"lr_method": "step"}}, "phase 5, key 'lr_method'.*'step'.*'linear', .* or"),
    "power": ({4: {"power": 2}}, "phase 5, key 'power'.*received 2;.*'polynomial'.*'exp'"),
    "power of 0": (
        {0: {"lr_method": "polynomial", "power": 0}},
        "phase 1, key 'power': received 0; .*greater than 0",
    ),
    "momentum of 1": ({0: {"momentum": [0.9, 1]}}, "phase 1, key 'momentum': received 1"),
    "one momentum": ({0: {"momentum": 0.9}}, "phase 1, key 'momentum': received 0.9"),
    "some momenta": (
        {0: {"momentum": [0.9, 0.8]}, 1: {"momentum": [0.8, 0.9]}},
        "phase 3, key 'momentum' is missing.*all phases or to none",
    ),
    "unknown augmentation": (
        {2: {"augmentation": {"crops": "pad"}}},
        "phase 3, key 'augmentation.crops' is not known here; received 'pad'",
    ),
    "bad augmentation": (
        {2: {"augmentation": {"area": [0.5, -1]}}},
        "phase 3, key 'augmentation.area': received -1",
    ),
    "freeze without a name": ({1: {"freeze": ["stem*", ""]}}, "phase 2, key 'freeze': received ''"),
    "exp to 0": ({4: {"lr": [0.1, 0.0]}}, r"phase 5, key 'lr_method'.*above 0, not \[0.1, 0.0\]"),
    "negative rate": ({0: {"lr": [-1.0, 2.0]}}, "phase 1, key 'lr'.*-1.0"),
    "batch of 0": ({1: {"batch_size": 0}}, "phase 2, key 'batch_size'.*received 0"),
    "text for a batch": ({1: {"batch_size": "740"}}, "phase 2, key 'batch_size'.*'740'"),
    "true for a batch": ({1: {"batch_size": True}}, "phase 2, key 'batch_size'.*True"),
    "batch over the share": (
        {2: {"batch_size": 160146}},
        "phase 3, key 'batch_size'.*160146.*1281167 images in '320/train' is 160145 with 8 worker",
    ),
    "size of 0": ({0: {"image_size": (128, 0)}}, "phase 1, key 'image_size'.*received 0"),
    "less than a step": ({4: {"epoch": [36, 36.0001]}}, "phase 5, key 'epoch'.*less than one step"),
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refused_with_phase_and_key(change, message):
    phases = copy.deepcopy(ORIGINAL)
    for index, values in change.items():
        phases[index].update(values)
    with pytest.raises(UserError, match=message) as caught:
        Schedule(phases, workers=8, images=IMAGES)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match="phase 1, key 'lr' is missing"):
        Schedule([{k: v for k, v in ORIGINAL[0].items() if k != "lr"}], 8, IMAGES)


def test_an_empty_strategy_is_refused():
    with pytest.raises(UserError, match="training_strategy is empty"):
        Schedule([], workers=8, images=IMAGES)


# optimizer = torch.optim.SGD(parameters, lr=0.4); 10 x (optimizer.step(), scheduler.step())
TORCH = {
    # CosineAnnealingLR(optimizer, T_max=10, eta_min=0.05)
    "cosine": (
        {"lr_method": "cosine", "lr": [0.4, 0.05]},
        [
            0.4,
            0.39143489,
            0.366577974,
            0.327862419,
            0.279077974,
            0.225,
            0.170922026,
            0.122137581,
            0.083422026,
            0.05856511,
            0.05,
        ],
    ),
    # PolynomialLR(optimizer, total_iters=10, power=2.0)
    "power 2": (
        {"lr_method": "polynomial", "lr": [0.4, 0.0]},
        [0.4, 0.324, 0.256, 0.196, 0.144, 0.1, 0.064, 0.036, 0.016, 0.004, 0.0],
    ),
    # PolynomialLR(optimizer, total_iters=10, power=0.9)
    "power 0.9": (
        {"lr_method": "polynomial", "lr": [0.4, 0.0], "power": 0.9},
        [
            0.4,
            0.36381303,
            0.32722086,
            0.29016714,
            0.25257835,
            0.21435469,
            0.17535332,
            0.13535338,
            0.09396951,
            0.05035702,
            0.0,
        ],
    ),
}


@pytest.mark.parametrize(("keys", "rates"), TORCH.values(), ids=TORCH)
def test_cosine_and_polynomial_rates_are_pytorchs(keys, rates):
    schedule = Schedule([ORIGINAL[0] | {"epoch": [0, 1], "batch_size": 1} | keys], 1, images=10)
    assert [schedule.learning_rate(step) for step in range(11)] == pytest.approx(rates)


def test_cosine_and_polynomial_rise_too():
    """By hand: the cosine's half way is the middle; (1 - 1 / 4) ** 2 = 9 / 16 is left to rise."""
    at = {}
    for method in ("cosine", "polynomial"):
        phase = ORIGINAL[0] | {"epoch": [0, 1], "batch_size": 1, "lr": [1, 17]}
        at[method] = Schedule([phase | {"lr_method": method}], 1, images=4).learning_rate
    assert at["cosine"](2) == pytest.approx(9)
    assert at["polynomial"](1) == pytest.approx(17 - 16 * 9 / 16)


def test_the_momentum_of_the_published_fast_schedule():
    """The 21 epochs of Alibaba's entry: momentum down from 0.96 to 0.9 while the rate rises."""
    up = ORIGINAL[0] | {"epoch": [0, 5], "lr": [0.0, 1.2], "momentum": [0.96, 0.9]}
    down = ORIGINAL[0] | {"epoch": [5, 21], "lr": [1.2, 1e-4], "momentum": [0.9, 0.96]}
    schedule = Schedule([up | {"batch_size": 256}, down | {"batch_size": 256}], 8, IMAGES)
    at = [0, 1250, 2500, 3125, 5625, 13125, 20000]  # of 625 steps an epoch
    assert [schedule.momentum(step) for step in at] == pytest.approx(
        [0.96, 0.936, 0.912, 0.9, 0.915, 0.96, 0.96]
    )


def test_without_a_momentum_there_is_none(original):
    assert original.momentum(0) is None
    assert original.momentum(10**6) is None


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"augmentation": {"flip": False}}, {}, False),
        ({"augmentation": {"flip": False}}, {"augmentation": {"flip": False}}, True),
        ({"augmentation": {"area": [0.5, 1]}}, {"augmentation": {"area": [0.2, 1]}}, False),
        ({"freeze": ["stem*"]}, {}, False),
        ({"freeze": ["stem*", "group1*"]}, {"freeze": ["group1*", "stem*"]}, True),
        ({"lr_method": "cosine"}, {"lr_method": "polynomial", "power": 3}, True),
    ],
)
def test_what_the_pipeline_or_the_trace_depends_on_is_a_stage_of_its_own(one, other, alike):
    phases = [ORIGINAL[0] | one, ORIGINAL[1] | other]
    assert len(list(Schedule(phases, 8, IMAGES).stages())) == (1 if alike else 2)


def test_a_phase_overrides_single_keys_of_the_augmentation():
    changes = {"area": [0.5, 1.0], "colour": None}
    phase = Phase.model_validate(ORIGINAL[0] | {"augmentation": changes})
    recipes = Augmentation.model_validate({"flip": False, "area": (0.1, 0.9), "colour": {}})
    assert phase.augmented(recipes) == Augmentation(flip=False, area=(0.5, 1.0))
    assert Phase.model_validate(ORIGINAL[0]).augmented(recipes) == recipes


def test_a_phase_written_down_holds_its_overrides_alone():
    """The other keys stay the recipe's when it is read again."""
    changes = {"area": [0.5, 1.0], "colour": {"hue": 0.2}}
    phase = Phase.model_validate(ORIGINAL[0] | {"augmentation": changes})
    assert phase.model_dump(mode="json")["augmentation"] == changes
    again = Phase.model_validate(phase.model_dump(mode="json"))
    assert again.data_key == phase.data_key


@st.composite
def schedules(draw):
    lengths = draw(st.lists(st.floats(0.5, 20), min_size=1, max_size=6))
    workers = draw(st.integers(1, 16))
    images = draw(st.integers(10_000, 10**6))  # at least 6 steps an epoch
    begin, phases = 0.0, []
    for length in lengths:
        phases.append(
            {
                "epoch": [begin, begin + length],
                "lr": [draw(st.floats(0.001, 10)), draw(st.floats(0.001, 10))],
                "lr_method": draw(st.sampled_from(["linear", "exp", "cosine", "polynomial"])),
                "batch_size": draw(st.integers(1, 100)),
                "image_size": draw(st.integers(8, 288)),
                "data_dir": draw(st.sampled_from(["160", "320"])),
            }
        )
        begin += length
    return Schedule(phases, workers, images)


@given(schedules())
def test_the_phases_cover_all_steps_once(schedule):
    ends = [0] + [p.end for p in schedule.phases]
    assert [p.first for p in schedule.phases] == ends[:-1]
    assert all(p.end > p.first for p in schedule.phases)
    assert sum(s.steps for s in schedule.stages()) == schedule.total_steps


@given(schedules(), st.data())
def test_rates_stay_between_the_ends_of_their_phase(schedule, data):
    step = data.draw(st.integers(0, schedule.total_steps - 1))
    phase = schedule.phase_at(step)
    assert phase.first <= step < phase.end
    low, high = sorted(phase.phase.lr)
    assert low * (1 - 1e-9) <= schedule.learning_rate(step) <= high * (1 + 1e-9)
    assert phase.phase.epoch[0] <= schedule.epoch(step) < phase.phase.epoch[1]


@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 999))
def test_a_linear_phase_cut_in_two_has_the_same_rates(begin, end, cut):
    """Epochs of 100 steps; the rate and the momentum at the cut are what a user works out."""
    middle = begin + (end - begin) * cut / 1000

    def phase(epoch, first, last):
        ends = {"lr": [first, last], "momentum": [first / 20, last / 20]}
        return ORIGINAL[0] | {"epoch": epoch, "batch_size": 1} | ends

    whole = Schedule([phase([0, 10], begin, end)], 1, images=100)
    parts = [phase([0, cut / 100], begin, middle), phase([cut / 100, 10], middle, end)]
    two = Schedule(parts, 1, images=100)
    for step in range(0, 1001, 50):
        assert two.learning_rate(step) == pytest.approx(whole.learning_rate(step), abs=1e-12)
        assert two.momentum(step) == pytest.approx(whole.momentum(step), abs=1e-12)


@given(schedules(), st.data())
def test_stages_from_any_step_are_the_rest_of_the_run(schedule, data):
    done = data.draw(st.integers(0, schedule.total_steps))
    assert sum(s.steps for s in schedule.stages(done)) == schedule.total_steps - done
    middle = data.draw(st.integers(done, schedule.total_steps))
    whole = schedule.images_between(done, schedule.total_steps)
    parts = (
        schedule.images_between(done, middle),
        schedule.images_between(middle, schedule.total_steps),
    )
    assert sum(parts) == whole


TWO_PHASES = [
    {
        "epoch": [first, first + 1],
        "lr": [0.1, 0.1],
        "lr_method": "linear",
        "batch_size": batch_size,
        "image_size": 20,
        "data_dir": "20",
    }
    for first, batch_size in ((0, 10), (1, 5))
]


@pytest.mark.parametrize(
    ("step", "workers", "expected"),
    [
        (10, 1, 20),  # 10 steps of 20 images are 20 of 10
        (10, 4, 5),
        (20, 1, 40),  # the boundary: 400 images
        (30, 1, 60),  # 10 steps of 10 images into phase 2
        (30, 4, 15),  # 100 images into phase 2, from step 10 on, are 5 of 20
        (33, 4, 16),  # 130 images are 6.5 steps
        (60, 1, 120),
        (60, 4, 30),
    ],
)
def test_steps_are_recomputed_from_the_images_seen(step, workers, expected):
    before, now = (Schedule(TWO_PHASES, count, {"20": 400}) for count in (2, workers))
    assert now.step_at(before.position(step)) == expected


def test_a_step_is_never_behind_the_end_of_its_phase():
    """In 2 epochs of 410 images one worker sees 820 of them, and seven see 2 x 5 x 70."""
    strategy = [TWO_PHASES[0] | {"epoch": [0, 2]}, TWO_PHASES[1] | {"epoch": [2, 3]}]
    one, seven = (Schedule(strategy, count, {"20": 410}) for count in (1, 7))
    assert (seven.phases[0].end, 800 // 70) == (10, 11)
    assert seven.step_at(one.position(80)) == 10


def test_a_position_is_the_phase_and_its_images_whatever_the_workers():
    two, four = (Schedule(TWO_PHASES, count, {"20": 400}) for count in (2, 4))
    assert two.position(10) == four.position(5) == (0, 200)
    assert two.position(33) == (1, 130)
    assert two.position(32) == four.position(16) == (1, 120)
    assert two.position(60) == four.position(30) == (2, 0)
