"""What heads send into the encoder: against gradients by hand."""

import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.feature_gradients import FeatureGradients


def gradient_of_input(pulls, slopes=((3.0, 4.0), (0.0, 2.0))):
    """x -> features 2 x; head m's loss is slopes[m] . features. Returns dx and the norms."""
    x = mx.nd.array([[1.0, 1.0]])
    x.attach_grad()
    gradients = FeatureGradients()
    with mx.autograd.record():
        features = 2 * x
    for slope, pull in zip(slopes, pulls):
        leaves = gradients.leaves([features])
        with mx.autograd.record():
            loss = (leaves[0] * mx.nd.array([slope])).sum()
        loss.backward()
        gradients.add([features], leaves, pull)
    gradients.backward()
    return x.grad.asnumpy()[0], [norm.asscalar() for norm in gradients.norms]


def test_gradients_add_up():
    found, norms = gradient_of_input((None, None))
    np.testing.assert_allclose(found, [6, 12])  # 2 (3 + 0), 2 (4 + 2)
    np.testing.assert_allclose(norms, [5, 2])


def test_a_pull_sets_the_norm_relative_to_the_first_head():
    found, norms = gradient_of_input((None, 0.5))
    np.testing.assert_allclose(found, [6, 13], rtol=1e-6)  # [0 2] of norm 2 becomes [0 2.5], half of 5
    np.testing.assert_allclose(norms, [5, 2.5], rtol=1e-6)


@pytest.mark.parametrize("slopes", [((3.0, 4.0), (0.0, 0.0)), ((0.0, 0.0), (0.0, 2.0)), ((0.0, 0.0), (0.0, 0.0))])
def test_a_head_without_a_gradient_divides_nothing_by_zero(slopes):
    found, norms = gradient_of_input((None, 0.5), slopes)
    assert np.isfinite(found).all() and np.isfinite(norms).all()
    np.testing.assert_allclose(found, 2 * np.array(slopes[0]))


def test_features_that_several_heads_read_and_one_that_nobody_reads():
    x = mx.nd.array([1.0])
    x.attach_grad()
    gradients = FeatureGradients()
    with mx.autograd.record():
        first, second, _ = 2 * x, 10 * x, 100 * x
    for read in ([first, second, second], [second]):  # the last map may come twice: it gives the size
        leaves = gradients.leaves(read)
        with mx.autograd.record():
            loss = sum(leaf.sum() for leaf in leaves)
        loss.backward()
        gradients.add(read, leaves, None)
    gradients.backward()
    assert x.grad.asscalar() == 2 + 10 + 10 + 10
