"""The losses that the paper's is compared with: by hand, against float64 references and optimisers, at the extremes."""

import numpy as np
import pytest
from loss_references import COUNTS, IGNORE, run
from scipy.optimize import minimize

from gluon_confseg.backend import mx
from gluon_confseg.config_losses import LOSS_SETTINGS, Loss
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.loss_weights import make_loss
from gluon_confseg.nn import (
    FocalLoss,
    LogitAdjustedCrossEntropy,
    LossMaxPooling,
    OhemCrossEntropy,
    PixelCrossEntropy,
)

RIVALS = [kind for kind in LOSS_SETTINGS if kind not in ("cross_entropy", "recall_weighted", "confusion")]


def make(kind, counts=COUNTS, **settings):
    return make_loss(Loss(kind=kind, **settings), ConfusionMatrix.from_counts(counts))


def with_entropies(entropies):
    """(1, 2, 1, P) logits and label whose cross-entropies are the given numbers."""
    q = np.exp(-np.asarray(entropies, float))
    return np.stack([np.log(q / (1 - q)), 0 * q])[None, :, None], np.zeros((1, 1, len(q)))


# float64 references: one sample, logits (K, P), truth (P,) without ignored pixels


def entropies(logits, truth):
    shifted = logits - logits.max(axis=0)
    return np.log(np.exp(shifted).sum(axis=0)) - shifted[truth, np.arange(len(truth))]


def focal(logits, truth, gamma=2.0):
    losses = entropies(logits, truth)
    return np.mean((1 - np.exp(-losses)) ** gamma * losses)


def ohem(logits, truth, threshold=0.7, min_kept=1 / 16):
    losses = np.sort(entropies(logits, truth))[::-1]
    return losses[: max((losses > -np.log(threshold)).sum(), int(np.ceil(min_kept * len(losses))))].mean()


def lmp_weights(losses, p=1.7, support=0.25):
    """w by bisection of c on ||w||_p, unlike the loss."""
    n, conjugate = len(losses), p / (p - 1)
    bound = n ** (-1 / conjugate)
    tau = bound * (support * n) ** (-1 / p)
    low, high = -800.0, 800.0
    for _ in range(200):
        middle = (low + high) / 2
        weights = np.minimum(tau, np.exp(np.minimum(middle + np.log(losses) / (p - 1), 50)))
        low, high = (middle, high) if (weights**p).sum() < bound**p else (low, middle)
    return weights


def lmp(logits, truth, **settings):
    losses = entropies(logits, truth)
    return lmp_weights(losses, **settings) @ losses


def weighted(logits, truth, weights):
    return np.mean(weights[truth] * entropies(logits, truth))


def adjusted(logits, truth, tau=1.0):
    prior = COUNTS.sum(axis=1) / COUNTS.sum()
    return entropies(logits + tau * np.log(prior)[:, None], truth).mean()


REFERENCES = {
    "inverse_frequency": lambda x, t: weighted(x, t, 1 / (3 * COUNTS.sum(axis=1) / 100)),
    "median_frequency": lambda x, t: weighted(x, t, 0.16 / (COUNTS.sum(axis=1) / 100)),
    "focal": focal,
    "ohem": ohem,
    "loss_max_pooling": lmp,
    "logit_adjusted": adjusted,
}


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("scale", [0.5, 3])
def test_values_and_gradients_are_those_of_finite_differences(kind, scale):
    rng = np.random.default_rng(1)
    logits = (scale * rng.normal(size=(2, 3, 3, 4))).astype("float32")
    label = rng.integers(0, 3, (2, 3, 4))
    label[0, 0, :2] = IGNORE
    value, gradient = run(make(kind), logits, label)
    assert value.dtype == np.float32 and value.shape == (2,)
    for n in range(2):
        valid = np.flatnonzero(label[n].ravel() != IGNORE)
        x, truth = logits[n].reshape(3, 12)[:, valid].astype(float), label[n].ravel()[valid]
        assert value[n] == pytest.approx(REFERENCES[kind](x, truth), rel=2e-5)
        expected = np.zeros((3, 12))
        for k in range(3):
            for column, pixel in enumerate(valid):
                step = np.zeros_like(x)
                step[k, column] = 1e-5
                rise = REFERENCES[kind](x + step, truth) - REFERENCES[kind](x - step, truth)
                expected[k, pixel] = rise / 2e-5
        np.testing.assert_allclose(gradient[n].reshape(3, 12), expected, atol=3e-6)


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("scale", [30, 1e3, 1e4])
def test_finite_at_any_scale_and_right_where_most_losses_are_zero(kind, scale):
    rng = np.random.default_rng(2)
    logits = rng.choice([-scale, 0, scale], (2, 3, 8, 8)) + rng.normal(size=(2, 3, 8, 8))
    logits = logits.astype("float32")
    label = logits.argmax(axis=1)
    label[:, 0] = rng.integers(0, 3, (2, 8))
    value, gradient = run(make(kind), logits, label)
    assert np.isfinite(value).all() and np.isfinite(gradient).all() and gradient.any()
    if kind != "loss_max_pooling":  # its reference takes log(0)
        expected = [REFERENCES[kind](x.reshape(3, 64).astype(float), t.ravel()) for x, t in zip(logits, label)]
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", RIVALS)
def test_no_valid_pixel_no_loss_and_ignored_pixels_do_not_count(kind):
    rng = np.random.default_rng(3)
    logits, label = 3 * rng.normal(size=(3, 3, 4, 4)), rng.integers(0, 3, (3, 4, 4))
    label[0], label[1, 1:] = IGNORE, IGNORE
    value, gradient = run(make(kind), logits, label)
    assert value[0] == 0 and not gradient[0].any() and not gradient[1, :, 1:].any()
    cut_value, cut_gradient = run(make(kind), logits[1:2, :, :1], label[1:2, :1])
    np.testing.assert_allclose(value[1], cut_value[0], rtol=1e-5)
    np.testing.assert_allclose(gradient[1, :, :1], cut_gradient[0], atol=1e-6)


@pytest.mark.parametrize("kind", RIVALS)
def test_correct_and_certain_everywhere(kind):
    # losses that are all exactly 0, and for logit adjustment next to it
    value, gradient = run(make(kind), 1e4 * np.eye(3)[None, :, None], [[[0, 1, 2]]])
    assert value == [0] and not gradient.any()


@pytest.mark.parametrize("kind", RIVALS)
def test_hybridized_rows_types_and_incoming_gradient(kind):
    rng = np.random.default_rng(4)
    logits, label = rng.normal(size=(5, 3, 2, 3)), rng.integers(0, 3, (5, 2, 3))
    value, gradient = run(make(kind), logits, label)
    hybrid = make(kind)
    hybrid.hybridize()
    for _ in range(2):
        for expected, got in zip((value, gradient), run(hybrid, logits, label)):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    _, halved = run(make(kind), logits, label, head=[0.5, 0, 1, 1, 7])
    factors = np.reshape([0.5, 0, 1, 1, 7], (5, 1, 1, 1))
    np.testing.assert_allclose(halved, gradient * factors, rtol=1e-5, atol=1e-7)
    rows, row_gradient = run(make(kind), logits[:, :, 0, 0], label[:, 0, 0])
    images, image_gradient = run(make(kind), logits[:, :, :1, :1], label[:, :1, :1])
    np.testing.assert_array_equal(rows, images)
    np.testing.assert_array_equal(row_gradient, image_gradient[:, :, 0, 0])
    loss = make(kind)
    loss.initialize()
    half, whole = mx.nd.array(logits, dtype="float16"), mx.nd.array(label, dtype="int32")
    assert loss(half, whole).dtype == np.float32
    np.testing.assert_allclose(loss(half, whole).asnumpy(), value, rtol=5e-3, atol=1e-4)


# focal loss


def test_focal_by_hand():
    # q = 3/4 and 1/4: (1/16 * log(4/3) + 9/16 * log 4) / 2
    value, _ = run(FocalLoss(2), *with_entropies(np.log([4 / 3, 4])))
    np.testing.assert_allclose(value, [(np.log(4 / 3) / 16 + 9 * np.log(4) / 16) / 2], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 5])
def test_focal_with_another_gamma(gamma):
    rng = np.random.default_rng(5)
    logits, label = 2 * rng.normal(size=(1, 4, 5, 5)), rng.integers(0, 4, (1, 5, 5))
    value, gradient = run(FocalLoss(4, gamma=gamma), logits, label)
    np.testing.assert_allclose(value, [focal(logits.reshape(4, 25), label.ravel(), gamma)], rtol=1e-5)
    if gamma == 0:
        np.testing.assert_allclose(gradient, run(PixelCrossEntropy(4), logits, label)[1], atol=1e-7)
    certain = run(FocalLoss(2, gamma=gamma), [[1e4, -1e4]], [0])
    assert certain[0] == [0] and not certain[1].any()


# OHEM


def test_ohem_keeps_the_hard_pixels_and_no_other_gradient():
    # q: .9 .8 .6 .3: the last two are under 0.7
    value, gradient = run(OhemCrossEntropy(2), *with_entropies(-np.log([0.9, 0.8, 0.6, 0.3])))
    np.testing.assert_allclose(value, [-np.log(0.6 * 0.3) / 2], rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 0], [0, 0, -0.4 / 2, -0.7 / 2], atol=1e-6)


@pytest.mark.parametrize("min_kept, kept", [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (1, 4)])
def test_ohem_keeps_the_hardest_where_few_are_hard(min_kept, kept):
    q = np.array([0.95, 0.8, 0.9, 0.99])
    value, gradient = run(OhemCrossEntropy(2, min_kept=min_kept), *with_entropies(-np.log(q)))
    np.testing.assert_allclose(value, [-np.log(np.sort(q)[:kept]).mean()], rtol=1e-4)
    assert (gradient[0, 0, 0] != 0).tolist() == [rank < kept for rank in (2, 0, 1, 3)]


def test_ohem_ties_share_the_last_places():
    # two places: one for the hardest, one for the three that tie
    value, gradient = run(OhemCrossEntropy(2, min_kept=0.4), *with_entropies([0.3, 0.2, 0.2, 0.2, 0.1]))
    np.testing.assert_allclose(value, [(0.3 + 0.2) / 2], rtol=1e-5)
    easy = 1 - np.exp(-0.2)
    np.testing.assert_allclose(-gradient[0, 0, 0], [(1 - np.exp(-0.3)) / 2, *[easy / 6] * 3, 0], rtol=1e-4)


# loss max-pooling


@pytest.mark.parametrize("p", [1.3, 1.7, 3])
@pytest.mark.parametrize("support", [0.2, 0.25, 0.6])
def test_max_pooling_is_the_maximum(p, support):
    rng = np.random.default_rng(6)
    losses = rng.gamma(0.7, size=10) + 0.01
    bound = 10 ** (1 / p - 1)
    tau = bound * (support * 10) ** (-1 / p)
    solution = minimize(
        lambda w: -w @ losses,
        np.full(10, 0.1),
        jac=lambda w: -losses,
        method="SLSQP",
        bounds=[(0, tau)] * 10,
        constraints={
            "type": "ineq",
            "fun": lambda w: bound**p - (np.maximum(w, 0) ** p).sum(),
            "jac": lambda w: -p * np.maximum(w, 0) ** (p - 1),
        },
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert solution.success
    value, gradient = run(LossMaxPooling(2, p=p, support=support), *with_entropies(losses))
    assert value[0] == pytest.approx(-solution.fun, rel=2e-5)
    weights = gradient[0, 0, 0] / (np.exp(-losses) - 1)
    assert (weights**p).sum() == pytest.approx(bound**p, rel=1e-3) and weights.max() <= tau * (1 + 1e-4)
    np.testing.assert_allclose(weights, solution.x, atol=2e-3)


@pytest.mark.parametrize("settings", [{"p": np.inf}, {"support": 1}, {"p": 1e6}])
def test_max_pooling_of_uniform_weights_is_cross_entropy(settings):
    rng = np.random.default_rng(7)
    logits, label = 2 * rng.normal(size=(2, 4, 6, 6)), rng.choice([0, 1, 2, 3, IGNORE], (2, 6, 6))
    value, gradient = run(LossMaxPooling(4, **settings), logits, label)
    plain, plain_gradient = run(PixelCrossEntropy(4), logits, label)
    np.testing.assert_allclose(value, plain, rtol=1e-4)
    np.testing.assert_allclose(gradient, plain_gradient, atol=1e-5)


def test_max_pooling_of_equal_losses_is_their_mean_and_of_one_pixel_its_loss():
    np.testing.assert_allclose(run(LossMaxPooling(2), *with_entropies([0.5] * 7))[0], [0.5], rtol=1e-5)
    np.testing.assert_allclose(run(LossMaxPooling(2), *with_entropies([0.5]))[0], [0.5], rtol=1e-5)


@pytest.mark.parametrize("spread", [1, 5, 20])
def test_max_pooling_over_many_orders_of_magnitude(spread):
    rng = np.random.default_rng(8)
    logits = (spread * rng.normal(size=(1, 5, 100, 100))).astype("float32")
    label = rng.integers(0, 5, (1, 100, 100))
    value, _ = run(LossMaxPooling(5), logits, label)
    losses = np.maximum(entropies(logits.reshape(5, -1).astype(float), label.ravel()), 1e-30)
    assert value[0] == pytest.approx(lmp_weights(losses) @ losses, rel=1e-4)
    assert losses.mean() < value[0] < np.sort(losses)[-2500:].mean()


# logit adjustment


def test_a_class_without_pixels_is_pushed_down_by_the_adjusted_loss():
    loss = make("logit_adjusted", np.diag([90, 10, 0]))
    _, gradient = run(loss, [[0.0, 0.0, 0.0]], [0])
    # exp(shift) = 0.9, 0.1, 1
    np.testing.assert_allclose(gradient, [[0.45 - 1, 0.05, 0.5]], rtol=1e-5)


def test_tau_scales_the_adjustment():
    rng = np.random.default_rng(9)
    logits, label = rng.normal(size=(1, 3, 4, 4)), rng.integers(0, 3, (1, 4, 4))
    for tau in (0, 0.5, 2):
        value, _ = run(make("logit_adjusted", tau=tau), logits, label)
        np.testing.assert_allclose(value, [adjusted(logits.reshape(3, 16), label.ravel(), tau)], rtol=1e-5)


# settings


@pytest.mark.parametrize("kind", LOSS_SETTINGS)
def test_a_merged_group_makes_each_loss(kind):
    matrix = ConfusionMatrix.from_counts(np.arange(25).reshape(5, 5) + 20 * np.eye(5, dtype=int))
    merged = matrix.merged([1, 3])  # rows: 0, 2, 4 together, then 1, then 3
    value, gradient = run(make_loss(Loss(kind=kind), merged), np.zeros((2, 3, 2, 2)), np.ones((2, 2, 2)))
    assert (value > 0).all() and (gradient[:, 1] < 0).all()
    if kind == "inverse_frequency":
        rows = matrix.counts.sum(axis=1)
        f = np.array([rows[[0, 2, 4]].sum(), rows[1], rows[3]]) / rows.sum()
        np.testing.assert_allclose(value, np.log(3) / (3 * f[1]), rtol=1e-5)


def test_settings_reach_the_loss():
    logits, label = with_entropies([0.05, 0.2, 0.9, 2])
    for kind, change in (
        ("focal", {"gamma": 1}),
        ("ohem", {"threshold": 0.2}),
        ("ohem", {"min_kept": 1}),
        ("loss_max_pooling", {"p": 3}),
        ("loss_max_pooling", {"support": 0.8}),
        ("inverse_frequency", {"max_ratio": 2}),
        ("median_frequency", {"max_ratio": 2}),
        ("logit_adjusted", {"tau": 0.5}),
    ):
        counts = np.diag([10, 90])
        assert (
            abs(run(make(kind, counts, **change), logits, label)[0] - run(make(kind, counts), logits, label)[0]) > 0.01
        )


@pytest.mark.parametrize(
    "make_wrong, message",
    [
        (lambda: FocalLoss(3, gamma=-1), "focal loss gamma: .* at least 0, got -1"),
        (lambda: FocalLoss(3, gamma=np.nan), "focal loss gamma"),
        (lambda: OhemCrossEntropy(3, threshold=0), "OHEM threshold"),
        (lambda: OhemCrossEntropy(3, min_kept=1.5), "OHEM min_kept: .*1.5"),
        (lambda: LossMaxPooling(3, p=1), "loss max-pooling p: .* at least 1.1, got 1"),
        (lambda: LossMaxPooling(3, support=0), "loss max-pooling support"),
        (lambda: LogitAdjustedCrossEntropy([0, -np.inf]), "logit adjustment"),
        (lambda: LogitAdjustedCrossEntropy([[0, 1]]), "logit adjustment"),
    ],
)
def test_settings_out_of_range(make_wrong, message):
    with pytest.raises(ConfsegError, match=f"^{message}[^\n]*$"):
        make_wrong()
