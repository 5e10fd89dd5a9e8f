"""The whole network is its parts: as it is, hybridized, exported and saved."""

import numpy as np
import pytest
from networks import SIZES, equal, image, seeded_encoder

from gluon_confseg.backend import mx
from gluon_confseg.groups import ClassGroup
from gluon_confseg.nn import ConfSegNet, Fusion, Subnet, get_encoder

GROUPS = [ClassGroup((1, 2, 4)), ClassGroup((0, 5))]


def network(seed=0, encoder="small", **options):
    mx.random.seed(seed)
    encoder = get_encoder(encoder)
    settings = {"channels": 8, "dilation": 2}
    subnets = [
        Subnet(6, **settings),
        Subnet(4, stages=(0, -1), **settings),
        Subnet(3, hidden=2, norm="batch", **settings),
    ]
    fusion = Fusion(GROUPS, 6, **options)
    for block in (*subnets, fusion):
        block.initialize(mx.init.Xavier())
    for subnet in subnets:
        subnet(*subnet.inputs(encoder(image(32, 32))))
        # far larger than it starts, so that the scores differ
        subnet.classifier.weight.set_data(mx.nd.random.normal(shape=subnet.classifier.weight.shape))
    net = ConfSegNet(encoder, subnets, fusion)
    net.upsample.initialize()
    return net


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("rule", ["sum", "product"])
def test_network_is_its_parts(height, width, rule):
    net = network(rule=rule)
    x = image(height, width, batch=2)
    maps = net.encoder(x)
    first, second, third = net.subnets
    scores = net.fusion(first(maps[-1]), second(maps[0], maps[-1], maps[-1]), third(maps[-1]))
    expected = mx.nd.contrib.BilinearResize2D(
        scores, height=8 * scores.shape[2], width=8 * scores.shape[3], align_corners=False
    )
    got = net(x)
    assert got.shape == (2, 6, height, width)
    equal(got, expected[:, :, :height, :width], 1e-4)
    assert got.asnumpy().std(axis=1).max() > 0.01  # the classes' scores differ


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "rule, others", [("sum", "copy"), ("product", "copy"), ("sum", "divide"), ("product", "proportional")]
)
def test_hybridized_network_is_the_same(seed, rule, others):
    net = network(seed, rule=rule, others=others)
    expected = [net(image(*size, seed)) for size in SIZES[:3]]
    net.hybridize()
    for size, scores in zip(SIZES, expected):
        equal(net(image(*size, seed)), scores, 1e-4)


@pytest.mark.parametrize("encoder", ["small", "resnet18_v1b"])
@pytest.mark.parametrize("rule", ["sum", "product"])
def test_exported_network_is_the_same(tmp_path, encoder, rule):
    net = network(encoder=encoder, rule=rule, class_frequency=np.arange(1, 7) / 21, adjustment=0.25)
    net.hybridize()
    expected = [net(image(*size)) for size in SIZES[:3]]
    net.export(str(tmp_path / "confseg"))
    imported = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "confseg-symbol.json"), ["data"], str(tmp_path / "confseg-0000.params")
    )
    for size, scores in zip(SIZES, expected):
        equal(imported(image(*size)), scores, 1e-4)


def test_network_without_groups_is_subnet_0():
    encoder, subnet = seeded_encoder(), Subnet(6, channels=8, dilation=2)
    net = ConfSegNet(encoder, [subnet], Fusion([], 6))
    for block in (subnet, net.fusion, net.upsample):
        block.initialize(mx.init.Xavier())
    x = image(32, 40)
    logits = subnet(*subnet.inputs(encoder(x)))
    equal(net.fusion(logits), mx.nd.log_softmax(logits, axis=1))
    equal(net(x), net.upsample(mx.nd.log_softmax(logits, axis=1), x), 1e-4)


def test_parameters_are_saved_and_loaded(tmp_path):
    net, other, x = network(0), network(1), image(24, 32)
    assert np.abs(net(x).asnumpy() - other(x).asnumpy()).max() > 0.1
    net.save_parameters(str(tmp_path / "net.params"))
    other.load_parameters(str(tmp_path / "net.params"))
    equal(other(x), net(x))


def test_any_block_with_a_stride_can_be_the_encoder():
    class Tiny(mx.gluon.HybridBlock):
        output_stride, stages = 3, 1

        def hybrid_forward(self, F, x):
            return (F.Pooling(x, kernel=(3, 3), stride=(3, 3), pool_type="avg", pooling_convention="full"),)

    net = ConfSegNet(Tiny(), [Subnet(2, channels=4, dilation=1)], Fusion([], 2))
    net.initialize(mx.init.Xavier())
    x = image(10, 14)
    assert net(x).shape == (1, 2, 10, 14)
    # stride 3: the middle one of a feature's three pixels is the feature
    equal(net(x)[:, :, 1::3, 1::3], net.fusion(net.subnets[0](net.encoder(x)[0]))[:, :, :3])
