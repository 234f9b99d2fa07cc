"""The rate before every step, whatever Keras counts."""

import keras
import numpy as np
import pytest

from callbacks.phase_scheduler import PhaseScheduler
from core.schedule import Schedule
from optimizers.tf1_momentum import TF1Momentum

X = np.ones((20, 3), "float32")
Y = np.ones((20, 1), "float32")
PHASE = {"lr_method": "linear", "batch_size": 4, "image_size": 8, "data_dir": "d"}
# 5 steps an epoch: 0.0, 0.1, ... 0.9 and then down from 1.0.
SCHEDULE = Schedule(
    [PHASE | {"epoch": [0, 2], "lr": [0.0, 1.0]}, PHASE | {"epoch": [2, 4], "lr": [1.0, 0.5]}],
    workers=1,
    images=20,
)


# Two steps: momentum 0.5, then 0.25.
MOVING = Schedule(
    [PHASE | {"epoch": [0, 1], "lr": [0.1, 0.1], "batch_size": 10, "momentum": [0.5, 0.0]}],
    workers=1,
    images=20,
)


class Rates(keras.callbacks.Callback):
    """Notes the rate that each step is about to use."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


def model(optimizer=None, **compile_arguments):
    built = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    built.compile(optimizer or keras.optimizers.SGD(9.0), "mse", **compile_arguments)
    return built


def fit(built, scheduler, epochs=1, x=X):
    rates = Rates()
    built.fit(x, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[scheduler, rates])
    return rates.seen


def test_every_step_has_its_rate():
    seen = fit(model(), PhaseScheduler(SCHEDULE), epochs=3)
    up = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert seen == pytest.approx([*up, 1.0, 0.95, 0.9, 0.85, 0.8])


@pytest.mark.parametrize("optimizer", [TF1Momentum, keras.optimizers.SGD])
def test_the_momentum_moves_between_the_steps_of_a_fit(optimizer):
    """By hand, without Nesterov: w = 0 and y = 1, so the gradient of (w - y) ** 2 is 2 (w - 1).

    v1 = -2, w1 = 0.2; v2 = 0.25 * -2 - 1.6 = -2.1, w2 = 0.2 + 0.21. (The rate stands still,
    and Keras's velocity is -rate times this one.) At 0.9 as made, w2 would be 0.54.
    """
    built = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    built.compile(optimizer(9.0, momentum=0.9, nesterov=False), "mse", jit_compile=False)
    one = np.ones((20, 1), "float32")
    seen = []

    class Kernel(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(built.layers[0].kernel.numpy().item())

    scheduler = PhaseScheduler(MOVING)
    built.fit(one, one, batch_size=10, verbose=0, callbacks=[scheduler, Kernel()])
    assert seen == pytest.approx([0.2, 0.41], rel=1e-6)
    assert built.optimizer.get_config()["momentum"] == 0.9


def test_a_momentum_for_an_optimizer_without_one_is_refused():
    with pytest.raises(ValueError, match="momentum can be moved of SGD"):
        fit(model(keras.optimizers.Adam()), PhaseScheduler(MOVING))


def test_without_a_momentum_a_step_sets_the_rate_alone(monkeypatch):
    monkeypatch.setattr(
        "callbacks.phase_scheduler.momentum_setter", lambda _: pytest.fail("nobody asked for it")
    )
    scheduler = PhaseScheduler(SCHEDULE)
    fit(model(), scheduler)
    assert scheduler.momentum is None


def test_a_second_fit_goes_on():
    built, scheduler = model(), PhaseScheduler(SCHEDULE)
    fit(built, scheduler)
    assert fit(built, scheduler) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_a_resumed_run_starts_in_the_middle():
    scheduler = PhaseScheduler(SCHEDULE)
    scheduler.start_at(8)
    assert fit(model(), scheduler) == pytest.approx([0.8, 0.9, 1.0, 0.95, 0.9])


def test_a_step_that_loss_scaling_skips_counts_nevertheless():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    built = model(optimizer)
    x = X.copy()
    x[:8] = np.inf  # the first two steps are skipped
    seen = fit(built, PhaseScheduler(SCHEDULE), x=x)
    assert int(optimizer.iterations.numpy()) < 5
    assert seen == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_any_function_of_the_step_will_do():
    assert fit(model(), PhaseScheduler(lambda step: 2.0**-step)) == [1, 0.5, 0.25, 0.125, 0.0625]


def test_several_steps_at_once_are_refused():
    with pytest.raises(ValueError, match=r"steps_per_execution=1\. Received: 2"):
        fit(model(steps_per_execution=2), PhaseScheduler(SCHEDULE))


def test_an_optimizer_with_a_schedule_of_its_own_is_refused():
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="not a LearningRateSchedule"):
        fit(model(keras.optimizers.SGD(decay)), PhaseScheduler(SCHEDULE))
