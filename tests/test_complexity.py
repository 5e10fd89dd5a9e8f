"""Costs from the graph against values computed by hand, published ones, and those of initialised blocks."""

import numpy as np
import pytest

from gluon_confseg import complexity
from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.nn import get_encoder

nn = mx.gluon.nn


def cost(block, *shape, constants=()):
    return complexity.count(block(mx.sym.var("data")), {"data": shape}, constants)


def sequence(*blocks):
    network = nn.HybridSequential()
    network.add(*blocks)
    return network


def test_a_small_network_by_hand():
    network = sequence(
        nn.Conv2D(8, 3, strides=2, padding=1, use_bias=False),  # (1, 4, 10, 12) -> (1, 8, 5, 6)
        nn.BatchNorm(),
        nn.Conv2D(8, 3, padding=2, dilation=2, groups=2),  # (1, 8, 5, 6)
        nn.Conv2DTranspose(3, 4, strides=2, padding=1),  # (1, 3, 10, 12)
        nn.Dense(7),
    )
    found = cost(network, 1, 4, 10, 12)
    weights = (8 * 4 * 9, 8 * 4 * 9 + 8, 8 * 3 * 16 + 3, 360 * 7 + 7)
    assert found.parameters == sum(weights) + 2 * 8
    assert found.parameter_bytes == 4 * (sum(weights) + 4 * 8)  # and the running mean and variance
    assert found.multiply_adds == 240 * 4 * 9 + 240 * 4 * 9 + 240 * 3 * 16 + 7 * 360
    assert found.activation_bytes == 4 * (240 + 240 + 240 + 360 + 7)
    # the image (480) stays; of outputs, the transposed convolution's and what it reads are alive at once
    assert found.live_bytes == 4 * (480 + 240 + 360)


def test_batch_and_size_multiply():
    network = sequence(nn.Conv2D(8, 3, padding=1), nn.Activation("relu"), nn.Conv2D(4, 1))
    one, four = cost(network, 1, 3, 8, 8), cost(network, 2, 3, 16, 8)
    assert four.parameters == one.parameters == 8 * 28 + 4 * 9
    assert four.multiply_adds == 4 * one.multiply_adds == 4 * 64 * (8 * 27 + 4 * 8)
    assert four.activation_bytes == 4 * one.activation_bytes and four.live_bytes == 4 * one.live_bytes


def test_what_is_kept_and_what_is_freed():
    x = mx.sym.var("data")
    first = mx.sym.relu(x)
    chain = mx.sym.relu(mx.sym.relu(mx.sym.relu(first)))
    inputs = {"data": (10,)}
    assert complexity.count(chain, inputs).live_bytes == 4 * (10 + 2 * 10)
    kept = mx.sym.Group([first, chain])
    assert complexity.count(kept, inputs).live_bytes == 4 * (10 + 3 * 10)
    assert complexity.count(first + chain, inputs).live_bytes == 4 * (10 + 3 * 10)
    assert complexity.count(chain, inputs).activation_bytes == 4 * 40


def test_operators_of_several_outputs():
    left, right, third = mx.sym.split(mx.sym.var("data"), num_outputs=3, axis=1)
    symbol = mx.sym.Convolution(left + third, kernel=(1, 1), num_filter=5, no_bias=True)
    symbol = mx.sym.broadcast_add(symbol, mx.sym.mean(right, keepdims=True))
    found = complexity.count(symbol, {"data": (1, 6, 2, 2)})
    assert found.multiply_adds == 20 * 2 and found.parameters == 10
    # three thirds, their sum, the convolution, the mean, the last sum
    assert found.activation_bytes == 4 * (3 * 8 + 8 + 20 + 1 + 20)


def test_constants_are_no_parameters():
    symbol = mx.sym.var("data") * mx.sym.var("fixed") + mx.sym.var("trained")
    inputs = {"data": (3, 2)}
    found = complexity.count(symbol, inputs, ["fixed"])
    assert (found.parameters, found.parameter_bytes, found.multiply_adds) == (6, 48, 0)


# torchvision's documentation of resnet50 and resnet101: parameters, and "GFLOPS" (multiply-adds) at 224 x 224
@pytest.mark.parametrize(
    "name, parameters, giga", [("resnet50_v1b", 25557032, 4.09), ("resnet101_v1b", 44549160, 7.80)]
)
def test_published_figures_of_classifiers(name, parameters, giga):
    network = import_gluoncv().model_zoo.get_model(name, pretrained=False)
    found = cost(network, 1, 3, 224, 224)
    assert found.parameters == parameters
    assert round(found.multiply_adds / 1e9, 2) == giga


def test_parameters_are_those_of_the_initialised_block():
    encoder = get_encoder("small")
    found = complexity.count(encoder(mx.sym.var("data"))[-1], {"data": (1, 3, 40, 24)})
    values = encoder.collect_params().values()
    sizes = [int(np.prod(p.shape)) for p in values]
    assert found.parameter_bytes == 4 * sum(sizes)
    assert found.parameters == sum(size for size, p in zip(sizes, values) if p.grad_req != "null") == 978936
