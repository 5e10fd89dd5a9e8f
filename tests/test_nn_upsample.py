"""Upsampling is MXNet's bilinear resize, and its fast path is the plain one."""

import numpy as np
import pytest
from networks import equal

from gluon_confseg.backend import mx
from gluon_confseg.nn import MatrixUpsample, Upsample


def upsampled(x, factor, size):
    upsample = Upsample(x.shape[1], factor)
    upsample.initialize()
    return upsample(x, mx.nd.zeros((x.shape[0], 1, *size)))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 2)])
def test_upsample_is_bilinear_resize(factor, size):
    x = mx.nd.array(np.random.default_rng(factor).normal(size=(2, 3, *size)))
    height, width = factor * size[0], factor * size[1]
    expected = mx.nd.contrib.BilinearResize2D(x, height=height, width=width, align_corners=False)
    equal(upsampled(x, factor, (height, width)), expected)
    for cut in (1, factor - 1):  # an image that is no multiple of the stride: the same pixels, cropped
        equal(upsampled(x, factor, (height - cut, width)), expected[:, :, : height - cut])
        equal(upsampled(x, factor, (height, width - cut)), expected[:, :, :, : width - cut])


def test_upsample_by_hand():
    # half-pixel centres: pixels at -1/4, 1/4, 3/4, 5/4 of the way from the first value to the second, edges held
    x = mx.nd.array([[[[0, 8]]]])
    assert upsampled(x, 2, (2, 4)).asnumpy().tolist() == [[[[0, 2, 6, 8]] * 2]]
    np.testing.assert_allclose(upsampled(x, 3, (1, 6)).asnumpy().ravel(), [0, 0, 8 / 3, 16 / 3, 8, 8], atol=1e-6)


def test_upsample_by_one_is_the_identity():
    x = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    equal(upsampled(x, 1, (4, 5)), x, 0)
    equal(upsampled(x, 1, (3, 5)), x[:, :, :3], 0)


def test_upsample_is_linear_backwards_too():
    x = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 3, 4)))
    upsample = Upsample(3, 4)
    upsample.initialize()
    x.attach_grad()
    for size in ((12, 16), (11, 13)):
        with mx.autograd.record():
            upsample(x, mx.nd.zeros((2, 1, *size))).sum().backward()
        # the weights of a pixel sum to 1, so the gradients of a channel sum to its number of pixels
        np.testing.assert_allclose(x.grad.asnumpy().sum(axis=(2, 3)), np.prod(size), rtol=1e-5)
        assert (x.grad.asnumpy() > 0).all()
    assert all(p.grad_req == "null" for p in upsample.collect_params().values())


def test_hybridized_upsample_is_the_same():
    upsample = Upsample(3, 8)
    upsample.initialize()
    cases = [(mx.nd.array(np.random.default_rng(h).normal(size=(1, 3, h, w))), h, w) for h, w in ((2, 3), (4, 3))]
    expected = [upsample(x, mx.nd.zeros((1, 1, 8 * h - 3, 8 * w))) for x, h, w in cases]
    upsample.hybridize()
    for (x, h, w), y in zip(cases, expected):
        equal(upsample(x, mx.nd.zeros((1, 1, 8 * h - 3, 8 * w))), y)


@pytest.mark.parametrize("factor, size, cut", [(1, (4, 5), (3, 5)), (3, (1, 4), (2, 12)), (8, (3, 2), (24, 13))])
def test_matrix_upsample_is_upsample(factor, size, cut):
    """The fast path of training against the plain one: values, gradients, and sizes that come again."""
    plain, fast = Upsample(3, factor), MatrixUpsample(factor)
    plain.initialize()
    rng = np.random.default_rng(factor)
    for height, width in (cut, (factor * size[0], factor * size[1]), cut):
        x = mx.nd.array(rng.normal(size=(2, 3, *size)))
        pull = mx.nd.array(rng.normal(size=(2, 3, height, width)))
        x.attach_grad()
        found = []
        for upsample, like in ((plain, pull), (fast, (height, width))):
            with mx.autograd.record():
                upsampled = upsample(x, like)
            upsampled.backward(pull)
            found.append((upsampled, x.grad.copy()))
        for one, other in zip(*found):
            equal(one, other)
