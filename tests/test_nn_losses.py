import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import (
    ConfusionCrossEntropy,
    PixelCrossEntropy,
    losses,
)

IGNORE = 255


def confusion(num_classes, seed=0):
    """A row-normalised confusion matrix with a strong diagonal."""
    counts = np.random.default_rng(seed).random((num_classes, num_classes)) + num_classes * np.eye(num_classes)
    return counts / counts.sum(axis=1, keepdims=True)


def run(loss, logits, label, dtype="float32", head=None):
    """(loss per sample, gradient of their sum, or of their sum weighted by `head`), as numpy."""
    loss.initialize(force_reinit=True)
    x = mx.nd.array(logits, dtype=dtype)
    x.attach_grad()
    with mx.autograd.record():
        value = loss(x, mx.nd.array(label))
    value.backward() if head is None else value.backward(mx.nd.array(head))
    return value.asnumpy(), x.grad.asnumpy()


def with_diagonal(weights, diagonal):
    weights = np.array(weights, np.float32).astype(float)  # what the loss stores
    if diagonal == "one":
        np.fill_diagonal(weights, 1)
    return weights


def plain_loss(phi, i, weights, lam):
    """Section 3.2, one pixel, written out; for moderate logits."""
    q = np.exp(phi) / np.exp(phi).sum()
    others = [j for j in range(len(phi)) if j != i]
    return -weights[i, i] * np.log(q[i]) - lam * sum(weights[i, j] * np.log(1 - q[j]) for j in others)


def equation_4(phi, i, weights, lam):
    """Eq. 4 as the paper prints it, one pixel; for moderate logits."""
    q = np.exp(phi) / np.exp(phi).sum()
    inner = weights[i, i] + lam * sum(weights[i, j] * q[j] / (q[j] - 1) for j in range(len(phi)) if j != i)
    gradient = q * inner - lam * q / (q - 1) * weights[i]
    gradient[i] = q[i] * inner - weights[i, i]
    return gradient


def log_softmax(phi):
    return phi - phi.max() - np.log(np.exp(phi - phi.max()).sum())


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


# masks and means


def test_mean_is_over_the_valid_pixels_of_each_sample():
    weights = confusion(3)
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(3, 3, 2, 2)).astype("float32")
    label = np.array([[[0, 1], [2, 0]], [[1, IGNORE], [IGNORE, IGNORE]], [[IGNORE, 2], [IGNORE, 0]]])
    value, gradient = run(ConfusionCrossEntropy(weights), logits, label)
    assert value.shape == (3,)
    for n in range(3):
        valid = label[n] != IGNORE
        phi = logits[n][:, valid].T.astype(float)
        expected = [plain_loss(p, i, weights, 5) for p, i in zip(phi, label[n][valid])]
        assert value[n] == pytest.approx(sum(expected) / valid.sum(), rel=1e-5)
        eq4 = [equation_4(p, i, weights, 5) / valid.sum() for p, i in zip(phi, label[n][valid])]
        np.testing.assert_allclose(gradient[n][:, valid].T, eq4, atol=1e-5)
        assert not gradient[n][:, ~valid].any()


LOSSES = [lambda: ConfusionCrossEntropy(confusion(3)), lambda: PixelCrossEntropy(3, class_weights=[1, 2, 3])]


@pytest.mark.parametrize("make", LOSSES)
def test_content_of_ignored_pixels_does_not_matter(make):
    logits = np.random.default_rng(6).normal(size=(1, 3, 1, 4))
    label = np.array([[[0, IGNORE, 2, IGNORE]]])
    value, gradient = run(make(), logits, label)
    logits[..., 1], logits[..., 3] = [[[1e4], [-1e4], [0]]], [[[-1e4], [1e4], [1e4]]]
    other_value, other_gradient = run(make(), logits, label)
    np.testing.assert_array_equal(value, other_value)
    np.testing.assert_array_equal(gradient, other_gradient)
    assert not gradient[..., [1, 3]].any() and gradient[..., [0, 2]].all()


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("scale", [1, 1e4])
def test_no_valid_pixel(make, scale):
    logits = np.random.default_rng(7).normal(size=(2, 3, 2, 2)) * scale
    label = np.full((2, 2, 2), IGNORE)
    value, gradient = run(make(), logits, label)
    assert value.tolist() == [0, 0] and not gradient.any()

    label[1, 0, 0] = 2  # a sample without valid pixels beside one with some
    value, gradient = run(make(), logits, label)
    assert value[0] == 0 and value[1] > 0
    assert not gradient[0].any() and np.isfinite(gradient[1]).all() and gradient[1, :, 0, 0].any()


@pytest.mark.parametrize("ignore_label", [-1, 2, 200])
def test_another_ignore_label(ignore_label):
    logits = np.random.default_rng(8).normal(size=(1, 3, 1, 2))
    for make in (
        lambda k: ConfusionCrossEntropy(confusion(3), ignore_label=k),
        lambda k: PixelCrossEntropy(3, ignore_label=k),
    ):
        value, gradient = run(make(ignore_label), logits, [[[1, ignore_label]]])
        alone, _ = run(make(IGNORE), logits[..., :1], [[[1]]])
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        assert not gradient[..., 1].any() and gradient[..., 0].all()


@pytest.mark.parametrize("only", [0, 2])
def test_one_class_in_the_crop(only):
    weights = confusion(3)
    logits = np.random.default_rng(9).normal(size=(1, 3, 3, 3)).astype("float32")
    value, gradient = run(ConfusionCrossEntropy(weights), logits, np.full((1, 3, 3), only))
    phi = logits[0].reshape(3, 9).T.astype(float)
    np.testing.assert_allclose(value, [np.mean([plain_loss(p, only, weights, 5) for p in phi])], rtol=1e-5)
    np.testing.assert_allclose(
        gradient[0].reshape(3, 9).T * 9, [equation_4(p, only, weights, 5) for p in phi], atol=1e-5
    )


@pytest.mark.parametrize("make", LOSSES)
def test_rows_of_classes_are_pixels_of_one_by_one_images(make):
    rng = np.random.default_rng(10)
    logits, label = rng.normal(size=(5, 3)), np.array([0, 1, 2, IGNORE, 1])
    value, gradient = run(make(), logits, label)
    image_value, image_gradient = run(make(), logits[:, :, None, None], label[:, None, None])
    assert value.shape == (5,) and gradient.shape == (5, 3)
    np.testing.assert_array_equal(value, image_value)
    np.testing.assert_array_equal(gradient, image_gradient[:, :, 0, 0])
    assert value[3] == 0


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


@pytest.mark.parametrize("scale", [1, 100, 1e4])
def test_uniform_weights_without_lambda_are_cross_entropy(scale):
    rng = np.random.default_rng(14)
    logits = (rng.normal(size=(3, 5, 4, 4)) * scale).astype("float32")
    label = rng.integers(0, 5, (3, 4, 4))
    reference = mx.gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    expected_value, expected_gradient = run(reference, logits, label)
    by_hand = [
        -np.mean([log_softmax(phi)[i] for phi, i in zip(x.reshape(5, 16).T.astype(float), t.ravel())])
        for x, t in zip(logits, label)
    ]
    np.testing.assert_allclose(expected_value, by_hand, rtol=1e-5)
    for loss in (
        ConfusionCrossEntropy(np.ones((5, 5)), lam=0),
        ConfusionCrossEntropy(confusion(5), lam=0, diagonal="one"),
        PixelCrossEntropy(5),
    ):
        value, gradient = run(loss, logits, label)
        np.testing.assert_allclose(value, by_hand, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_identity_weights_are_cross_entropy_whatever_lambda_is():
    rng = np.random.default_rng(15)
    logits, label = rng.normal(size=(2, 4, 3, 3)), rng.integers(0, 4, (2, 3, 3))
    value, gradient = run(ConfusionCrossEntropy(np.eye(4), lam=5), logits, label)
    plain_value, plain_gradient = run(PixelCrossEntropy(4), logits, label)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, plain_gradient, atol=1e-7)


def test_a_weighted_sum_of_the_samples_weights_their_gradients():
    # GluonCV's losses on SoftmaxOutput fail this: their backward ignores the incoming gradient
    rng = np.random.default_rng(16)
    logits, label = rng.normal(size=(3, 4, 2, 2)), rng.integers(0, 4, (3, 2, 2))
    for make in (lambda: ConfusionCrossEntropy(confusion(4)), lambda: PixelCrossEntropy(4)):
        _, gradient = run(make(), logits, label)
        _, weighted = run(make(), logits, label, head=[0.5, 0, 7])
        np.testing.assert_allclose(weighted, gradient * np.reshape([0.5, 0, 7], (3, 1, 1, 1)), rtol=1e-5, atol=1e-8)
        assert gradient.any(axis=(1, 2, 3)).all()


# cross-entropy with class weights


def test_class_weights_by_hand():
    # q = (3/4, 1/4): pixels of class 0, 1 and ignored; the mean is over the pixels, not over their weights
    logits = np.tile(np.log([3.0, 1.0])[None, :, None, None], (1, 1, 1, 3))
    value, gradient = run(PixelCrossEntropy(2, class_weights=[2, 10]), logits, [[[0, 1, IGNORE]]])
    np.testing.assert_allclose(value, [(-2 * np.log(0.75) - 10 * np.log(0.25)) / 2], rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 0], [2 * (0.75 - 1) / 2, 10 * 0.75 / 2, 0], rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 1, 0], [2 * 0.25 / 2, 10 * (0.25 - 1) / 2, 0], rtol=1e-5)


def test_a_class_weight_of_zero_silences_its_pixels():
    value, gradient = run(PixelCrossEntropy(2, class_weights=[0, 1]), [[1.0, 2.0], [1.0, 2.0]], [0, 1])
    assert value[0] == 0 and value[1] > 0
    assert not gradient[0].any() and gradient[1].all()


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


@pytest.mark.parametrize("make", LOSSES)
def test_gradients_are_added_where_asked(make):
    logits, label = mx.nd.random.normal(shape=(2, 3, 4, 4)), mx.nd.zeros((2, 4, 4))
    loss = make()
    loss.initialize()
    logits.attach_grad()
    with mx.autograd.record():
        value = loss(logits, label)
    value.backward()
    once = logits.grad.asnumpy()
    logits.attach_grad("add")
    for _ in range(2):
        with mx.autograd.record():
            value = loss(logits, label) + loss(logits, label)
        value.backward()
    np.testing.assert_allclose(logits.grad.asnumpy(), 4 * once, rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize("make", LOSSES)
def test_a_second_backward_pass_gives_the_same(make):
    logits = mx.nd.random.normal(shape=(2, 3))
    logits.attach_grad()
    loss = make()
    loss.initialize()
    with mx.autograd.record():
        value = loss(logits, mx.nd.zeros((2,)))
    value.backward(retain_graph=True)
    once = logits.grad.asnumpy()
    value.backward()
    np.testing.assert_array_equal(logits.grad.asnumpy(), once)
    assert once.any()


# types, hybridization, errors


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("seed", [0, 1])
def test_hybridized_is_the_same(make, seed):
    rng = np.random.default_rng(seed)
    plain, hybrid = make(), make()
    hybrid.hybridize()
    for size in ((2, 3, 4, 4), (1, 3, 5, 2), (4, 3)):  # one graph, several shapes
        logits = rng.normal(size=size) * 10
        label = rng.choice([0, 1, 2, IGNORE], (size[0], *size[2:]))
        for expected, got in zip(run(plain, logits, label), run(hybrid, logits, label)):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", LOSSES)
def test_float16_logits_are_computed_in_float32(make):
    rng = np.random.default_rng(17)
    logits, label = rng.normal(size=(2, 3, 40, 40)).astype("float16"), rng.integers(0, 3, (2, 40, 40))
    value, gradient = run(make(), logits, label, dtype="float16")
    expected_value, expected_gradient = run(make(), logits.astype("float32"), label)
    assert value.dtype == np.float32 and gradient.dtype == np.float16
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
def test_any_type_of_label(dtype):
    logits = mx.nd.array(np.random.default_rng(18).normal(size=(1, 3, 2, 2)))
    label = np.array([[[0, 2], [IGNORE, 1]]])
    for make in LOSSES:
        loss = make()
        loss.initialize()
        expected = loss(logits, mx.nd.array(label)).asscalar()
        assert loss(logits, mx.nd.array(label, dtype=dtype)).asscalar() == expected > 0


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


@pytest.mark.parametrize("class_weights", [[1, 2], [1, 2, 3, 4], 1, [[1, 2, 3]], [1, -1, 1], [1, float("nan"), 1]])
def test_wrong_class_weights(class_weights):
    with pytest.raises(ConfsegError, match="class weights: wants 3 finite numbers"):
        PixelCrossEntropy(3, class_weights=class_weights)
