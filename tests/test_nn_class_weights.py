"""Class weights and log-priors from counts: by hand, and for classes without pixels."""

import numpy as np
import pytest
from loss_references import COUNTS

from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import class_weights


def test_weights_and_prior_by_hand():
    # f = 0.8, 0.16, 0.04
    matrix = ConfusionMatrix.from_counts(COUNTS)
    np.testing.assert_allclose(class_weights.inverse_frequency(matrix), [1 / 2.4, 1 / 0.48, 1 / 0.12])
    np.testing.assert_allclose(class_weights.median_frequency(matrix), [0.2, 1, 4])
    np.testing.assert_allclose(class_weights.log_prior(matrix), np.log([0.8, 0.16, 0.04]))
    np.testing.assert_allclose(class_weights.recall(matrix, lam=5), [0.75 + 1.25, 0.625 + 1.875, 0.75 + 1.25])
    # at most 10 times: the rarest counts as 0.08; 0.8 + 0.16 * 5 + 0.04 * 10 = 2
    np.testing.assert_allclose(class_weights.inverse_frequency(matrix, max_ratio=10), [0.5, 2.5, 5])
    np.testing.assert_allclose(class_weights.median_frequency(matrix, max_ratio=10), [0.2, 1, 2])


@pytest.mark.parametrize("weights", [class_weights.inverse_frequency, class_weights.median_frequency])
def test_a_class_without_pixels_has_the_largest_weight_and_changes_no_other(weights):
    counts = np.diag([800, 160, 40, 0])
    four, three = (weights(ConfusionMatrix.from_counts(c)) for c in (counts, counts[:3, :3]))
    np.testing.assert_allclose(four[:3], three)
    assert four[3] == pytest.approx(50 * four[0])
    assert weights(ConfusionMatrix.from_counts(np.diag([10**9, 1])))[1] < 51
    with pytest.raises(ConfsegError, match="no pixels"):
        weights(ConfusionMatrix(3))
