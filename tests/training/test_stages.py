"""What a phase changes in its stage: the layers that do not train, and the augmentation."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from callbacks.phase_scheduler import PhaseScheduler
from callbacks.step_callback import StepCallback
from core import keras_patches
from core.errors import UserError
from core.workers import Workers
from training import model as models
from training import stages, synthetic
from training.recipes import Recipe
from training.stages import check_phases, fit_stage, frozen_layers, read_plan

PHASE = {
    "epoch": [0, 1],
    "lr": [0.1, 0.2],
    "lr_method": "linear",
    "batch_size": 4,
    "image_size": 8,
    "data_dir": "8",
}


def recipe(*phases, **others):
    strategy = [
        PHASE | {"epoch": [number, number + 1]} | phase for number, phase in enumerate(phases)
    ]
    settings = {"model": "resnet8", "model_arguments": {"widths": [8, 8, 8]}, "classes": 3}
    return Recipe(training_strategy=strategy, **settings | others)


@pytest.fixture(scope="module")
def net():
    return models.build(recipe({}))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], []),
        (["stem_*"], ["stem_conv", "stem_bn"]),
        (["logits", "stem_bn", "stem*"], ["stem_conv", "stem_bn", "logits"]),
        (["stage[12]_*_conv1"], ["stage1_block1_conv1", "stage2_block1_conv1"]),
        (["head"], ["logits"]),
        (["st[!a]*", "!*bn"], ["stem_conv"]),
        (["!stage*", "!head"], ["stem_conv", "stem_bn"]),
        (["stem*", "logits", "!head"], ["stem_conv", "stem_bn"]),
    ],
)
def test_patterns_are_those_of_a_shell(net, patterns, names):
    assert [layer.name for layer in frozen_layers(net, patterns)] == names


def test_all_but_the_head_is_a_pattern():
    for model, head in (("resnet8", "logits"), ("whitened_cnn", "head")):
        net = models.build(recipe({}, model=model, model_arguments={"widths": [8, 8, 8]}))
        trained = [x.name for x in net.layers if any(v.trainable for v in x.variables)]
        frozen = [x.name for x in frozen_layers(net, ["!head"])]
        assert head in trained
        assert frozen == [name for name in trained if name != head]


def test_a_layer_of_which_only_the_bias_trains_can_be_frozen():
    net = models.build(recipe({}, model="whitened_cnn", model_arguments={"widths": [8, 8, 8]}))
    (layer,) = frozen_layers(net, ["whitening"])
    before = [v.path for v in net.trainable_variables]
    with keras_patches._not_trainable([layer]):
        assert "whitening/bias" not in [v.path for v in net.trainable_variables]
    assert [v.path for v in net.trainable_variables] == before


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["stem_*", "steam_*"], "phase 2, key 'freeze': received 'steam_.'.*first of the .*stem_"),
        (["STEM_*"], "'STEM_.', which matches no layer"),
        (["stem_relu"], "'stem_relu', which matches no layer that trains"),
        (["*"], r"received \['\*'\], which leaves no layer that trains"),
        (["!logit"], "received '!logit', which matches no layer"),
    ],
)
def test_patterns_that_do_not_fit_the_model_are_refused(net, patterns, message):
    with pytest.raises(UserError, match=message):
        check_phases(net, recipe({}, {"freeze": patterns}).schedule(1, 8))


def test_a_momentum_for_an_optimizer_without_one_is_refused(net):
    asked = recipe({"momentum": [0.9, 0.8]}, optimizer={"name": "Adam", "arguments": {}})
    models.compile_for_training(net, asked, "float32")
    with pytest.raises(UserError, match=r"key 'momentum' of the phases: .*Adam"):
        check_phases(net, asked.schedule(1, 8))


class Weights(StepCallback):
    """Notes the weights before each step, and at the end."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def before_step(self, step):
        self.seen.append({w.path: w.numpy() for w in self.model.weights})

    after_fit = before_step


def changed(before, after):
    """The layers whose weights differ."""
    return {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}


def small_run(asked):
    """What `fit_stage` needs of a run, which trains on noise."""
    net = models.build(asked)
    models.compile_for_training(net, asked, "float32")
    return SimpleNamespace(
        recipe=asked,
        model=net,
        data=synthetic.data_for(asked),
        log=SimpleNamespace(clock=SimpleNamespace(switch=lambda bucket: None)),
    )


def test_the_layers_of_a_phase_stay_to_the_bit_and_train_in_the_next():
    """Three stages of two steps on noise, as a run does them; the second stage is resumed."""
    keras.utils.set_random_seed(1)
    asked = recipe({}, {"freeze": ["stem_*", "stage1_*"]}, {})
    run = small_run(asked)
    net = run.model
    everything = {layer.name for layer in net.layers if layer.weights} - {"normalise"}
    frozen = {"stem_conv", "stem_bn"}
    frozen |= {f"stage1_block1_{kind}{number}" for kind in ("conv", "bn") for number in (1, 2)}
    schedule = asked.schedule(1, 8)
    for begin in (0, 3):
        weights = Weights()
        weights.start_at(begin)
        for stage in schedule.stages(begin):
            fit_stage(run, stage, [PhaseScheduler(schedule), weights])
            before, *_, after = weights.seen[-1 - stage.steps :]
            is_second = stage.first == 2
            assert changed(before, after) == everything - (frozen if is_second else set())


def test_stages_by_xla_are_those_without_it():
    """The second freezes layers, at the same size; with all that a recipe has, on noise."""
    settings = {"label_smoothing": 0.1, "l2": 0.01, "ema": 0.9}
    moves = {"momentum": [0.9, 0.8]}
    phases = [moves, moves | {"freeze": ["stem_*", "stage1_*"]}]
    states, traces = [], []
    for xla in (False, True):
        keras.utils.set_random_seed(1)
        asked = recipe(*phases, xla=xla, **settings)
        run = small_run(asked)
        compute_loss = run.model.compute_loss

        def traced(x, *others, compute_loss=compute_loss, **options):
            by_xla = "loss_and_gradients" in tf.compat.v1.get_default_graph().name
            traces.append((tuple(x.shape), by_xla))
            return compute_loss(x, *others, **options)

        run.model.compute_loss = traced
        schedule = asked.schedule(1, 8)
        for stage in schedule.stages():
            fit_stage(run, stage, [PhaseScheduler(schedule)])
        variables = [*run.model.variables, *run.model.optimizer.variables]
        states.append([v.numpy() for v in variables])
    # One for each stage.
    assert traces == [((4, 8, 8, 3), xla) for xla in (False, False, True, True)]
    for plain, ours in zip(*states, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4)


def test_the_pipeline_gets_the_augmentation_of_the_phase(monkeypatch):
    given = []
    monkeypatch.setattr(
        stages, "training_pipeline", lambda *_, augmentation, **__: given.append(augmentation)
    )
    asked = recipe({}, {"augmentation": {"area": [0.5, 1.0]}}, augmentation={"flip": False})
    data = synthetic.data_for(asked)
    for stage in asked.schedule(1, 8).stages():
        stages.stage_pipeline(stage, asked, data, Workers(), threads=1)
    assert [(a.area, a.flip) for a in given] == [((0.08, 1.0), False), ((0.5, 1.0), False)]


@pytest.mark.parametrize(
    ("ends", "first_epochs"), [([2, 5, 8], [0, 2, 5]), ([0.4, 2.5, 5], [0, 0, 3])]
)
@pytest.mark.parametrize("done", [0, 1])
def test_alternating_flips_count_the_epochs_of_earlier_stages(ends, first_epochs, done):
    """Whole epochs, rounded half up; a resumed stage counts from where it began."""
    phases = [
        {**PHASE, "batch_size": 10, "image_size": 16 + i, "epoch": [begin, end]}
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
    recipe = Recipe(training_strategy=phases)
    stages = recipe.schedule(1, 100).stages(done)
    found = [read_plan(stage, recipe, Workers()).first_epoch for stage in stages]
    assert found == first_epochs
