"""A subnet: its settings, what it sees, and which of the encoder's stages it reads."""

import numpy as np
import pytest
from networks import equal

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import Subnet


def features(height=6, width=9, seed=0):
    """What an encoder would give: three stages, the first at twice the resolution of the last."""
    rng = np.random.default_rng(seed)
    shapes = ((2, 4, 2 * height, 2 * width - 1), (2, 5, height, width), (2, 6, height, width))
    return tuple(mx.nd.array(rng.normal(size=shape)) for shape in shapes)


def ready(subnet, seed=0, inputs=None):
    mx.random.seed(seed)
    subnet.initialize(mx.init.Xavier())
    subnet(*subnet.inputs(inputs or features()))
    return subnet


def shapes(subnet):
    return [p.shape for p in subnet.collect_params().values()]


@pytest.mark.parametrize("num_outputs", [2, 7, 19])
def test_subnet_outputs(num_outputs):
    subnet = ready(Subnet(num_outputs, channels=8))
    assert subnet.num_outputs == num_outputs
    assert subnet(*subnet.inputs(features())).shape == (2, num_outputs, 6, 9)
    assert shapes(subnet) == [(8, 6, 3, 3), (8,), (num_outputs, 8, 3, 3), (num_outputs,)]


def test_the_default_subnet_is_the_papers():
    subnet = ready(Subnet(5))
    assert shapes(subnet) == [(512, 6, 3, 3), (512,), (5, 512, 3, 3), (5,)]
    for convolution in (subnet.body[0], subnet.classifier):
        assert convolution._kwargs["dilate"] == (12, 12) and convolution._kwargs["pad"] == (12, 12)


@pytest.mark.parametrize("hidden", [0, 1, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_subnet_settings_are_honoured(hidden, kernel):
    subnet = ready(Subnet(3, hidden=hidden, channels=7, kernel=kernel, dilation=2))
    widths = [6] + [7] * hidden
    expected = [s for c in widths[:-1] for s in ((7, c, kernel, kernel), (7,))] + [
        (3, widths[-1], kernel, kernel),
        (3,),
    ]
    assert shapes(subnet) == expected
    assert subnet(*subnet.inputs(features())).shape == (2, 3, 6, 9)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_subnet_sees_as_far_as_its_dilation_says(dilation):
    # two 3x3 convolutions: a change at the centre reaches 2 x dilation pixels, in steps of the dilation
    subnet = ready(Subnet(2, channels=8, dilation=dilation), inputs=[mx.nd.zeros((1, 6, 21, 21))])
    x = mx.nd.array(np.random.default_rng(1).normal(size=(1, 6, 21, 21)))
    changed = x.copy()
    changed[:, :, 10, 10] += 5
    reached = np.abs((subnet(changed) - subnet(x)).asnumpy()).max(axis=(0, 1)) > 1e-7
    expected = {10 + step * dilation for step in (-2, -1, 0, 1, 2)}
    rows, columns = np.nonzero(reached)
    assert set(rows.tolist()) == set(columns.tolist()) == expected


def test_subnet_by_hand():
    # 1x1 kernels: classifier(relu(W x + b)), no ReLU after the classifier
    subnet = ready(Subnet(2, channels=3, kernel=1, dilation=1))
    x = features()[-1].asnumpy()
    weight, bias, classifier, classifier_bias = (p.data().asnumpy() for p in subnet.collect_params().values())
    hidden = np.maximum(np.einsum("oc,nchw->nohw", weight[..., 0, 0], x) + bias[:, None, None], 0)
    expected = np.einsum("oc,nchw->nohw", classifier[..., 0, 0], hidden) + classifier_bias[:, None, None]
    assert expected.min() < 0
    np.testing.assert_allclose(subnet(mx.nd.array(x)).asnumpy(), expected, rtol=1e-4, atol=1e-6)


def test_classifier_starts_small():
    subnet = ready(Subnet(50, channels=64))
    assert subnet.classifier.weight.data().asnumpy().std() == pytest.approx(0.01, rel=0.05)
    assert not subnet.classifier.bias.data().asnumpy().any()


def test_batch_norm():
    subnet = ready(Subnet(3, hidden=2, channels=8, norm="batch"))
    kinds = [type(block).__name__ for block in subnet.body]
    assert kinds == ["Conv2D", "BatchNorm", "Activation"] * 2
    assert subnet.body[0].bias is None and subnet.classifier.bias is not None
    plain = ready(Subnet(3, hidden=2, channels=8))
    assert [type(block).__name__ for block in plain.body] == ["Conv2D", "Activation"] * 2
    with mx.autograd.record():
        total = subnet(*subnet.inputs(features())).sum()
    total.backward()
    mx.nd.waitall()
    assert subnet.body[1].running_mean.data().asnumpy().any()


def test_inputs_are_the_chosen_stages():
    first, second, last = stages = features()
    assert Subnet(3).inputs(stages) == [last]
    for chosen, expected in (((0, -1), [first, last, last]), ((1,), [second, last]), ([0, 1], [first, second, last])):
        got = Subnet(3, stages=chosen).inputs(stages)
        assert len(got) == len(expected) and all(a is b for a, b in zip(got, expected))


def test_stages_are_concatenated_at_the_last_ones_size():
    stages = features()
    subnet = ready(Subnet(3, channels=8, stages=(0, -1)))
    assert subnet.stages == (0, -1)
    assert shapes(subnet)[0] == (8, 4 + 6, 3, 3)
    got = subnet(*subnet.inputs(stages))
    assert got.shape == (2, 3, 6, 9)
    resized = mx.nd.contrib.BilinearResize2D(stages[0], height=6, width=9, align_corners=False)
    equal(got, subnet.classifier(subnet.body(mx.nd.concat(resized, stages[-1], dim=1))))
    subnet.hybridize()
    for size in ((6, 9), (3, 5)):  # the resize is not baked into the graph
        other = features(*size)
        assert subnet(*subnet.inputs(other)).shape == (2, 3, *size)
    equal(subnet(*subnet.inputs(stages)), got)


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "hidden": 2}, {"stages": (0, 1, -1)}])
@pytest.mark.parametrize("seed", [0, 1])
def test_hybridized_subnet_is_the_same(options, seed):
    subnet = ready(Subnet(4, channels=8, dilation=2, **options), seed)
    inputs = subnet.inputs(features(seed=seed))
    expected = subnet(*inputs)
    subnet.hybridize()
    equal(subnet(*inputs), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_outputs": 1}, "a subnet wants at least 2 outputs, got 1"),
        ({"num_outputs": 3, "norm": "group"}, "subnet.norm: 'group' is neither 'none' nor 'batch'"),
    ],
)
def test_unusable_subnet_settings(options, message):
    with pytest.raises(ConfsegError, match=message):
        Subnet(**options)


def test_a_subnet_that_cannot_be_is_refused():
    with pytest.raises(ConfsegError, match="subnet.kernel: 2 is even"):
        Subnet(3, kernel=2)
    with pytest.raises(ConfsegError, match="there is no 5"):
        Subnet(3, stages=(5, -1)).inputs([1, 2, 3])
