"""Subnets whose first hidden convolutions run as one give what they give one by one."""

import json

import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.groups import ClassGroup
from gluon_confseg.nn import ConfSegNet, Fusion, MergedSubnets, Subnet, get_encoder

COMMON = {"channels": 8, "dilation": 2}


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 24, 32), (2, 5, 12, 16), (2, 6, 12, 16))
    return [mx.nd.array(rng.normal(size=shape)) for shape in shapes]


def trained(*subnets, features):
    for subnet in subnets:
        subnet.initialize(mx.init.Normal(0.5), force_reinit=True)
        subnet(*subnet.inputs(features))
    return list(subnets)


def merge(subnets):
    merged = MergedSubnets(subnets)
    merged.copy_values(subnets)
    return merged


def shared_filters(merged):
    return [convolution.weight.shape[0] for convolution in merged.shared]


def convolutions(symbol):
    return sum(node["op"] == "Convolution" for node in json.loads(symbol.tojson())["nodes"])


@pytest.mark.parametrize(
    "subnets, shared",
    [
        ((Subnet(5, **COMMON), Subnet(3, **COMMON), Subnet(4, channels=6, dilation=2)), [22]),
        # subnet 0 of the paper's ResNet-101 has a second hidden convolution, which stays its own
        ((Subnet(5, hidden=2, **COMMON), Subnet(3, **COMMON)), [16]),
        ((Subnet(5, norm="batch", **COMMON), Subnet(3, norm="batch", **COMMON), Subnet(2, **COMMON)), [16]),
        ((Subnet(5, stages=(0, 2), **COMMON), Subnet(3, **COMMON), Subnet(2, stages=(0, 2), **COMMON)), [16]),
        ((Subnet(5, channels=8, dilation=2), Subnet(3, channels=8, dilation=4)), []),
        ((Subnet(5, hidden=0), Subnet(3, hidden=0)), []),
        ((Subnet(5, **COMMON),), []),
    ],
    ids=["widths", "two hidden", "batchnorm", "stages", "other dilation", "no hidden", "one"],
)
@pytest.mark.parametrize("hybridize", [False, True])
def test_same_logits(subnets, shared, hybridize, features):
    subnets = trained(*subnets, features=features)
    alone = [subnet(*subnet.inputs(features)).asnumpy() for subnet in subnets]
    merged = merge(subnets)
    assert shared_filters(merged) == shared
    assert merged.num_outputs == tuple(logits.shape[1] for logits in alone)
    if hybridize:
        merged.hybridize()
    for together, one in zip(merged(*features), alone):
        np.testing.assert_allclose(together.asnumpy(), one, rtol=1e-5, atol=1e-5)


def test_values_are_copies(features):
    subnets = trained(Subnet(5, **COMMON), Subnet(3, **COMMON), features=features)
    merged = merge(subnets)
    before = merged(*features)[1].asnumpy()
    subnets[1].body[0].weight.set_data(subnets[1].body[0].weight.data() * 2)
    np.testing.assert_array_equal(merged(*features)[1].asnumpy(), before)
    merged.copy_values(subnets)
    assert np.abs(merged(*features)[1].asnumpy() - before).max() > 0.1


def test_whole_network_has_one_hidden_convolution():
    encoder, groups = get_encoder("small"), [ClassGroup((0, 1), "test"), ClassGroup((2, 3, 4), "test")]
    image = mx.nd.random.normal(shape=(1, 3, 40, 56))
    subnets = trained(Subnet(5, **COMMON), Subnet(3, **COMMON), Subnet(4, **COMMON), features=encoder(image))
    fusion = Fusion(groups, 5)
    fusion.initialize()
    networks = [ConfSegNet(encoder, subnets, fusion), ConfSegNet(encoder, merge(subnets), fusion)]
    scores = []
    for network in networks:
        network.upsample.initialize()
        network.hybridize()
        scores.append(network(image).asnumpy())
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5, atol=1e-5)
    separate, together = (convolutions(network(mx.sym.var("data"))) for network in networks)
    assert separate - together == 2  # three hidden convolutions have become one
