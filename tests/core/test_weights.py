"""Weights out of checkpoint files, whole and not."""

import shutil

import keras
import numpy as np
import pytest

from core.checkpoints import BadCheckpoint, load_weights
from training import model
from training.recipes import Optimizer, load_recipe

X = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3)).astype("uint8")
Y = np.arange(16, dtype="int32") % 10
GROUPS = ({"variables": "conv.*/kernel", "name": "Muon"}, {"variables": "/beta$", "rate": 2.0})


def recipe(**changes):
    small = {"model_arguments": {"widths": [16, 16, 16]}, **changes}
    return load_recipe("demo").model_copy(update=small)


def trained(recipe, policy="float32", steps=0, path=None):
    """A model after a few steps, the weights after each, and its checkpoint."""
    keras.utils.set_random_seed(1)
    net = model.build(recipe)
    model.compile_for_training(net, recipe, policy)
    net.optimizer.learning_rate = 0.1
    seen = []
    for _ in range(steps):
        net.fit(X, Y, batch_size=16, verbose=0)
        seen.append([v.numpy() for v in net.trainable_variables])
    net.save(path)
    return net, seen


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """The checkpoint of a model that no step has trained."""
    path = tmp_path_factory.mktemp("new") / "a.keras"
    trained(recipe(), path=path)
    return path


def test_the_weights_are_those_that_were_saved(tmp_path):
    saved, _ = trained(recipe(), steps=1, path=tmp_path / "a.keras")
    net = model.build(recipe())
    load_weights(net, tmp_path / "a.keras")
    for a, b in zip(net.variables, saved.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("policy", "loss_scale", "groups"),
    [
        ("float32", 256, ()),
        ("mixed_float16", "dynamic", GROUPS),  # the optimizer is inside that of the loss scale
    ],
)
def test_the_average_is_the_formulas_and_fit_leaves_the_weights_alone(
    tmp_path, policy, loss_scale, groups
):
    """avg <- 0.9 avg + 0.1 w, and w itself after the first step (Keras's rule)."""
    averaged = recipe(ema=0.9, loss_scale=loss_scale, optimizer=Optimizer(groups=groups))
    saved, seen = trained(averaged, policy, steps=3, path=tmp_path / "a.keras")
    expected = seen[0]
    for weights in seen[1:]:
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, weights, strict=True)]
    plain = model.build(averaged)
    load_weights(plain, tmp_path / "a.keras")
    for a, b in zip(plain.trainable_variables, seen[-1], strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    net = model.build(averaged)
    load_weights(net, tmp_path / "a.keras", model.averaging_optimizer(averaged, net))
    for a, b in zip(net.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-6)
    assert any(
        not np.allclose(v.numpy(), w)
        for v, w in zip(net.trainable_variables, seen[-1], strict=True)
    )
    for a, b in zip(net.non_trainable_variables, saved.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_before_the_first_step_the_average_is_the_weights(tmp_path):
    averaged = recipe(ema=0.9)
    saved, _ = trained(averaged, path=tmp_path / "a.keras")
    net = model.build(averaged)
    load_weights(net, tmp_path / "a.keras", model.averaging_optimizer(averaged, net))
    for a, b in zip(net.variables, saved.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path):
    path.write_bytes(b"")


def altered(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, emptied, altered])
def test_a_damaged_checkpoint_is_named(new, tmp_path, damage):
    path = shutil.copy(new, tmp_path / "step-00000345.keras")
    damage(path)
    with pytest.raises(BadCheckpoint, match=r"step-00000345\.keras': cut short or damaged"):
        load_weights(model.build(recipe()), path)


@pytest.mark.parametrize(
    "other",
    [
        {"model_arguments": {"widths": [16, 16, 32]}},
        {"model": "resnet14"},
        {"classes": 11},
    ],
)
def test_a_checkpoint_of_another_model_is_named(new, other):
    with pytest.raises(BadCheckpoint, match=r"a\.keras': of another model than the run's recipe"):
        load_weights(model.build(recipe(**other)), new)


def test_a_checkpoint_without_an_average_is_named(new):
    net = model.build(recipe())
    with pytest.raises(BadCheckpoint, match=r"optimizer has \d+ variables"):
        load_weights(net, new, model.averaging_optimizer(recipe(ema=0.9), net))


def test_a_missing_checkpoint_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(model.build(recipe()), tmp_path / "a.keras")
