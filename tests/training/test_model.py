"""The loss of a run, against a hand calculation."""

import numpy as np
import pytest

from training.model import cross_entropy

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
