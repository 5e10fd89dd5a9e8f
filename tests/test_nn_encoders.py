"""Encoders: their stages, frozen statistics, and weights from files and from GluonCV's model store."""

from math import ceil

import numpy as np
import pytest
from networks import SIZES, equal, image, seeded_encoder

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import ENCODERS, Subnet, get_encoder


def parameters(block):
    return sum(int(np.prod(p.shape)) for p in block.collect_params().values() if p.grad_req != "null")


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
