"""The loss of a run, against a hand calculation and PyTorch; its optimizer, as the recipe says."""

import keras
import numpy as np
import pytest

from core.errors import UserError
from optimizers.muon import Muon
from optimizers.tf1_momentum import TF1Momentum
from training import model
from training.model import build_optimizer, cross_entropy, make_optimizer
from training.recipes import Optimizer, load_recipe

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
