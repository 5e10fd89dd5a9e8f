"""The moving confusion matrix against numbers by hand."""

import json

import numpy as np
import pytest

from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.moving_confusion import MovingConfusion


def batch(*rows):
    return ConfusionMatrix.from_counts(rows)


def test_counts_are_averaged_and_a_class_that_a_batch_lacks_keeps_its_shares():
    moving = MovingConfusion(2, 0.75)
    moving.update(batch([6, 2], [4, 12]))
    # a quarter of the batch: [1.5 0.5] [1 3]
    np.testing.assert_allclose(moving.state(), [[1.5, 0.5], [1, 3]])
    np.testing.assert_allclose(moving.matrix().row_normalized(), [[0.75, 0.25], [0.25, 0.75]], atol=1e-6)
    moving.update(batch([0, 0], [0, 8]))
    # three quarters of that, and [0 0] [0 2]
    np.testing.assert_allclose(moving.state(), [[1.125, 0.375], [0.75, 4.25]])
    np.testing.assert_allclose(moving.matrix().row_normalized(), [[0.75, 0.25], [0.15, 0.85]], atol=1e-6)


def test_it_is_a_matrix_like_any_other():
    moving = MovingConfusion(3, 0.0)  # the last batch alone
    moving.update(batch([9, 9, 9], [9, 9, 9], [9, 9, 9]))
    counts = np.array([[5, 1, 2], [0, 7, 3], [4, 0, 6]])
    moving.update(batch(*counts))
    np.testing.assert_array_equal(moving.matrix().counts, counts * 2**20)
    merged = batch(*counts).merged([1, 2])
    np.testing.assert_allclose(moving.matrix().merged([1, 2]).row_normalized(), merged.row_normalized())
    assert moving.matrix().pixel_accuracy() == batch(*counts).pixel_accuracy()


def test_before_the_first_batch_there_is_nothing():
    assert not MovingConfusion(4, 0.98).matrix().counts.any()


def test_a_saved_state_goes_on_bit_by_bit():
    rng = np.random.default_rng(3)
    batches = [batch(*rng.integers(0, 99, (3, 3))) for _ in range(6)]
    whole, first, second = (MovingConfusion(3, 0.98) for _ in range(3))
    for each in batches:
        whole.update(each)
    for each in batches[:4]:
        first.update(each)
    second.restore(json.loads(json.dumps(first.state())))
    for each in batches[4:]:
        second.update(each)
    assert second.state() == whole.state()
    with pytest.raises(ConfsegError, match="of shape"):
        MovingConfusion(4, 0.98).restore(whole.state())
