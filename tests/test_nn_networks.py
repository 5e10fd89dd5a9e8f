from math import ceil

import numpy as np
import pytest

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup
from gluon_confseg.nn import ENCODERS, ConfSegNet, Fusion, MatrixUpsample, Subnet, Upsample, get_encoder

SIZES = [(32, 48), (33, 47), (41, 40), (7, 1)]


def image(height, width, seed=0, batch=1):
    return mx.nd.array(np.random.default_rng(seed).normal(size=(batch, 3, height, width)))


def equal(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got.asnumpy(), expected.asnumpy(), rtol=tolerance, atol=tolerance)


def seeded_encoder(name="small", seed=0, **options):
    mx.random.seed(seed)
    return get_encoder(name, **options)


def parameters(block):
    return sum(int(np.prod(p.shape)) for p in block.collect_params().values() if p.grad_req != "null")


# encoders


def test_small_encoder_has_978936_parameters():
    # 3x3 convolutions, written as input x output channels
    convolutions = 9 * (3 * 24 + 24 * 32 + 2 * 32 * 32 + (32 + 3 * 64) * 64 + (64 + 5 * 128) * 128)
    projections = 32 * 64 + 64 * 128
    scales_and_shifts = 2 * (24 + 32 + 2 * 32 + 5 * 64 + 7 * 128)  # one BatchNorm per convolution
    count = parameters(get_encoder("small"))
    assert count == convolutions + projections + scales_and_shifts == 978936
    assert 0.9e6 < count < 1.1e6


@pytest.mark.parametrize("height, width", SIZES)
def test_small_encoder_stages(height, width):
    encoder = get_encoder("small")
    features = encoder(image(height, width, batch=2))
    assert len(features) == encoder.stages == 3
    assert encoder.output_stride == 8
    expected = [(2, c, ceil(height / s), ceil(width / s)) for c, s in ((32, 4), (64, 8), (128, 8))]
    assert [f.shape for f in features] == expected


@pytest.mark.parametrize("height, width", SIZES)
def test_resnet_stages(resnet, height, width):
    features = resnet(image(height, width))
    assert len(features) == resnet.stages == 4
    assert resnet.output_stride == 8
    strides_and_channels = ((4, 64), (8, 128), (8, 256), (8, 512))
    assert [f.shape for f in features] == [(1, c, ceil(height / s), ceil(width / s)) for s, c in strides_and_channels]


@pytest.fixture(scope="module")
def resnet():
    return seeded_encoder("resnet18_v1b")


def test_resnet_is_gluoncvs_without_its_classifier(resnet):
    # 11,689,512 parameters, as published, less the 512 x 1000 classifier and its bias
    assert parameters(resnet) == 11689512 - 513000


@pytest.mark.parametrize("name", ["small", "resnet18_v1b"])
def test_encoder_keeps_its_stride_and_sees_context_at_every_size(name):
    # a feature stands for the same pixels at every image size: away from the border a crop has the same features
    encoder = seeded_encoder(name)
    large = image(512, 16)
    crop = large[:, :, 64:]
    for whole, part, stride in zip(encoder(large), encoder(crop), (4, 8, 8, 8)):
        lower_half = 256 // stride
        equal(part[:, :, -lower_half:] / 10, whole[:, :, -lower_half:] / 10, 1e-4)


@pytest.mark.parametrize("name", ["small", "resnet18_v1b"])
def test_frozen_batchnorm_uses_the_global_statistics_while_training(name):
    x = image(24, 40, batch=2)
    for frozen in (True, False):
        encoder = seeded_encoder(name, frozen_batchnorm=frozen)
        statistics = [p for k, p in encoder.collect_params().items() if "running" in k]
        before = [p.data().copy() for p in statistics]
        expected = encoder(x)[-1]
        with mx.autograd.record(train_mode=True):
            got = encoder(x)[-1]
            total = got.sum()
        total.backward()  # this is where MXNet moves the running statistics
        mx.nd.waitall()
        unchanged = [(p.data() == b).asnumpy().all() for p, b in zip(statistics, before)]
        assert len(unchanged) >= 2 * 15
        if frozen:
            equal(got, expected)
            assert all(unchanged)
        else:
            assert np.abs(got.asnumpy() - expected.asnumpy()).max() > 0.1
            assert not any(unchanged)


@pytest.mark.parametrize("name", ["small", "resnet18_v1b"])
@pytest.mark.parametrize("seed", [0, 1])
def test_hybridized_encoder_is_the_same(name, seed):
    encoder = seeded_encoder(name, seed)
    expected = [encoder(image(*size, seed)) for size in SIZES[:2]]
    encoder.hybridize()
    for size, features in zip(SIZES, expected):
        for got, feature in zip(encoder(image(*size, seed)), features):
            equal(got, feature, 1e-4)


def test_encoder_is_ready_on_every_context():
    contexts = [mx.cpu(0), mx.cpu(1)]
    encoder = get_encoder("small", ctx=contexts)
    first, second = (encoder(image(16, 24).as_in_context(context))[-1] for context in contexts)
    assert second.context == contexts[1]
    equal(second, first, 0)


def test_seed_decides_the_weights():
    x = image(16, 16)
    equal(seeded_encoder(seed=1)(x)[-1], seeded_encoder(seed=1)(x)[-1], 0)
    assert (seeded_encoder(seed=1)(x)[-1] != seeded_encoder(seed=2)(x)[-1]).asnumpy().any()


def test_unknown_encoder():
    with pytest.raises(ConfsegError) as caught:
        get_encoder("resnet19")
    there_are = f"there are {', '.join(ENCODERS)}; one of your own wants confseg --plugin FILE.py"
    assert str(caught.value) == f"encoder.name: unknown encoder 'resnet19'; {there_are}"


def test_weights_from_a_file(tmp_path):
    path, x = tmp_path / "encoder.params", image(17, 24)
    source = seeded_encoder(seed=3)
    source.save_parameters(str(path))
    other = seeded_encoder(seed=4)
    assert (other(x)[-1] != source(x)[-1]).asnumpy().any()
    for frozen in (False, True):  # the file says nothing about how BatchNorm is trained
        equal(get_encoder("small", weights=str(path), frozen_batchnorm=frozen)(x)[-1], source(x)[-1], 1e-6)


def damaged(path):
    path.write_bytes(b"these are no weights")


def truncated(path):
    get_encoder("small").save_parameters(str(path))
    path.write_bytes(path.read_bytes()[:100000])


def another_network(path):
    subnet = Subnet(3, channels=4)
    subnet.initialize()
    subnet(mx.nd.zeros((1, 8, 2, 2)))
    subnet.save_parameters(str(path))


def other_shapes(path):
    source = get_encoder("small")
    values = {key: p.data() for key, p in source._collect_params_with_prefix().items()}
    values["stage1.0.0.weight"] = mx.nd.zeros((24, 4, 3, 3))
    mx.nd.save(str(path), values)


@pytest.mark.parametrize(
    "write", [damaged, truncated, another_network, other_shapes, lambda path: path.write_bytes(b"")]
)
def test_a_file_that_does_not_hold_the_weights(tmp_path, write):
    path = tmp_path / "encoder.params"
    write(path)
    with pytest.raises(ConfsegError) as caught:
        get_encoder("small", weights=str(path))
    message = str(caught.value)
    assert message.startswith(f"{path} does not hold the weights of this network: ")
    assert "\n" not in message and not message.endswith(": ")


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "absent.params"
    with pytest.raises(ConfsegError) as caught:
        get_encoder("small", weights=str(path))
    assert str(caught.value) == f"weights file {path} does not exist"


def patch_pretrained(monkeypatch, pretrained):
    zoo = import_gluoncv().model_zoo
    original = zoo.get_model

    def get_model(name, **options):
        return pretrained(original, name) if options.get("pretrained") else original(name, **options)

    monkeypatch.setattr(zoo, "get_model", get_model)


def test_imagenet_weights_without_network(monkeypatch):
    def unreachable(original, name):
        raise OSError("no route to host\nat all")

    patch_pretrained(monkeypatch, unreachable)
    with pytest.raises(ConfsegError, match="^encoder.weights: GluonCV's model store .* resnet18_v1b [^\n]*$") as caught:
        get_encoder("resnet18_v1b", weights="imagenet")
    assert "local .params file" in str(caught.value)


def test_imagenet_weights_are_gluoncvs(monkeypatch):
    # what the model store would give: GluonCV's own network, here with drawn weights
    sources = []

    def drawn(original, name):
        mx.random.seed(5)
        sources.append(original(name, pretrained=False, dilated=True))
        sources[-1].initialize(mx.init.MSRAPrelu(slope=0))
        sources[-1](image(32, 32))
        return sources[-1]

    patch_pretrained(monkeypatch, drawn)
    x, contexts = image(32, 40), [mx.cpu(0), mx.cpu(1)]
    encoder = get_encoder("resnet18_v1b", weights="imagenet", ctx=contexts)
    source = sources[0]
    stem = source.maxpool(source.relu(source.bn1(source.conv1(x))))
    expected = source.layer4(source.layer3(source.layer2(source.layer1(stem))))
    for context in contexts:
        equal(encoder(x.as_in_context(context))[-1], expected, 1e-4)


def test_there_are_no_imagenet_weights_of_the_small_encoder():
    with pytest.raises(ConfsegError, match="encoder.weights: there are no ImageNet weights of 'small'"):
        get_encoder("small", weights="imagenet")


# subnets


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


# upsampling


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


# the whole network

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


def test_a_subnet_that_cannot_be_is_refused():
    with pytest.raises(ConfsegError, match="subnet.kernel: 2 is even"):
        Subnet(3, kernel=2)
    with pytest.raises(ConfsegError, match="there is no 5"):
        Subnet(3, stages=(5, -1)).inputs([1, 2, 3])
