import keras
import numpy as np
import pytest

from models.registry import build_model
from models.whitening import has_whitening, whiten, whitening_kernel


def walks():
    """Images `(6, 8, 7, 3)` whose neighbouring pixels are alike."""
    draw = np.random.default_rng(0)
    return np.cumsum(draw.integers(-20, 21, (6, 8, 7, 3)), axis=1) / 40


# By torch 2.13, in float64, of `walks()`: `unfold` into patches, `torch.linalg.eigh(UPLO="U")`
# of their second moments, divided by sqrt(eigenvalue + 5e-4); filters 0, 5 and 11, without signs.
PYTORCH = [
    [
        [[2.42088, 0.29035, 0.34247], [0.64871, 1.26821, 0.22326], [0.6645, 2.24799, 0.12775]],
        [[3.18238, 0.6425, 0.24682], [0.28446, 1.04555, 0.11386], [0.25823, 1.62012, 0.32916]],
    ],
    [
        [[2.23221, 0.31442, 0.37481], [0.51337, 1.25675, 0.22569], [0.5299, 1.93035, 0.14745]],
        [[2.86661, 0.5589, 0.2859], [0.44262, 1.09776, 0.15981], [0.00591, 1.42919, 0.34885]],
    ],
]


def test_the_kernel_is_that_of_pytorch():
    kernel = whitening_kernel(walks())
    assert (kernel.shape, kernel.dtype) == ((2, 2, 3, 24), np.float32)
    np.testing.assert_allclose(np.abs(kernel[..., [0, 5, 11]]), PYTORCH, atol=2e-5)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_signs_are_the_same_everywhere():
    filters = whitening_kernel(walks())[..., :12].reshape(12, 12)
    assert np.all(filters.max(axis=0) == np.abs(filters).max(axis=0))


def moments(outputs):
    flat = np.array(outputs, np.float64).reshape(-1, outputs.shape[-1])[:, :12]
    return flat.T @ flat / len(flat)


def test_whitened_patches_are_white():
    images = walks().astype("float32")
    kernel = whitening_kernel(images, epsilon=0)
    np.testing.assert_allclose(moments(keras.ops.conv(images, kernel)), np.eye(12), atol=1e-5)


def test_images_may_come_in_batches_of_any_size():
    images = walks()
    expected = whitening_kernel([images])
    for parts in (images, [images[:1], images[1:]], iter([images[:4], images[4:]])):
        np.testing.assert_allclose(whitening_kernel(parts), expected, atol=1e-5)


def test_a_model_is_whitened_for_its_own_scale():
    model = build_model("whitened_cnn", (None, None), 10, widths=(4, 4, 4), mean=(90, 95, 99))
    model = keras.Model(model.input, model.get_layer("whitening").output)
    assert has_whitening(model)
    images = np.clip(np.round(100 + 30 * walks()), 0, 255).astype(np.uint8)
    whiten(model, [images], epsilon=0)
    outputs = model(images) - model.get_layer("whitening").bias
    np.testing.assert_allclose(moments(outputs), np.eye(12), atol=1e-4)


def test_black_images_give_a_finite_kernel():
    assert np.abs(whitening_kernel(np.zeros((2, 4, 4, 3)))).max() <= 5e-4**-0.5


@pytest.mark.parametrize("images", [[], [np.full((1, 4, 4, 3), np.nan)]])
def test_what_holds_nothing_is_refused(images):
    with pytest.raises(ValueError, match=r"finite numbers\. Received"):
        whitening_kernel(images)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="'resnet8' has no layer 'whitening'; whitened_cnn"):
        whiten(build_model("resnet8", (32, 32), 10), [walks()])
