"""The watch over numbers, in a real `fit`."""

import keras
import numpy as np
import pytest

from callbacks.finite_loss import FiniteLoss, SkippedSteps
from callbacks.step_checkpoint import StepCheckpoint
from core.errors import RunError

BAD = 7


def fit(*callbacks, bad=None, optimizer=None, model=None):
    if model is None:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer or keras.optimizers.SGD(0.01), "mse", auto_scale_loss=False)
    x = np.random.default_rng(0).normal(size=(20, 4, 3)).astype("float32")
    if bad is not None:
        x[bad, 1, 2] = np.inf
    x, y = x.reshape(80, 3), np.ones((80, 1), "float32")
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.parametrize("every", [1, 5, 100])
def test_the_exact_step_is_named_whenever_it_is_looked_for(every):
    asked = []
    watch = FiniteLoss(every, names=lambda step: asked.append(step) or ["a.jpg"])
    watch.start_at(100)
    with pytest.raises(RunError, match=rf"step {100 + BAD}: the loss of worker 0 .*a\.jpg"):
        fit(watch, bad=BAD)
    assert asked == [100 + BAD]


def test_no_checkpoint_is_written_after_it(tmp_path):
    watch = FiniteLoss(every=1000)
    save = StepCheckpoint(tmp_path / "step-{step}.keras", every=5, last_step=20, peers=[watch])
    with pytest.raises(RunError):
        fit(watch, save, bad=BAD)
    save.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0.keras", "step-5.keras"]


def test_a_model_that_was_fitted_before_is_watched():
    """Keras goes on with the train function of the first `fit`."""
    with pytest.raises(RunError, match=f"step {BAD}: the loss of worker 0"):
        fit(FiniteLoss(every=1000), bad=BAD, model=fit())


def test_so_is_one_that_another_watched_before():
    with pytest.raises(RunError, match=f"step {BAD}: the loss of worker 0"):
        fit(FiniteLoss(every=1000), bad=BAD, model=fit(FiniteLoss(every=5)))


def test_a_fit_without_it_in_between_is_not_counted():
    watch = FiniteLoss(every=1000)
    model = fit(model=fit(watch))
    with pytest.raises(RunError, match=f"step {20 + BAD}: the loss of worker 0"):
        fit(watch, bad=BAD, model=model)


def test_it_serves_again_after_it_stopped_a_fit():
    watch = FiniteLoss(every=1)
    with pytest.raises(RunError):
        fit(watch, bad=BAD)
    fit(watch)


def test_it_leaves_the_model_as_it_was():
    model = fit(FiniteLoss(every=5))
    assert model.compute_loss.__func__ is keras.Model.compute_loss


def test_weights_that_are_not_finite_are_found_where_the_loss_was():
    """The rate makes an infinity of the last step's finite gradients."""

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 19:
                self.model.trainable_variables[0].assign([[np.nan]] * 3)

    with pytest.raises(RunError, match="step 20: weights of worker 0 are not finite"):
        fit(Spoil(), FiniteLoss(every=5))


def test_a_sound_run_is_left_alone():
    one, other = fit(), fit(FiniteLoss(every=3))
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_scale_skips_the_step_and_the_run_goes_on():
    scale = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    skipped = SkippedSteps(scale)
    model = fit(FiniteLoss(every=5), bad=BAD, optimizer=scale)
    assert np.isfinite(model.get_weights()[0]).all()
    assert skipped.at(20) == 1


def test_skipped_steps_go_on_from_those_before():
    """Seven were skipped in 100 steps of two workers; one does 200 for the same images."""
    scale = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    scale.inner_optimizer.iterations.assign(93)
    skipped = SkippedSteps(scale, step=200, before=7)
    assert skipped.at(200) == 7
    fit(bad=BAD, optimizer=scale)
    assert skipped.at(220) == 8


def test_a_loss_scale_at_its_floor_stops_the_run():
    scale = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0)
    with pytest.raises(RunError, match="the loss scale has sunk to 1, after 1 skipped steps"):
        fit(FiniteLoss(every=5), bad=BAD, optimizer=scale)
