"""ResNets from files in torchvision's and GluonCV's layouts, and from GluonCV's model store."""

import re

import numpy as np
import pytest
from weights_files import pth, safetensors, state_dict, write

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import get_encoder, weights
from gluon_confseg.nn.gluoncv_models import resnet_encoder
from gluon_confseg.nn.weights import load_imagenet, stored_file

CPU = [mx.cpu()]
LAYERS = {"resnet18_v1b": (2, 2, 2, 2), "resnet101_v1b": (3, 4, 23, 3)}
EXPECTED_REST = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")


# torchvision's layout (torchvision/models/resnet.py)


def torchvision_shapes(name):
    """Shapes by name of a ResNet's state dict."""
    bottleneck = name == "resnet101_v1b"
    shapes = {"conv1.weight": (64, 3, 7, 7)}

    def batchnorm(prefix, channels):
        shapes.update({f"{prefix}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{prefix}.num_batches_tracked"] = ()

    batchnorm("bn1", 64)
    inputs = 64
    for level, blocks in enumerate(LAYERS[name], 1):
        width = 32 << level
        outputs = 4 * width if bottleneck else width
        for index in range(blocks):
            prefix = f"layer{level}.{index}"
            sizes = ((width, inputs, 1), (width, width, 3), (outputs, width, 1))
            sizes = sizes if bottleneck else ((width, inputs, 3), (width, width, 3))
            for number, (out, into, kernel) in enumerate(sizes, 1):
                shapes[f"{prefix}.conv{number}.weight"] = (out, into, kernel, kernel)
                batchnorm(f"{prefix}.bn{number}", out)
            if index == 0 and (inputs != outputs or level > 1):
                shapes[f"{prefix}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                batchnorm(f"{prefix}.downsample.1", outputs)
            inputs = outputs
    return {**shapes, "fc.weight": (1000, inputs), "fc.bias": (1000,)}


def drawn(shapes, seed=0):
    """Values at which a ResNet neither explodes nor dies."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = np.array(7, np.int64)
        elif len(shape) > 1:
            values[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        else:
            low, high = (-0.2, 0.2) if name.endswith(("bias", "running_mean")) else (0.8, 1.2)
            values[name] = rng.uniform(low, high, shape).astype(np.float32)
    return values


@pytest.fixture(scope="module")
def state():
    return drawn(torchvision_shapes("resnet18_v1b"))


@pytest.fixture(scope="module")
def gluoncv_network(state):
    """GluonCV's own ResNet-18 with the values of `state`, put there name by name."""
    network = import_gluoncv().model_zoo.get_model("resnet18_v1b", pretrained=False, dilated=True)
    network.initialize()
    network(mx.nd.zeros((1, 3, 32, 32)))
    mx.nd.waitall()
    for name, parameter in network._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(state[name.replace("gamma", "weight").replace("beta", "bias")]))
    return network


@pytest.fixture(scope="module")
def image():
    return mx.nd.array(np.random.default_rng(1).normal(size=(1, 3, 33, 40)))


def assert_same_features(encoder, network, image):
    stem = network.maxpool(network.relu(network.bn1(network.conv1(image))))
    np.testing.assert_array_equal(encoder.stem(image).asnumpy(), stem.asnumpy())
    expected = network.layer4(network.layer3(network.layer2(network.layer1(stem)))).asnumpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(encoder(image)[-1].asnumpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_the_name_map_is_complete(name):
    shapes = torchvision_shapes(name)
    parameters = resnet_encoder(name)._collect_params_with_prefix()
    found, rest = weights._match(shapes, parameters)
    assert set(found) == set(parameters) and len(set(found.values())) == len(parameters)
    assert all(EXPECTED_REST.fullmatch(key) and weights._is_expected(key) for key in rest)
    assert len(found) + len(rest) == len(shapes)
    for key, parameter in parameters.items():  # 0: GluonCV leaves input channels open
        fits = zip(parameter.shape, shapes[found[key]])
        assert len(parameter.shape) == len(shapes[found[key]]) and all(want in (0, have) for want, have in fits)


@pytest.mark.parametrize("name, count", [("resnet18_v1b", 11689512), ("resnet101_v1b", 44549160)])
def test_the_state_dict_has_torchvisions_size(name, count):
    # the numbers of parameters that torchvision documents; running statistics are none
    shapes = torchvision_shapes(name).items()
    assert sum(int(np.prod(shape)) for key, shape in shapes if "running" not in key and "tracked" not in key) == count


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    encoder = resnet_encoder("resnet50_v1b")
    first = encoder.layer2[0]
    assert [c._kwargs["stride"] for c in (first.conv1, first.conv2, first.conv3)] == [(1, 1), (2, 2), (1, 1)]
    assert encoder.stem[1]._kwargs["eps"] == first.bn1._kwargs["eps"] == 1e-5  # torch's


def test_a_resnet_from_safetensors(tmp_path, caplog, state, gluoncv_network, image):
    types = {name: "I64" if value.dtype == np.int64 else "F32" for name, value in state.items()}
    data = safetensors({name: (types[name], value) for name, value in state.items()})
    encoder = get_encoder("resnet18_v1b", weights=str(write(tmp_path, data)))
    assert_same_features(encoder, gluoncv_network, image)
    assert not caplog.records


def test_a_resnet_from_pth_on_two_devices(tmp_path, caplog, state, gluoncv_network, image):
    path = write(tmp_path, pth(*state_dict(state, "module.")))
    encoder = get_encoder("resnet18_v1b", weights=str(path), ctx=[mx.cpu(0), mx.cpu(1)])
    mx.nd.waitall()
    for key, parameter in encoder._collect_params_with_prefix().items():
        first, second = (value.asnumpy() for value in parameter.list_data())
        np.testing.assert_array_equal(first, second, err_msg=key)
    assert_same_features(encoder, gluoncv_network, image)
    assert not caplog.records


def test_a_resnet_from_gluoncvs_classifier(tmp_path, caplog, gluoncv_network, image):
    path = tmp_path / "resnet18_v1b-2d9d980c.params"
    mx.nd.waitall()
    gluoncv_network.save_parameters(str(path))
    assert_same_features(get_encoder("resnet18_v1b", weights=str(path)), gluoncv_network, image)
    assert not caplog.records


def test_an_unreachable_store_says_what_to_fetch(monkeypatch):
    def get_model(name, **options):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(import_gluoncv().model_zoo, "get_model", get_model)
    with pytest.raises(ConfsegError) as caught:
        load_imagenet(None, "resnet101_v1b", CPU)
    message = str(caught.value)
    assert message.startswith("encoder.weights: GluonCV's model store cannot be reached for resnet101_v1b (OSError); ")
    assert "fetch resnet101_v1b-a455932a.params (zipped at https://" in message
    assert "resnet101_v1b-a455932a.zip) and set encoder.weights to this local .params file" in message
    assert "\n" not in message


def test_a_store_without_tls_is_refused(monkeypatch):
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://example.org/")
    for load in (lambda: load_imagenet(None, "resnet101_v1b", CPU), lambda: stored_file("resnet101_v1b")):
        with pytest.raises(ConfsegError, match="MXNET_GLUON_REPO is http://example.org/; give a model store whose"):
            load()
