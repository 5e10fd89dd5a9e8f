"""Evaluation: every image once, at its own resolution, the same whatever the workers and devices."""

import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import open_dataset, synthetic
from gluon_confseg.data.transforms import normalize
from gluon_confseg.evaluation import evaluate
from gluon_confseg.groups import ClassGroup
from gluon_confseg.inference import Manner, Predictor, View
from gluon_confseg.nn import ConfSegNet, Fusion, Subnet, get_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GROUP = ClassGroup((2, 5, 7), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = synthetic.ensure("camvid", tmp_path_factory.mktemp("data") / "camvid", train=1, val=5, size=(70, 90), seed=3)
    return open_dataset("camvid", root, "val")


@pytest.fixture(scope="module")
def network():
    mx.random.seed(1)
    encoder = get_encoder("small", ctx=[mx.cpu(0), mx.cpu(1)])
    subnets = [Subnet(outputs, channels=8, dilation=2) for outputs in (11, 4)]
    for subnet in subnets:
        subnet.initialize(mx.init.Normal(0.3), ctx=[mx.cpu(0), mx.cpu(1)])
    fusion = Fusion([GROUP], 11)
    fusion.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    return encoder, subnets, fusion


def predictor(network, device=None, scale=1.0, flip=False):
    encoder, subnets, fusion = network
    views = {"both": View(("zero", "one"), fusion), "alone": View(("one",))}
    named = dict(zip(("zero", "one"), subnets))
    options = {"scale": scale, "manner": Manner(flip=flip), "mean": MEAN, "std": STD, "device": device or mx.cpu(0)}
    return Predictor(encoder, named, views, **options)


def tables():
    both, alone = np.full(256, 255, np.uint8), np.full(256, 255, np.uint8)
    both[:11] = np.arange(11)
    alone[:11] = GROUP.mapping(11)
    return {"both": both, "alone": alone}


def test_label_maps_are_those_of_the_whole_network(dataset, network):
    image = dataset.image(0)
    encoder, subnets, fusion = network
    whole = ConfSegNet(encoder, subnets, fusion)
    whole.upsample.initialize()
    scores = whole(mx.nd.array(normalize(image, MEAN, STD)[None]))
    found = predictor(network)(image)
    assert found["both"].dtype == np.uint8 and found["both"].shape == image.shape[:2]
    np.testing.assert_array_equal(found["both"], scores.asnumpy()[0].argmax(axis=0))
    assert len(np.unique(found["both"])) > 2


def test_a_working_scale_still_labels_every_pixel_of_the_file(dataset, network):
    image = dataset.image(0)
    half = predictor(network, scale=0.5)(image)["both"]
    assert half.shape == image.shape[:2]
    assert (half != predictor(network)(image)["both"]).any()


def test_flipping_adds_the_probabilities_of_the_mirrored_image(dataset, network):
    image = dataset.image(0)[:, :80]  # a multiple of the stride: mirrored, the features stand for the same pixels
    encoder, subnets, fusion = network
    whole = ConfSegNet(encoder, subnets, fusion)
    whole.upsample.initialize()

    def probabilities(picture):
        return whole(mx.nd.array(normalize(picture, MEAN, STD)[None])).softmax(axis=1).asnumpy()[0]

    expected = probabilities(image) + probabilities(np.ascontiguousarray(image[:, ::-1]))[:, :, ::-1]
    found = predictor(network, flip=True)(image)["both"]
    assert (found == expected.argmax(axis=0)).mean() > 0.9999
    assert (found != predictor(network)(image)["both"]).any()
    mirrored = predictor(network, flip=True)(np.ascontiguousarray(image[:, ::-1]))["both"]
    assert (mirrored[:, ::-1] == found).mean() > 0.9999


def test_counts_do_not_depend_on_workers_and_devices(dataset, network):
    expected = {"both": ConfusionMatrix(11), "alone": ConfusionMatrix(4)}
    one = predictor(network)
    for index in range(len(dataset)):
        label, found = dataset.label(index), one(dataset.image(index))
        for key, matrix in expected.items():
            matrix.update(tables()[key][label], found[key])
    for workers, devices in ((1, [mx.cpu(0)]), (3, [mx.cpu(0)]), (2, [mx.cpu(0), mx.cpu(1)])):
        predictors = [predictor(network, device) for device in devices]
        counted = evaluate(dataset, predictors, tables(), workers=workers, title="test")
        for key, matrix in expected.items():
            np.testing.assert_array_equal(counted[key].counts, matrix.counts)
    labelled = sum((dataset.label(i) != 255).sum() for i in range(len(dataset)))
    assert expected["both"].counts.sum() == expected["alone"].counts.sum() == labelled
