"""What the losses share: the mean over valid pixels, shapes, types, autograd; and cross-entropy with class weights."""

import numpy as np
import pytest
from loss_references import IGNORE, confusion, equation_4, log_softmax, plain_loss, run

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import ConfusionCrossEntropy, PixelCrossEntropy

LOSSES = [lambda: ConfusionCrossEntropy(confusion(3)), lambda: PixelCrossEntropy(3, class_weights=[1, 2, 3])]


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


# cross-entropy


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


@pytest.mark.parametrize("class_weights", [[1, 2], [1, 2, 3, 4], 1, [[1, 2, 3]], [1, -1, 1], [1, float("nan"), 1]])
def test_wrong_class_weights(class_weights):
    with pytest.raises(ConfsegError, match="class weights: wants 3 finite numbers"):
        PixelCrossEntropy(3, class_weights=class_weights)


# autograd


def test_a_weighted_sum_of_the_samples_weights_their_gradients():
    # GluonCV's losses on SoftmaxOutput fail this: their backward ignores the incoming gradient
    rng = np.random.default_rng(16)
    logits, label = rng.normal(size=(3, 4, 2, 2)), rng.integers(0, 4, (3, 2, 2))
    for make in (lambda: ConfusionCrossEntropy(confusion(4)), lambda: PixelCrossEntropy(4)):
        _, gradient = run(make(), logits, label)
        _, weighted = run(make(), logits, label, head=[0.5, 0, 7])
        np.testing.assert_allclose(weighted, gradient * np.reshape([0.5, 0, 7], (3, 1, 1, 1)), rtol=1e-5, atol=1e-8)
        assert gradient.any(axis=(1, 2, 3)).all()


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


# types and hybridization


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
