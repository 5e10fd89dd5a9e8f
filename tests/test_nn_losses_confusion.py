"""The paper's loss: by hand, against Eq. 4 and a float64 reference, at the extremes, and in strips."""

import numpy as np
import pytest
from loss_references import IGNORE, confusion, equation_4, log_softmax, plain_loss, run

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import ConfusionCrossEntropy, losses


def with_diagonal(weights, diagonal):
    weights = np.array(weights, np.float32).astype(float)  # what the loss stores
    if diagonal == "one":
        np.fill_diagonal(weights, 1)
    return weights


def log_domain(phi, i, weights, lam):
    """Loss and gradient of one pixel in float64, from leave-one-out log-sums; for any logits."""
    log_q = log_softmax(phi)
    value, gradient = -weights[i, i] * log_q[i], weights[i, i] * np.exp(log_q)
    gradient[i] -= weights[i, i]
    for j in range(len(phi)):
        if j != i:
            rest = np.delete(phi, j)
            log_not = rest.max() + np.log(np.exp(rest - rest.max()).sum())
            log_not -= phi.max() + np.log(np.exp(phi - phi.max()).sum())
            value -= lam * weights[i, j] * log_not
            without = np.insert(np.exp(log_softmax(rest)), j, 0)  # softmax over the classes other than j
            gradient -= lam * weights[i, j] * (without - np.exp(log_q))
    return value, gradient


def check_pixels(logits, label, weights, lam=5.0, diagonal="confusion"):
    """(P, K) logits as a batch of P one-pixel samples, against the log-domain reference."""
    logits = np.asarray(logits, np.float32)
    value, gradient = run(ConfusionCrossEntropy(weights, lam=lam, diagonal=diagonal), logits, label)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    used = with_diagonal(weights, diagonal)
    expected = [log_domain(phi.astype(float), i, used, lam) for phi, i in zip(logits, label)]
    np.testing.assert_allclose(value, [v for v, _ in expected], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, [g for _, g in expected], rtol=0, atol=1e-5)


# the two references agree, so a mistake in one of them is seen


def test_references_agree():
    rng = np.random.default_rng(3)
    weights = confusion(4)
    for i in range(4):
        phi = rng.normal(size=4)
        value, gradient = log_domain(phi, i, weights, 5)
        assert value == pytest.approx(plain_loss(phi, i, weights, 5), rel=1e-12)
        np.testing.assert_allclose(gradient, equation_4(phi, i, weights, 5), atol=1e-12)
        step = [
            (log_domain(phi + e, i, weights, 5)[0] - log_domain(phi - e, i, weights, 5)[0]) / 2e-5
            for e in 1e-5 * np.eye(4)
        ]
        np.testing.assert_allclose(gradient, step, atol=1e-8)


@pytest.mark.parametrize("num_classes", [2, 3, 7, 19, 21])
@pytest.mark.parametrize("lam", [0, 1, 5])
@pytest.mark.parametrize("diagonal", ["confusion", "one"])
def test_autograd_is_equation_4(num_classes, lam, diagonal):
    rng = np.random.default_rng(num_classes)
    weights = confusion(num_classes)
    logits = (3 * rng.normal(size=(2, num_classes, 4, 5))).astype("float32")
    label = rng.integers(0, num_classes, (2, 4, 5))
    value, gradient = run(ConfusionCrossEntropy(weights, lam=lam, diagonal=diagonal), logits, label)
    used, pixels = with_diagonal(weights, diagonal), 20
    for n in range(2):
        phi = logits[n].reshape(num_classes, pixels).T.astype(float)
        truth = label[n].ravel()
        expected = np.mean([plain_loss(p, i, used, lam) for p, i in zip(phi, truth)])
        assert value[n] == pytest.approx(expected, rel=1e-5)
        eq4 = np.array([equation_4(p, i, used, lam) for p, i in zip(phi, truth)])
        np.testing.assert_allclose(gradient[n].reshape(num_classes, pixels).T * pixels, eq4, atol=1e-5)


def test_two_classes_by_hand():
    # q = (3/4, 1/4), truth 0:  - 0.9 log(3/4) - 5 * 0.1 * log(1 - 1/4)  =  - 1.4 log(3/4)
    # truth 1:                  - 0.7 log(1/4) - 5 * 0.3 * log(1 - 3/4)  =  - 2.2 log(1/4)
    loss = ConfusionCrossEntropy([[0.9, 0.1], [0.3, 0.7]])
    logits = np.log([[3.0, 1.0], [3.0, 1.0]])
    value, gradient = run(loss, logits, [0, 1])
    np.testing.assert_allclose(value, [-1.4 * np.log(0.75), -2.2 * np.log(0.25)], rtol=1e-6)
    # with two classes 1 - q_j = q_i, so the gradient is (c_ii + 5 c_ij) (q - one-hot)
    np.testing.assert_allclose(gradient, [[-1.4 * 0.25, 1.4 * 0.25], [2.2 * 0.75, -2.2 * 0.75]], rtol=1e-5)


def test_three_classes_by_hand():
    # q = (1/2, 1/4, 1/4), truth 1, row 1 = (0.2, 0.8, 0): only class 0 is penalised
    loss = ConfusionCrossEntropy([[1, 0, 0], [0.2, 0.8, 0], [0, 0, 1]], lam=2)
    value, gradient = run(loss, np.log([[2.0, 1.0, 1.0]]), [1])
    np.testing.assert_allclose(value, [-0.8 * np.log(0.25) - 0.4 * np.log(0.5)], rtol=1e-6)
    # 0.8 (q - one-hot)  +  0.4 q_0/(1 - q_0) * (1 - q_0, - q_1, - q_2) = 0.4 * (1/2, - 1/4, - 1/4)
    np.testing.assert_allclose(gradient, [[0.4 + 0.2, -0.6 - 0.1, 0.2 - 0.1]], rtol=1e-5)


# large logits, ties, q = 1/2


@pytest.mark.parametrize("num_classes", [2, 3, 7, 19])
@pytest.mark.parametrize("lam", [0, 1, 5])
@pytest.mark.parametrize("diagonal", ["confusion", "one"])
def test_logits_of_ten_thousand(num_classes, lam, diagonal):
    rng = np.random.default_rng(num_classes + 1)
    logits = rng.choice([-1e4, 0, 1e4], (60, num_classes)) + rng.normal(size=(60, num_classes))
    label = rng.integers(0, num_classes, 60)
    check_pixels(logits, label, confusion(num_classes), lam, diagonal)


@pytest.mark.parametrize("scale", [10, 100, 1000, 1e4])
def test_any_scale_of_logits(scale):
    rng = np.random.default_rng(int(scale))
    check_pixels(rng.normal(size=(60, 5)) * scale, rng.integers(0, 5, 60), confusion(5))


@pytest.mark.parametrize("scale", [10, 1000, 1e4])
def test_runners_up_far_below_the_top(scale):
    # the winner of the excess is decided by differences of about 1 at -scale; at -2 scale float32 would be 1e-3 off
    rng = np.random.default_rng(int(scale))
    logits = rng.normal(size=(60, 4)) - scale
    logits[:, 0] = scale
    check_pixels(logits, rng.integers(0, 4, 60), confusion(4))


@pytest.mark.parametrize("truth", [0, 1])
def test_only_the_wrong_class_at_ten_thousand(truth):
    # q = (0, 1) at truth 0:  L = 2e4 (c_00 + 5 c_01), gradient c_00 + 5 c_01 towards the truth
    logits = np.array([[-1e4, 1e4]])
    value, gradient = run(ConfusionCrossEntropy([[0.75, 0.25], [0.5, 0.5]]), logits, [truth])
    np.testing.assert_allclose(value, [2e4 * (0.75 + 1.25)] if truth == 0 else [0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-2, 2]] if truth == 0 else [[0, 0]], atol=1e-6)


@pytest.mark.parametrize("level", [-1e4, 0, 1e4])
def test_ties_of_the_top_logit(level):
    logits = [[2, 2], [2, 2], [-3, -3]]
    check_pixels(np.array(logits) + level, [0, 1, 0], confusion(2))
    logits = [[2, 2, 0], [0, 2, 2], [2, 2, 2], [2, 2, -1e4], [-1e4, 2, 2]]  # all three equal; two at exactly 1/2
    check_pixels(np.array(logits) + level, [2, 1, 0, 0, 0], confusion(3))


@pytest.mark.parametrize("others", [[], [-16.0], [-1e4, -1e4]])
def test_nearly_tied_logits(others):
    # the smallest differences that float32 has: both of two classes may round to q = 1/2
    rng = np.random.default_rng(len(others))
    logits = np.zeros((200, 2 + len(others)))
    logits[:, 1] = np.concatenate([np.arange(100) * 2.0**-25, rng.random(100) * 1e-5])
    logits[1::2, :2] = logits[1::2, 1::-1]
    logits[:, 2:] = others
    check_pixels(logits, rng.integers(0, 2, 200), confusion(logits.shape[1]))


def test_q_exactly_one_half():
    # exp: 2 of 4, so q_0 is exactly 1/2 and no class has more
    phi = np.log([2.0, 1.0, 1.0])
    check_pixels([phi, phi + 100, phi - 100], [1, 2, 0], confusion(3))


# what the weights do


def test_weights_change_the_gradient():
    logits = np.random.default_rng(11).normal(size=(2, 3, 2, 2))
    label = np.array([[[0, 1], [2, 0]], [[1, 1], [2, 2]]])
    weights = confusion(3)
    value, gradient = run(ConfusionCrossEntropy(weights), logits, label)
    for factor in (0.5, 3):
        scaled_value, scaled_gradient = run(ConfusionCrossEntropy(factor * weights), logits, label)
        np.testing.assert_allclose(scaled_value, factor * value, rtol=1e-5)
        np.testing.assert_allclose(scaled_gradient, factor * gradient, rtol=1e-4, atol=1e-7)
    changed = weights.copy()
    changed[0, 2] += 0.3
    _, other = run(ConfusionCrossEntropy(changed), logits, label)
    truth_0 = np.broadcast_to((label == 0)[:, None], gradient.shape)
    assert np.abs(other - gradient)[truth_0].min() > 1e-4
    np.testing.assert_array_equal(other[~truth_0], gradient[~truth_0])


def test_a_confused_class_is_driven_down():
    # c_ii = 0 leaves only the second term: descent lowers the confused class; Eq. 2's printed sign would raise it
    weights = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    logits = np.random.default_rng(12).normal(size=(20, 3))
    value, gradient = run(ConfusionCrossEntropy(weights), logits, np.zeros(20))
    assert (value > 0).all()
    assert (gradient[:, 1] > 0).all() and (gradient[:, [0, 2]] < 0).all()


def test_every_confused_class_has_a_positive_gradient_where_it_is_the_top():
    weights = confusion(4)
    for i in range(4):
        for j in set(range(4)) - {i}:
            _, gradient = run(ConfusionCrossEntropy(weights), [3.0 * np.eye(4)[j]], [i])
            assert gradient[0, j] > 0 > gradient[0, i]


def test_raising_lambda_pushes_the_confused_class_harder():
    logits, weights = [[0.0, 1.0, 0.5]], [[0.6, 0.4, 0], [0, 1, 0], [0, 0, 1]]
    pushes = [run(ConfusionCrossEntropy(weights, lam=lam), logits, [0])[1][0, 1] for lam in (0, 1, 5)]
    assert 0 < pushes[0] < pushes[1] < pushes[2]


def test_rows_are_truth():
    # only pixels of class 0 are ever taken for class 1, never the other way round
    weights = np.array([[0.5, 0.5], [0.0, 1.0]])
    value, _ = run(ConfusionCrossEntropy(weights), [[0.0, 0.0], [0.0, 0.0]], [0, 1])
    np.testing.assert_allclose(value, [0.5 * np.log(2) + 2.5 * np.log(2), np.log(2)], rtol=1e-6)


def test_permuting_the_classes_permutes_the_result():
    rng = np.random.default_rng(13)
    weights, order = confusion(6), rng.permutation(6)
    logits, label = rng.normal(size=(2, 6, 3, 3)), rng.integers(0, 6, (2, 3, 3))
    value, gradient = run(ConfusionCrossEntropy(weights), logits, label)
    # new class n is old class order[n]
    permuted = weights[np.ix_(order, order)]
    new_value, new_gradient = run(ConfusionCrossEntropy(permuted), logits[:, order], np.argsort(order)[label])
    np.testing.assert_allclose(new_value, value, rtol=1e-5)
    np.testing.assert_allclose(new_gradient, gradient[:, order], atol=1e-6)
    assert (
        np.abs(run(ConfusionCrossEntropy(weights), logits[:, order], np.argsort(order)[label])[0] - value).max() > 1e-3
    )


# strips: beside them the plain version, one graph over all pixels


class OneGraph(mx.gluon.HybridBlock):
    """A loss inside a hybridized block, where it is given symbols: no strips."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.hybridize()

    def hybrid_forward(self, F, logits, label):
        return self.loss(logits, label)


@pytest.mark.parametrize("diagonal", ["confusion", "one"])
@pytest.mark.parametrize("size", [(2, 3, 7, 11), (3, 3, 1, 1), (1, 3, 1, 40), (5, 3)])
@pytest.mark.parametrize("scale", [1, 1e4])
def test_strips_are_the_whole(monkeypatch, diagonal, size, scale):
    monkeypatch.setattr(losses, "_STRIP", 50)  # strips of a few pixels, the last one shorter
    rng = np.random.default_rng(size[0])
    logits = rng.normal(size=size) * scale
    label = rng.choice([0, 1, 2, IGNORE], (size[0], *size[2:]))
    head = rng.random(size[0])
    strips, whole = (ConfusionCrossEntropy(confusion(3), diagonal=diagonal) for _ in range(2))
    value, gradient = run(strips, logits, label, head=head)
    expected_value, expected_gradient = run(OneGraph(whole), logits, label, head=head)
    np.testing.assert_allclose(value, expected_value, rtol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert gradient.any() and np.isfinite(gradient).all()


def test_each_device_has_its_own_strips():
    rng = np.random.default_rng(19)
    logits, label = rng.normal(size=(2, 3, 4, 4)), rng.integers(0, 3, (2, 4, 4))
    loss = ConfusionCrossEntropy(confusion(3))
    contexts = [mx.cpu(0), mx.cpu(1)]
    loss.initialize(ctx=contexts)
    loss.hybridize(static_alloc=True)
    found = []
    for ctx in contexts:
        x = mx.nd.array(logits, ctx=ctx)
        x.attach_grad()
        with mx.autograd.record():
            value = loss(x, mx.nd.array(label, ctx=ctx))
        value.backward()
        assert value.ctx == x.grad.ctx == ctx
        found.append((value.asnumpy(), x.grad.asnumpy()))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


# errors


@pytest.mark.parametrize(
    "weights",
    [
        np.ones((2, 3)),
        np.ones(4),
        np.ones((2, 2, 2)),
        [[1.0]],
        -np.eye(2),
        [[1, np.nan], [0, 1]],
        [[1, np.inf], [0, 1]],
    ],
)
def test_unusable_weights(weights):
    with pytest.raises(ConfsegError, match="^loss weights: [^\n]*$"):
        ConfusionCrossEntropy(weights)


def test_unknown_diagonal():
    with pytest.raises(ConfsegError, match="loss diagonal: 'ones' is neither 'confusion' nor 'one'"):
        ConfusionCrossEntropy(np.eye(2), diagonal="ones")
