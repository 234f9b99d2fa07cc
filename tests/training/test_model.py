"""The loss of a run, against a hand calculation and PyTorch; its optimizer, as the recipe says."""

import keras
import numpy as np
import pytest

from core.errors import UserError
from models.registry import build_model
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum
from training import model
from training.model import build_optimizer, cross_entropy, make_optimizer
from training.recipes import Optimizer, Recipe, initial_file, load_recipe
from training.run_folder import RunFolder

# exp(2) + exp(1) + exp(0) = 11.107338, of which the logarithm is 2.407606: the classes'
# log-probabilities are -0.407606, -1.407606 and -2.407606.
LOGITS = np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]], "float32")


@pytest.mark.parametrize(
    ("smoothing", "losses"),
    [
        (0.0, [0.407606, 2.407606]),
        # 0.3 over three classes: 0.8 for the label's and 0.1 for each other.
        (0.3, [0.8 * 0.407606 + 0.1 * (1.407606 + 2.407606), 0.1 * 1.815212 + 0.8 * 2.407606]),
    ],
)
def test_label_smoothing_is_spread_over_all_classes(smoothing, losses):
    labels = np.array([0, 2], "int32")
    found = np.array(cross_entropy(smoothing)(labels, LOGITS))
    assert found.mean() == pytest.approx(np.mean(losses), abs=1e-5)


# By torch 2.13: binary_cross_entropy_with_logits(LOGITS, targets, reduction="none").sum(1) with
# targets = one_hot * (1 - smoothing) + smoothing / 3.
@pytest.mark.parametrize(
    ("smoothing", "losses"), [(0.0, [2.133337, 4.133337]), (0.08, [2.213337, 4.053337])]
)
def test_binary_cross_entropy_is_summed_over_the_classes(smoothing, losses):
    labels = np.array([0, 2], "int32")
    found = cross_entropy(smoothing, binary=True)(labels, LOGITS)
    np.testing.assert_allclose(found, losses, atol=1e-5)


def test_the_recipes_loss_is_trained_on_and_begins_with_rare_classes():
    changes = {"loss": "binary_cross_entropy", "l2": 0.0, "label_smoothing": 0.0}
    recipe = load_recipe("demo").model_copy(update=changes)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, "float32")
    images, labels = np.zeros((4, 20, 20, 3), "uint8"), np.arange(4, dtype="int32")
    # Black images leave a new network with its bias alone: each class has the odds 1 to 10.
    odds = 1 / recipe.classes
    expected = -np.log(odds / (1 + odds)) + (recipe.classes - 1) * np.log(1 + odds)
    net.get_layer("logits").kernel.assign(np.zeros(net.get_layer("logits").kernel.shape))
    assert net.evaluate(images, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-4)


def compiled(*layers, **changes):
    """A model compiled as a recipe says, and what the user is told."""
    recipe = load_recipe("demo").model_copy(update=changes)
    net = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(10)])
    return net, model.compile_for_training(net, recipe, "float32")


def test_a_run_says_how_it_trains_otherwise_than_by_kerass_own_ops():
    bn = keras.layers.BatchNormalization()
    net, said = compiled(bn, xla=True, batch_norm="fused")
    assert said == [
        "BatchNorm: 1 layers train by TensorFlow's fused op",
        "XLA compiles loss and gradients, at the first step of each stage",
    ]
    assert net.jit_compile is False  # Keras would have XLA compile Horovod's all-reduce, too
    assert compiled(keras.layers.BatchNormalization())[1] == []


def test_a_fused_op_that_nothing_could_use_is_refused():
    with pytest.raises(UserError, match=r"key 'batch_norm': received 'fused', but 'sequential"):
        compiled(batch_norm="fused")


def optimizer(groups, **settings):
    return make_optimizer(Optimizer.model_validate({"groups": groups, **settings}))


def test_a_group_has_the_recipes_optimizer_or_one_of_its_own():
    made = optimizer(
        [
            {"variables": "gamma", "rate": 2.0, "arguments": {"weight_decay": 0}},
            {"variables": "kernel", "name": "Muon", "arguments": {"renormalise": True}},
            {"variables": "beta", "arguments": {"momentum": 0.6}},
        ],
        arguments={"momentum": 0.8, "nesterov": False, "weight_decay": 0.1, "clipnorm": 1.0},
    )
    gamma, _, _, rest = four = [group.optimizer for group in made._groups]
    assert [isinstance(o, Muon) for o in four] == [False, True, False, False]
    assert [isinstance(o, TF1Momentum) for o in four] == [True, False, True, True]
    assert [group.rate for group in made._groups] == [2.0, 1.0, 1.0, 1.0]
    assert [o.momentum for o in four] == [0.8, 0.95, 0.6, 0.8]
    assert [o.nesterov for o in four] == [False, True, False, False]
    assert [o.weight_decay for o in four] == [0, None, 0.1, 0.1]
    assert made.clipnorm == 1.0
    # Where a phase moves the recipe's momentum, another optimizer or number stays.
    assert made.with_moving_momentum() == [gamma, rest]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"variables": "kernel"}, {"variables": "b", "name": "Mu"}],
            r"key 'optimizer\.groups, group 2\.name': received 'Mu'; use .* Muon, LARS or",
        ),
        (
            [{"variables": "kernel", "arguments": {"momentum": 2.0}}],
            r"key 'optimizer\.groups, group 1\.arguments': `momentum` must be from 0 to 1",
        ),
        (
            [{"variables": "kernel", "arguments": {"clipnorm": 2.0}}],
            r"key 'optimizer\.groups': `clipnorm` belongs to OptimizerGroups",
        ),
        ([{"variables": "kernl"}], r"key 'optimizer': group 1, .*'kernl', .*dense.*/kernel"),
        ([{"variables": "bias", "name": "Muon"}], r"key 'optimizer': Muon takes kernels.*/bias"),
    ],
)
def test_a_mistake_in_a_group_is_named(groups, message):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(UserError, match=message):
        build_optimizer(optimizer(groups), model)


def test_a_group_that_is_no_regular_expression_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optimizer: {groups: [{variables: 'ker(nel'}]}\ntraining_strategy: []\n")
    with pytest.raises(UserError, match=r"optimizer.*groups.*variables.*'ker\(nel'.*regular"):
        load_recipe(path)


def source(path, classes=3, **arguments):
    net = build_model("resnet8", (None, None), classes, **{"widths": (8, 8, 8), **arguments})
    path.parent.mkdir(exist_ok=True)
    net.save(path)
    return net


def started(init_from, classes=("a", "b", "c"), **changes):
    """A new model that starts from a file, as `start_run` does it; and what is said."""
    phases = [
        {"epoch": [0, 1], "lr": [0.1, 0.1], "lr_method": "linear", "batch_size": 4}
        | {"image_size": 8, "data_dir": "8"}
    ]
    asked = {"model": "resnet8", "model_arguments": {"widths": [8, 8, 8]}, "classes": 3}
    recipe = Recipe(training_strategy=phases, init_from=str(init_from), **{**asked, **changes})
    initial = model.find_initial(recipe, RunFolder(init_from.parent / "none"), resume=False)
    recipe = recipe.taking(initial.taken)
    net = model.build(recipe, initial.architecture)
    return net, "\n".join(model.start_from(net, initial, recipe, classes)), recipe


def test_a_recipes_model_starts_with_the_weights_of_a_run(tmp_path):
    net = source(tmp_path / "run" / "model.keras", mean=(1, 2, 3), std=(4, 5, 6))
    found, said, recipe = started(tmp_path / "run")
    for a, b in zip(net.weights, found.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "weights of 19 of 19 layers, the head too, though the names of its classes" in said
    assert (recipe.mean, recipe.std) == ((1, 2, 3), (4, 5, 6))
    _, said, recipe = started(tmp_path / "run", mean=(9.0, 9.0, 9.0))
    assert recipe.mean == (9, 9, 9)
    assert "it was trained with mean 1, 2, 3 and std 4, 5, 6; the recipe has 9, 9, 9 and " in said


def test_the_head_is_new_where_the_names_of_the_classes_are_others(tmp_path):
    net = source(tmp_path / "run" / "model.keras")
    head = np.array(net.get_layer("logits").kernel)
    (tmp_path / "run" / "classes.txt").write_text("a\nb\nc\n")
    same, said, _ = started(tmp_path / "run")
    assert "new:" not in said
    assert "not known" not in said
    np.testing.assert_array_equal(same.get_layer("logits").kernel, head)
    other, said, _ = started(tmp_path / "run", ("a", "b", "d"))
    assert "; new: logits (others)" in said
    assert not np.array_equal(other.get_layer("logits").kernel, head)
    # A checkpoint of the run knows them, too.
    (tmp_path / "run" / "checkpoints").mkdir()
    net.save(tmp_path / "run" / "checkpoints" / "step.keras")
    _, said, _ = started(tmp_path / "run" / "checkpoints" / "step.keras", ("a", "b", "d"))
    assert "; new: logits (others)" in said


def test_what_does_not_fit_is_refused_with_names_and_shapes(tmp_path):
    source(tmp_path / "model.keras", widths=(8, 8, 16))
    with pytest.raises(UserError, match=r"--init_from .*model.keras does not fit.*3x3x8x16 in it"):
        started(tmp_path / "model.keras")
    (tmp_path / "words.keras").write_text("404")
    with pytest.raises(UserError, match=r"--init_from .*words.keras: Keras cannot load it"):
        started(tmp_path / "words.keras")


def test_initial_is_the_architecture_of_the_file(tmp_path):
    net = source(tmp_path / "model.keras", classes=5, widths=(8, 8, 24))
    found, said, _ = started(tmp_path / "model.keras", model="initial", model_arguments={})
    assert "; new: logits (5 classes there, 3 here)" in said
    kernel = found.get_layer("stage3_block1_conv2").kernel
    np.testing.assert_array_equal(kernel, net.get_layer("stage3_block1_conv2").kernel)
    with pytest.raises(UserError, match="'initial' is the model of --init_from"):
        model.build(load_recipe("finetune"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "there is no such file or folder"), ("run", "holds no model.keras, which a run")],
)
def test_a_source_that_is_not_there_is_named(tmp_path, name, message):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=f"--init_from .*{name}: {message}"):
        initial_file(str(tmp_path / name))
