"""The DistributedOptimizer in one process; two workers are in tests/workers."""

import gc
import pickle
import weakref

import keras
import numpy as np
import pytest
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer

from optimizers.distributed import DistributedOptimizer
from optimizers.tf1_momentum import TF1Momentum
from tests.saved import packages_named_in

X, Y = np.random.default_rng(0).normal(size=(2, 32, 4)).astype("float32")


def trained(optimizer, fits=1):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile(optimizer, "mse", jit_compile=False)
    for _ in range(fits):
        model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5),
        lambda: Adam(0.01, weight_decay=0.01),
        lambda: TF1Momentum(0.1),
        lambda: SGD(0.1, gradient_accumulation_steps=2),
        lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
        lambda: LossScaleOptimizer(SGD(0.1), initial_scale=8.0),
        lambda: LossScaleOptimizer(TF1Momentum(0.1, gradient_accumulation_steps=2)),
        lambda: SGD(0.1, loss_scale_factor=256.0),
    ],
)
def test_one_worker_trains_as_with_the_plain_optimizer(make):
    plain, distributed = trained(make(), 2), trained(DistributedOptimizer(make()), 2)
    for a, b in zip(plain.variables, distributed.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_it_goes_by_the_plain_optimizers_name_and_config():
    plain = SGD(0.1, momentum=0.9)
    distributed = DistributedOptimizer(plain)
    assert type(distributed) is not SGD
    assert isinstance(distributed, SGD)
    assert type(distributed).__module__ == SGD.__module__
    assert distributed.get_config() == plain.get_config()
    again = type(distributed).from_config(distributed.get_config())
    assert type(again) is type(distributed)


def test_the_saved_model_is_made_of_keras_alone(tmp_path):
    model = trained(DistributedOptimizer(SGD(0.1, momentum=0.9)))
    model.save(tmp_path / "m.keras")
    assert packages_named_in(tmp_path / "m.keras") == {"keras"}
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is SGD
    assert int(loaded.optimizer.iterations) == 4
    loaded.fit(X, Y, verbose=0)


@pytest.mark.parametrize("make", [lambda: SGD(0.1), lambda: LossScaleOptimizer(TF1Momentum(0.1))])
@pytest.mark.parametrize(
    "copied", [keras.models.clone_model, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_model_is_copied_and_compiled_again(make, copied):
    model = trained(DistributedOptimizer(make()))
    assert copied(model).count_params() == model.count_params()
    model.compile(model.optimizer, "mae", jit_compile=False)
    model.fit(X, Y, verbose=0)


def test_the_state_of_a_built_optimizer_comes_along():
    model = trained(SGD(0.1, momentum=0.9))
    before = [v.numpy() for v in model.optimizer.variables]
    distributed = DistributedOptimizer(model.optimizer)
    for a, b in zip(before, distributed.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    assert int(distributed.iterations.numpy()) == 4


AROUND = {
    "alone": lambda plain: plain,
    "in a loss scale": lambda plain: LossScaleOptimizer(plain, initial_scale=1.0),
}


def decayed(optimizer, names=("kernel", "bias"), excluded=None, build_first=False):
    """What ones become in a step of gradient 0, where some are excluded from the decay."""
    variables = [keras.Variable([1.0], name=name) for name in names]
    if isinstance(excluded, str):
        innermost(optimizer).exclude_from_weight_decay(var_names=[excluded])
    else:
        innermost(optimizer).exclude_from_weight_decay(var_list=[variables[excluded]])
    if build_first:
        optimizer.build(variables)
    DistributedOptimizer(optimizer).apply([np.zeros(1, "float32")] * 2, variables)
    return [v.numpy().item() for v in variables]


def innermost(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


@pytest.mark.parametrize("build_first", [False, True])
@pytest.mark.parametrize("excluded", ["bias", 1], ids=["by name", "by variable"])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_is_excluded_from_weight_decay_stays_so(around, excluded, build_first):
    # By hand: 1 - 0.1 * 0.5 * 1 = 0.95 with decay.
    optimizer = around(AdamW(0.1, weight_decay=0.5))
    kernel, bias = decayed(optimizer, excluded=excluded, build_first=build_first)
    assert (kernel, bias) == (pytest.approx(0.95), 1.0)


class WithAFunction(SGD):
    """A user's: what it was made with is not in its configuration, and Keras knows it not."""

    def __init__(self, gradient_of, **options):
        super().__init__(1.0, **options)
        self.gradient_of = gradient_of

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(self.gradient_of(gradient), variable, learning_rate)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_is_in_no_configuration_stays(around):
    variable = keras.Variable([0.0])
    rates = iter([2.0, 3.0])
    user = WithAFunction(lambda gradient: 10 * gradient)
    user.learning_rate = lambda: next(rates)
    optimizer = DistributedOptimizer(around(user))
    for after in (-20.0, -50.0):  # rate * 10 * 1 less each time
        optimizer.apply([np.ones(1, "float32")], [variable])
        assert variable.numpy() == [after]


@pytest.fixture
def float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("float16")
def test_under_mixed_float16_the_loss_scale_is_inside():
    distributed = DistributedOptimizer(SGD(0.1))
    assert isinstance(distributed, LossScaleOptimizer)
    model = trained(distributed)
    assert model.optimizer is distributed


@pytest.mark.usefixtures("float16")
def test_a_static_loss_scale_is_left_alone():
    assert not isinstance(DistributedOptimizer(SGD(loss_scale_factor=256.0)), LossScaleOptimizer)


def in_a_loss_scale():
    return LossScaleOptimizer(DistributedOptimizer(SGD(0.1)))


def accumulating_in_a_loss_scale():
    return LossScaleOptimizer(DistributedOptimizer(SGD(0.1, gradient_accumulation_steps=2)))


def distributed_in_a_loss_scale():
    around = LossScaleOptimizer(SGD(0.1))
    DistributedOptimizer(around.inner_optimizer)
    return around


def loss_scales_in_a_loss_scale():
    return LossScaleOptimizer(DistributedOptimizer(LossScaleOptimizer(SGD(0.1))))


def agreeing_in_a_loss_scale():
    inner = SGD(0.1, gradient_accumulation_steps=2)
    return LossScaleOptimizer(DistributedOptimizer(LossScaleOptimizer(inner)))


@pytest.mark.parametrize(
    "make",
    [
        in_a_loss_scale,
        accumulating_in_a_loss_scale,
        distributed_in_a_loss_scale,
        loss_scales_in_a_loss_scale,
        agreeing_in_a_loss_scale,
    ],
)
def test_a_loss_scale_around_it_is_refused_before_it_can_hang(make):
    with pytest.raises(ValueError, match=r"DistributedOptimizer\(LossScaleOptimizer\(optimizer\)"):
        trained(make())


def test_the_loss_scale_of_compile_around_it_is_refused():
    layer = keras.layers.Dense(4, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((4,)), layer], name="half")
    model.dtype_policy = layer.dtype_policy
    model.compile(DistributedOptimizer(SGD(0.1)), "mse", jit_compile=False)
    with pytest.raises(ValueError, match="auto_scale_loss=False"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("steps", [None, 2])
def test_training_lets_go_of_what_its_caller_deletes(steps):
    """Reading a caller's locals keeps all that they hold until the caller returns."""
    held = keras.Variable([0.0])
    alive = weakref.ref(held)
    model = trained(DistributedOptimizer(SGD(0.1, gradient_accumulation_steps=steps)))
    del held
    gc.collect()
    assert alive() is None
    assert model.train_function is not None  # the trace is still there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sgd",), "must be a Keras 3 optimizer.*'sgd'"),
        ((DistributedOptimizer(SGD()),), "distributed already"),
        ((LossScaleOptimizer(DistributedOptimizer(SGD())),), "distributed already"),
        ((SGD(), "fp8"), r"`compression` must be one of .*'none', 'fp16'.*'fp8'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        DistributedOptimizer(*arguments)
