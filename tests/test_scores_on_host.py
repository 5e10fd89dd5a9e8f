"""The CPU's label maps and probabilities against the plain ones: upsampling all scores, then arg max or softmax."""

import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.nn import Upsample
from gluon_confseg.scores_on_device import OnDevice
from gluon_confseg.scores_on_host import OnHost, added_probabilities, upsampled_arg_max


def plain(scores, stride, inner, size):
    """Scores of the input's size, resized where the image has another; and the labels."""
    upsample = Upsample(scores.shape[0], stride)
    upsample.initialize()
    whole = upsample(mx.nd.array(scores[None]), mx.nd.zeros((1, 1, *inner)))
    if inner != size:
        whole = mx.nd.contrib.BilinearResize2D(whole, height=size[0], width=size[1], align_corners=False)
    return whole[0].asnumpy(), whole.argmax(axis=1)[0].asnumpy().astype("uint8")


@pytest.mark.parametrize(
    "classes, stride, inner, size",
    [
        (19, 8, (128, 256), (128, 256)),  # one strip
        (5, 8, (301, 203), (301, 203)),  # three strips, the input is no multiple of the stride
        (5, 8, (136, 64), (136, 64)),  # one row of features in the second strip
        (2, 4, (9, 70), (9, 70)),
        (11, 8, (180, 240), (360, 480)),  # half the image's resolution
        (3, 8, (90, 120), (71, 133)),
        (4, 1, (20, 30), (20, 30)),
        (256, 4, (36, 20), (36, 20)),
        (3, 8, (4, 1), (4, 1)),
    ],
)
def test_same_labels_but_for_near_ties(classes, stride, inner, size):
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(classes, -(-inner[0] // stride), -(-inner[1] // stride))).astype("float32")
    found = upsampled_arg_max(scores, stride, inner, size)
    whole, wanted = plain(scores, stride, inner, size)
    assert found.shape == size and found.dtype == np.uint8
    differ = found != wanted
    first, second = np.sort(whole, axis=0)[[-1, -2]]
    assert differ.mean() < 1e-3 and (first - second)[differ].max(initial=0) < 1e-5


def test_of_equal_scores_the_first_class_wins():
    scores = np.zeros((4, 5, 6), np.float32)
    scores[0] -= 1
    assert (upsampled_arg_max(scores, 8, (40, 48), (40, 48)) == 1).all()


def test_scores_of_minus_infinity_everywhere_are_the_first_class():
    assert not upsampled_arg_max(np.full((3, 2, 2), -np.inf, np.float32), 8, (16, 16), (16, 16)).any()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("size", [(136, 203), (150, 200)])
def test_probabilities_of_several_passes_are_those_of_the_device(images, size):
    """Inputs of the image's size and of another; two strips; with and without a flipped image."""
    rng, passes = np.random.default_rng(3), []
    for height, width in ((136, 203), (70, 99)):
        scores = rng.normal(size=(images, 5, -(-height // 8), -(-width // 8)), scale=4)
        passes.append((mx.nd.array(scores), mx.nd.zeros((images, 3, height, width))))
    host, device = OnHost(8), OnDevice(8, mx.cpu())
    for some in (passes, passes[:1]):
        found, wanted = host.probabilities(some, size), device.probabilities(some, size).asnumpy()
        assert found.shape == (5, *size) and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=0), images * len(some), atol=1e-5)
        labels = host.labels(some, size)
        assert labels.dtype == np.uint8 and (labels != device.labels(some, size).asnumpy()).mean() < 1e-3


def test_probabilities_of_scores_too_large_for_exp():
    scores = np.array([[[[1e4]], [[-1e4]], [[1e4]]]], np.float32)
    (found,) = added_probabilities([(scores, (8, 8))], 8, (8, 8))
    np.testing.assert_array_equal(found[:, 0, 0], [0.5, 0, 0.5])
