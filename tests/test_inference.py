"""How an image is labelled: scales, flip, windows and their seams, strips, several devices."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gluon_confseg import inference, scores_on_host
from gluon_confseg.backend import mx
from gluon_confseg.data.transforms import normalize
from gluon_confseg.groups import ClassGroup
from gluon_confseg.inference import Manner, Predictor, View, label_all, window_starts
from gluon_confseg.nn import Fusion, Subnet, Upsample, get_encoder
from gluon_confseg.scores_on_device import OnDevice
from gluon_confseg.scores_on_host import OnHost

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _without_a_favourite(encoder, subnet):
    """A random head prefers one class everywhere: take each class's mean score off."""
    logits = subnet(*subnet.inputs(encoder(mx.nd.array(normalize(colourful(), MEAN, STD)[None]))))
    bias = [value for name, value in subnet.collect_params().items() if name.endswith("bias")][-1]
    bias.set_data(-logits.mean(axis=(0, 2, 3)))


@pytest.fixture(scope="module", params=["host", "device"])
def network(request):
    """With what a GPU does too, on the CPU."""
    mx.random.seed(2)
    encoder = get_encoder("small", ctx=[mx.cpu()])
    subnets = [Subnet(outputs, channels=8, dilation=2) for outputs in (11, 4)]
    for subnet in subnets:
        subnet.initialize(mx.init.Normal(1))
        _without_a_favourite(encoder, subnet)
    fusion = Fusion([ClassGroup((2, 5, 7), "test")], 11)
    fusion.initialize()
    return encoder, subnets, fusion, request.param


def predictor(network, scale=1.0, **manner):
    encoder, subnets, fusion, where = network
    views = {"both": View(("zero", "one"), fusion), "alone": View(("zero",))}
    named = dict(zip(("zero", "one"), subnets))
    options = {"scale": scale, "manner": Manner(**manner), "mean": MEAN, "std": STD, "device": mx.cpu()}
    made = Predictor(encoder, named, views, **options)
    if where == "device":
        made._scores = OnDevice(encoder.output_stride, mx.cpu())
    return made


def colourful():
    """Patches of colours, 48x80."""
    patches = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)
    return cv2.resize(patches, (80, 48), interpolation=cv2.INTER_NEAREST)


def test_one_scale_is_a_working_scale_and_multiplies_it(network):
    image = colourful()
    for flip in (False, True):
        plain = predictor(network, scale=0.5, flip=flip)(image)
        for other in (
            predictor(network, scale=1.0, scales=(0.5,), flip=flip),
            predictor(network, scale=0.25, scales=(2,), flip=flip),
        ):
            for key, label in other(image).items():
                np.testing.assert_array_equal(label, plain[key])


@pytest.mark.parametrize("flip", [False, True])
def test_several_scales_add_probabilities_at_the_image_s_size(network, flip):
    image = colourful()
    encoder, subnets, fusion, _ = network
    pictures = [cv2.resize(image, (40, 24), interpolation=cv2.INTER_AREA), image]
    pictures.append(cv2.resize(image, (120, 72), interpolation=cv2.INTER_LINEAR))

    def probabilities(picture, head):
        x = mx.nd.array(normalize(np.ascontiguousarray(picture), MEAN, STD)[None])
        features = encoder(x)
        logits = [subnet(*subnet.inputs(features)) for subnet in subnets]
        scores = fusion(*logits) if head == "both" else logits[0]
        upsample = Upsample(11, encoder.output_stride)
        upsample.initialize()
        found = upsample(scores, x).softmax(axis=1)
        return mx.nd.contrib.BilinearResize2D(found, height=48, width=80, align_corners=False).asnumpy()[0]

    found = predictor(network, scale=1.0, scales=(0.5, 1, 1.5), flip=flip)(image)
    single = predictor(network, scale=1.0, flip=flip)(image)
    for head in ("both", "alone"):
        expected = sum(probabilities(picture, head) for picture in pictures)
        if flip:
            expected = expected + sum(probabilities(picture[:, ::-1], head) for picture in pictures)[:, :, ::-1]
        assert (found[head] == expected.argmax(axis=0)).mean() > 0.999  # the mirrored half is added in another order
        assert (found[head] != single[head]).mean() > 0.05


def noise(height, width, seed=5):
    """Coloured patches of 8x8 pixels."""
    patches = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(np.kron(patches, np.ones((8, 8, 1), np.uint8))[:height, :width])


def test_where_windows_begin():
    assert window_starts(100, 100) == window_starts(50, 100) == window_starts(1, 3) == [0]
    assert window_starts(101, 100) == [0, 1]
    assert window_starts(90, 30) == [0, 20, 40, 60]
    assert window_starts(91, 30) == [0, 20, 40, 60, 61]
    for length, window in ((1024, 513), (2048, 768), (77, 32), (33, 32)):
        starts = window_starts(length, window)
        assert starts[0] == 0 and starts[-1] + window == length
        assert all(0 < after - before <= window - window // 3 for before, after in zip(starts, starts[1:]))


def in_memory(labels):
    return labels if isinstance(labels, np.ndarray) else labels.asnumpy()


ARRAYS = pytest.mark.parametrize("arrays, make", [(OnHost, np.array), (OnDevice, mx.nd.array)])


@ARRAYS
def test_seams_by_hand(arrays, make):
    """Two classes, windows of 3 pixels at 0 and 2 of a row of 5: pixel 2 gets the sum."""
    mosaic = inference._Mosaic([0], [0, 2], arrays)
    first = [[[0.9, 0.6, 0.6]], [[0.1, 0.4, 0.4]]]
    second = [[[0.3, 0.8, 0.2]], [[0.7, 0.2, 0.8]]]
    mosaic.add(0, 0, make(first, dtype=np.float32))
    mosaic.add(0, 1, make(second, dtype=np.float32))
    np.testing.assert_array_equal(in_memory(mosaic.labels()), [[0, 0, 1, 0, 1]])


@ARRAYS
@pytest.mark.parametrize("size, window", [((40, 70), (32, 33)), ((100, 97), (32, 48)), ((33, 95), (64, 32))])
def test_a_mosaic_is_the_arg_max_of_the_sum(size, window, arrays, make):
    tops, lefts = (window_starts(*sides) for sides in zip(size, window))
    height, width = map(min, zip(size, window))
    rng, total = np.random.default_rng(0), np.zeros((4, *size), np.float32)
    mosaic = inference._Mosaic(tops, lefts, arrays)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            scores = rng.integers(0, 1000, (4, height, width)).astype(np.float32)  # sums are exact in any order
            total[:, top : top + height, left : left + width] += scores
            mosaic.add(row, column, make(scores, dtype=np.float32))
    assert len(tops) * len(lefts) > 2
    np.testing.assert_array_equal(in_memory(mosaic.labels()), total.argmax(axis=0))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_an_image_that_fits_into_the_window_is_labelled_as_without(network, flip, scales):
    image = noise(48, 80)
    whole = predictor(network, flip=flip, scales=scales)(image)
    for window in ((48, 80), (480, 800), (48, 800)):
        found = predictor(network, flip=flip, scales=scales, window=window)(image)
        for key, label in found.items():
            np.testing.assert_array_equal(label, whole[key])


@pytest.mark.parametrize("manner", [Manner(), Manner(flip=True), Manner((0.5, 1.0, 1.5), True)])
def test_windows_add_what_each_of_them_gives(network, manner):
    """Against sums over the windows as images of their own, in NumPy: also with flip and scales together."""
    image, window = noise(61, 83), (32, 48)
    found = predictor(network, **vars(replace(manner, window=window)))(image)
    single = predictor(network, **vars(manner))
    total = np.zeros((11, 61, 83))
    for top in window_starts(61, 32):
        for left in window_starts(83, 48):
            crop = image[top : top + 32, left : left + 48]
            passes = [single._pass(crop, scale) for scale in manner.scales]
            scores = single._scores.probabilities([(fused["both"], x) for x, fused in passes], (32, 48))
            total[:, top : top + 32, left : left + 48] += in_memory(scores)
    assert (found["both"] == total.argmax(axis=0)).mean() > 0.999  # sums of more than two depend on their order
    assert (found["both"] != predictor(network, **vars(manner))(image)["both"]).any()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(128, 40), (129, 33), (300, 50), (391, 24)])
def test_strips_give_the_labels_of_the_whole(network, monkeypatch, size, flip):
    """The saving is exact: the upsampled scores of a strip are those of the whole image, bit by bit."""
    image, one = noise(*size), predictor(network, flip=flip)
    found = one(image)
    x, fused = one._pass(image, 1.0)
    parts = one._scores.probabilities([(fused["both"], x)], size)
    assert len(list(scores_on_host.strips(size[0], 8))) == -(-size[0] // 128)
    monkeypatch.setattr(scores_on_host, "STRIP", 1000)
    whole = one._scores.probabilities([(fused["both"], x)], size)
    np.testing.assert_array_equal(in_memory(parts), in_memory(whole))
    for key, label in one(image).items():
        np.testing.assert_array_equal(found[key], label)


@pytest.mark.parametrize("window", [None, (32, 32)])
@pytest.mark.parametrize("devices, ahead", [(1, 0), (1, 1), (2, 0), (2, 1), (3, 1)])
def test_devices_share_the_images_and_keep_their_order(network, monkeypatch, window, devices, ahead):
    if not ahead:
        monkeypatch.setattr(inference, "_SMALL", 0)
    images = [noise(40 + 8 * number, 56, seed=number) for number in range(5)]
    expected = [predictor(network, window=window)(image)["both"] for image in images]
    taken = []

    def read():
        for number, image in enumerate(images):
            taken.append(number)
            yield str(number), image

    made = [predictor(network, window=window) for _ in range(devices)]
    for number, (tag, image, labels) in enumerate(label_all(made, read())):
        assert tag == str(number) and image is images[number]
        assert len(taken) <= number + devices + ahead  # memory: no image is taken before a device has room for it
        np.testing.assert_array_equal(labels["both"], expected[number])
    assert number == 4
