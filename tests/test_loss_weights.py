"""Losses whose weights are set later: those of a fresh loss, in value and gradient, in the graph that is there."""

import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.config_losses import Loss
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.loss_weights import loss_weights, make_loss
from gluon_confseg.nn import ConfusionCrossEntropy, LogitAdjustedCrossEntropy, PixelCrossEntropy

SETTINGS = (
    Loss(kind="confusion", lam=5.0, diagonal="confusion"),
    Loss(kind="confusion", lam=2.0, diagonal="one"),
    Loss(kind="recall_weighted", lam=5.0),
    Loss(kind="inverse_frequency"),
    Loss(kind="median_frequency"),
    Loss(kind="logit_adjusted"),
)


def matrix(seed):
    return ConfusionMatrix.from_counts(np.random.default_rng(seed).integers(1, 99, (4, 4)))


def run(loss):
    """Value and gradient on the same logits."""
    rng = np.random.default_rng(5)
    logits = mx.nd.array(rng.normal(size=(2, 4, 3, 5)))
    label = rng.integers(0, 4, (2, 3, 5))
    label[:, 0] = 255
    logits.attach_grad()
    with mx.autograd.record():
        value = loss(logits, mx.nd.array(label))
    value.backward()
    return value.asnumpy(), logits.grad.asnumpy()


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: f"{settings.kind}-{settings.diagonal}")
def test_a_loss_with_moved_weights_is_a_fresh_one(settings, hybrid):
    loss, fresh = make_loss(settings, matrix(0)), make_loss(settings, matrix(1))
    for each in (loss, fresh):
        each.initialize()
    if hybrid:
        loss.hybridize(static_alloc=True)
    before = run(loss)
    loss.set_weights(loss_weights(settings, matrix(1)))
    for moved, expected, old in zip(run(loss), run(fresh), before):
        np.testing.assert_array_equal(moved, expected)
        assert (moved != old).any()


def test_losses_without_weights_take_none():
    for kind in ("cross_entropy", "focal", "ohem", "loss_max_pooling"):
        assert loss_weights(Loss(kind=kind), matrix(0)) is None
    loss = make_loss(Loss(kind="focal"), matrix(0))
    loss.initialize()
    with pytest.raises(ConfsegError, match="FocalLoss has no weights"):
        loss.set_weights(np.ones(4))


@pytest.mark.parametrize(
    "loss, weights, message",
    [
        (PixelCrossEntropy(3), np.ones(4), "class weights: wants 3"),
        (PixelCrossEntropy(3), [1, -1, 1], "class weights: wants 3 finite numbers of at least 0"),
        (ConfusionCrossEntropy(np.eye(3)), np.eye(4), "wants a matrix of 3 classes, got 4"),
        (ConfusionCrossEntropy(np.eye(3)), np.full((3, 3), np.nan), "wants finite numbers"),
        (LogitAdjustedCrossEntropy(np.zeros(3)), np.zeros(4), "wants one finite number per class"),
    ],
)
def test_weights_that_the_constructor_would_refuse_are_refused(loss, weights, message):
    loss.initialize()
    with pytest.raises(ConfsegError, match=message):
        loss.set_weights(weights)
