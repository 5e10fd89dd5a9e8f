"""Weights files: Gluon, safetensors and torch, whole, damaged and hostile; names and values end in the right place.

The files are written here by hand from the formats' descriptions, without torch.
"""

import io
import json
import logging
import os
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import get_encoder, weights
from gluon_confseg.nn.gluoncv_models import resnet_encoder
from gluon_confseg.nn.weights import load_imagenet, load_parameters, load_weights, stored_file
from gluon_confseg.tensor_files import read_tensors

CPU = [mx.cpu()]
LAYERS = {"resnet18_v1b": (2, 2, 2, 2), "resnet101_v1b": (3, 4, 23, 3)}
EXPECTED_REST = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")


# files


def raw(array):
    return np.ascontiguousarray(array).tobytes()


def bfloat16(array):
    """The upper halves of float32 numbers, as uint16."""
    return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors(tensors, header=None, length=None):
    """A .safetensors file of {name: (dtype name, array)}, with another header or header length where given."""
    entries, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        data = raw(array)
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = (json.dumps(entries) if header is None else header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@dataclass
class Tensor:
    """What torch.save writes of a tensor: a view of the storage with this key."""

    key: str
    shape: tuple
    strides: tuple
    offset: int = 0
    storage: str = "FloatStorage"


def opcodes(value):
    """`value` in pickle protocol 2, as torch.save writes it; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, (tuple, list)):
        start, end = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
        return start + b"".join(map(opcodes, value)) + end
    if isinstance(value, dict):
        items = b"".join(opcodes(key) + opcodes(item) for key, item in value.items())
        return b"ccollections\nOrderedDict\n)R(" + items + b"u"
    identity = ("storage", f"ctorch\n{value.storage}\n".encode(), value.key, "cpu", 0)
    arguments = (opcodes(identity) + b"Q", value.offset, value.shape, value.strides, False, {})
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + opcodes(arguments) + b"R"


def pth(value, storages=None, *, root="archive", compression=zipfile.ZIP_STORED, more=()):
    """A .pth file: `value` as its pickle, and {key: bytes} of its storages."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + opcodes(value) + b".")
        archive.writestr(f"{root}/byteorder", b"little")
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}/data/{key}", data)
        for name, data in more:
            archive.writestr(name, data)
    return target.getvalue()


def contiguous(array, key, storage="FloatStorage"):
    """`array`, C-contiguous, as the whole storage with this key."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(key, array.shape, strides, storage=storage)


def state_dict(arrays, prefix=""):
    """What torch.save writes of float32 and int64 arrays: the values and the storages for `pth`."""
    value, storages = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        storage = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        value[prefix + name] = contiguous(array, str(number), storage)
        storages[str(number)] = raw(array)
    return value, storages


def write(tmp_path, data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refused(tmp_path, data):
    """The reason why a file with these bytes is refused: one line that names the file."""
    path = write(tmp_path, data)
    with pytest.raises(ConfsegError) as caught:
        read_tensors(path)
    start = f"{path} does not hold the weights of this network: "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    return str(caught.value)[len(start) :]


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


# names and values, on a network of one convolution and one BatchNorm


class Tiny(mx.gluon.HybridBlock):
    """Parameters stem.0.weight (2, 3, 1, 1) and stem.1.gamma, beta, running_mean, running_var (2)."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stem = mx.gluon.nn.HybridSequential()
            self.stem.add(mx.gluon.nn.Conv2D(2, 1, use_bias=False), mx.gluon.nn.BatchNorm(in_channels=2))


def tiny_state(**changes):
    """A state dict for Tiny; of the changes, "__" stands for a dot and None takes a name away."""
    values = {
        "conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1),
        "bn1.weight": np.array([1, 2], np.float32),
        "bn1.bias": np.array([3, 4], np.float32),
        "bn1.running_mean": np.array([5, 6], np.float32),
        "bn1.running_var": np.array([7, 8], np.float32),
        "bn1.num_batches_tracked": np.array(9, np.int64),
        "fc.weight": np.ones((4, 2), np.float32),
    }
    values.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in values.items() if value is not None}


def bare_state():
    """Tiny's parameters and no more."""
    return tiny_state(fc__weight=None, bn1__num_batches_tracked=None)


TINY_NAMES = {
    "stem.0.weight": "conv1.weight",
    "stem.1.gamma": "bn1.weight",
    "stem.1.beta": "bn1.bias",
    "stem.1.running_mean": "bn1.running_mean",
    "stem.1.running_var": "bn1.running_var",
}


def assert_tiny(block, state):
    found = {key: value.data().asnumpy() for key, value in block._collect_params_with_prefix().items()}
    assert set(found) == set(TINY_NAMES)
    for key, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, state[TINY_NAMES[key]], err_msg=key)


def gluon_file(path, arrays):
    mx.nd.save(str(path), {name: mx.nd.array(value, dtype=value.dtype) for name, value in arrays.items()})
    return path


def test_our_own_names_and_gluoncvs(tmp_path):
    state = tiny_state()
    ours = {key: state[name] for key, name in TINY_NAMES.items()}
    theirs = {key.replace("stem.0", "conv1").replace("stem.1", "bn1"): value for key, value in ours.items()}
    for names in (ours, theirs, {f"module.{key}": value for key, value in theirs.items()}):
        block = Tiny()  # uninitialised: the file settles the input channels
        load_weights(block, gluon_file(tmp_path / "tiny.params", names), CPU)
        assert_tiny(block, state)


def test_names_of_the_network_itself_come_first(tmp_path):
    class Other(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv1 = mx.gluon.nn.Conv2D(1, 1, in_channels=1, use_bias=False)

    block = Other()
    load_parameters(block, gluon_file(tmp_path / "a.params", {"conv1.weight": np.full((1, 1, 1, 1), 3.0)}), CPU)
    assert block.conv1.weight.data().asscalar() == 3


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_training_is_unwrapped(tmp_path, key):
    value, storages = state_dict(tiny_state(), "module.")
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1], "nesterov": False}]}
    path = write(tmp_path, pth({"epoch": 3, "arch": "x", key: value, "optimizer": optimizer, "none": None}, storages))
    block = Tiny()
    load_weights(block, path, CPU)
    assert_tiny(block, tiny_state())


def test_names_left_over_are_logged_in_one_line(tmp_path, caplog):
    state = {**tiny_state(), "head.weight": np.ones(1, np.float32), "odd\nname": np.ones(1, np.float32)}
    path = write(tmp_path, pth(*state_dict(state)))
    with caplog.at_level(logging.INFO):
        load_weights(Tiny(), path, CPU)
    assert caplog.messages == [f"{path}: 2 names left over, not used: head.weight, odd\\nname"]


def test_entries_that_are_no_tensors_are_logged(tmp_path, caplog):
    path = write(tmp_path, pth({"a": Tensor("0", (1,), (1,)), "b": 3}, {"0": raw(np.ones(1, np.float32))}))
    assert list(read_tensors(path)) == ["a"]
    assert caplog.messages == [f"{path}: not tensors, not used: b"]


@pytest.mark.parametrize(
    "state, reason",
    [
        (
            tiny_state(bn1__bias=None),
            "1 of 5 parameters are not in it (stem.1.beta); choose the file of this very network",
        ),
        (
            {f"x{i}": np.ones(1, np.float32) for i in range(3)},
            "5 of 5 parameters are not in it (stem.0.weight, stem.1.gamma, stem.1.beta, stem.1.running_mean, "
            "stem.1.running_var), 3 of its names are not in the network (x0, x1, x2); "
            "choose the file of this very network",
        ),
        (
            tiny_state(module__bn1__bias=np.ones(2, np.float32)),
            "module.bn1.bias and bn1.bias are both for the parameter stem.1.beta",
        ),
        (tiny_state(bn1__bias=np.ones(3, np.float32)), "bn1.bias is (3,) in it and (2,) in the network"),
        (tiny_state(bn1__bias=np.ones((2, 1), np.float32)), "bn1.bias is (2, 1) in it and (2,) in the network"),
        (
            tiny_state(conv1__weight=np.ones((3, 3, 1, 1), np.float32)),
            "conv1.weight is (3, 3, 1, 1) in it and (2, 0, 1, 1) in the network",
        ),
        (tiny_state(bn1__bias=np.ones(2, np.int64)), "bn1.bias is of type int64, not of a floating point type"),
        (tiny_state(bn1__bias=np.array([1, np.nan], np.float32)), "bn1.bias holds values that are not finite"),
    ],
)
def test_weights_of_another_network(tmp_path, state, reason):
    path, block = write(tmp_path, pth(*state_dict(state))), Tiny()
    with pytest.raises(ConfsegError) as caught:
        load_weights(block, path, CPU)
    assert str(caught.value) == f"{path} does not hold the weights of this network: {reason}"
    assert all(parameter._data is None for parameter in block.collect_params().values())


def test_every_missing_name_is_logged_and_the_error_stays_short(tmp_path, caplog):
    block = mx.gluon.nn.HybridSequential()
    block.add(*(mx.gluon.nn.Dense(1, in_units=1, use_bias=False) for _ in range(10)))
    path = write(tmp_path, pth(*state_dict({"9.weight": np.ones((1, 1), np.float32)})))
    with pytest.raises(ConfsegError, match=r"9 of 10 parameters are not in it \(0.weight, .*7.weight and 1 more\)"):
        load_parameters(block, path, CPU)
    missing = ", ".join(f"{i}.weight" for i in range(9))
    assert caplog.messages == [f"{path}: not found: {missing}; left over: none"]


def test_parameters_of_a_run_allow_nothing_left_over(tmp_path):
    path = write(tmp_path, pth(*state_dict(tiny_state())))
    with pytest.raises(ConfsegError, match=r"2 of its names are not in the network \(bn1.num_.*, fc.weight\); choose"):
        load_parameters(Tiny(), path, CPU)


# types and layouts


@pytest.mark.parametrize(
    "dtype, storage, convert",
    [
        ("F32", "FloatStorage", lambda x: x.astype("<f4")),
        ("F64", "DoubleStorage", lambda x: x.astype("<f8")),
        ("F16", "HalfStorage", lambda x: x.astype("<f2")),
        ("BF16", "BFloat16Storage", bfloat16),
    ],
)
def test_floating_point_types(tmp_path, dtype, storage, convert):
    arrays = {name: convert(value) for name, value in bare_state().items()}  # small integers: exact in each type
    value = {name: contiguous(array, name, storage) for name, array in arrays.items()}
    files = (
        safetensors({name: (dtype, array) for name, array in arrays.items()}),
        pth(value, {name: raw(array) for name, array in arrays.items()}),
    )
    for data in files:
        block = Tiny()
        load_parameters(block, write(tmp_path, data), CPU)
        assert_tiny(block, bare_state())


def test_a_float64_too_large_for_float32(tmp_path):
    state = {**bare_state(), "bn1.bias": np.array([1e300, 0])}
    with pytest.raises(ConfsegError, match="bn1.bias holds values that are not finite"):
        load_weights(Tiny(), gluon_file(tmp_path / "tiny.params", state), CPU)


def test_views_of_a_storage(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    value = {
        "transposed": Tensor("0", (6, 4), (1, 6)),
        "slice": Tensor("0", (2, 3), (8, 2), 5),
        "channels last": Tensor("0", (1, 4, 2, 3), (24, 1, 12, 4)),
        "scalar": Tensor("0", (), (), 23),
        "empty": Tensor("0", (0,), (1,)),
    }
    found = read_tensors(write(tmp_path, pth(value, {"0": raw(numbers)}, root="name of the file")))
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(4, 6).T)
    np.testing.assert_array_equal(found["slice"], [[5, 7, 9], [13, 15, 17]])
    np.testing.assert_array_equal(found["channels last"], numbers.reshape(1, 2, 3, 4).transpose(0, 3, 1, 2))
    assert found["scalar"] == 23 and found["empty"].size == 0
    assert not any(array.flags.writeable for name, array in found.items() if name != "empty")


def test_the_memo_and_a_state_dicts_metadata(tmp_path):
    # {"a": tensor, "b": the same tensor}, with torch's _metadata set by BUILD
    value = b"ccollections\nOrderedDict\n)R(" + opcodes("a") + opcodes(Tensor("0", (2,), (1,))) + b"q\x05"
    value += opcodes("b") + b"h\x05u}" + opcodes("_metadata") + opcodes({"": {"version": 1}}) + b"sb"
    found = read_tensors(write(tmp_path, pth(value, {"0": raw(np.array([1, 2], np.float32))})))
    assert {name: array.tolist() for name, array in found.items()} == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"])
def test_gluon_types(tmp_path, dtype):
    array = np.arange(6).reshape(1, 2, 3).astype(dtype)
    found = read_tensors(gluon_file(tmp_path / "a.params", {"ä.b": array, "c": array[0]}))
    assert list(found) == ["ä.b", "c"] and found["c"].dtype == dtype
    np.testing.assert_array_equal(found["ä.b"], array)
    np.testing.assert_array_equal(found["c"], array[0])


def params(record, name="a"):
    """A .params file of one array."""
    text = name.encode()
    return struct.pack("<3Q", 0x112, 0, 1) + record + struct.pack("<2Q", 1, len(text)) + text


def record(shape, data, *, start="<Ii", kind=0, head=(0xF993FAC8,)):
    """An NDArray record in version 1 (default), or with another start."""
    dimensions = struct.pack(f"<{len(shape)}{'I' if start == '<I' else 'q'}", *shape)
    return struct.pack(start, *head, len(shape)) + dimensions + struct.pack("<3i", 1, 0, kind) + data


@pytest.mark.parametrize("start, head", [("<I", ()), ("<Ii", (0xF993FAC8,)), ("<Iii", (0xF993FAC9, 0))])
def test_every_version_of_params(tmp_path, start, head):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write(tmp_path, params(record((2, 3), raw(array), start=start, head=head)))
    np.testing.assert_array_equal(read_tensors(path)["a"], array)
    np.testing.assert_array_equal(mx.nd.load(str(path))["a"].asnumpy(), array)  # so the file is one


# damaged and hostile files

CLAIM = "it claims more data than it has; fetch it again"
NO_KNOWN_FILE = "it is neither a .params nor a .safetensors nor a .pth file; fetch it again"
SHAPE = "it claims an array of impossible shape; fetch it again"
SIZE = "it has a size that is no whole number; fetch it again"


def cut_short(error):
    return f"it is damaged or cut short ({error}); fetch it again"


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", NO_KNOWN_FILE),
        (b"<!DOCTYPE html>", NO_KNOWN_FILE),
        (struct.pack("<3Q", 0x112, 0, 2**63), CLAIM),
        (params(record((2**31, 2**31), b"")), CLAIM),
        (params(record((2**62, 4), b"")), CLAIM),
        (params(record((-1,), b"")), SHAPE),
        (params(record((1,) * 40, b"1234")), SHAPE),
        (params(struct.pack("<I", 2**32 - 1)), SHAPE),
        (params(struct.pack("<Ii", 0xF993FAC9, 1)), "it holds sparse arrays; save them as dense ones"),
        (params(record((1,), b"1234", kind=99)), cut_short("KeyError")),
        (params(record((1,), b"1234"))[:-1], CLAIM),
        (
            struct.pack("<3Q", 0x112, 0, 1) + record((1,), b"1234") + struct.pack("<Q", 0),
            "its arrays have no names; save it by save_parameters of the network",
        ),
        (
            struct.pack("<3Q", 0x112, 0, 2) + 2 * record((1,), b"1234") + struct.pack("<QQcQc", 2, 1, b"a", 1, b"a"),
            "the name a is in it twice",
        ),
    ],
)
def test_params_that_lie(tmp_path, data, reason):
    assert refused(tmp_path, data) == reason


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def header(**entries):
    """A .safetensors file with these entries and four bytes of data."""
    return safetensors({}, json.dumps(entries)) + b"1234"


HOLES = "its tensors do not fill it from end to end; fetch it again"


@pytest.mark.parametrize(
    "data, reason",
    [
        (safetensors({}, length=2**63), CLAIM),
        (safetensors({}, '{"a": ' + "[" * 100000), cut_short("RecursionError")),
        (safetensors({}, '{"a": 1, "a": 2}'), "the name a is in it twice"),
        (safetensors({}, "{not json}"), cut_short("JSONDecodeError")),
        (header(a=[]), cut_short("TypeError")),
        (header(a={"dtype": "F32"}), cut_short("KeyError")),
        (header(a=entry()) + b"5678", HOLES),
        (header(a=entry())[:-1], HOLES),
        (header(a=entry(), b=entry()), HOLES),
        (header(a=entry(offsets=(-4, 4))), SIZE),
        (header(a=entry(offsets=(False, 4))), SIZE),
        (header(a=entry(shape=(1e300,))), SIZE),
        (header(a=entry(shape=(2**40,))), CLAIM),
        (header(a=entry("F16")), "the shape of a does not go with its length; fetch it again"),
        (header(a=entry("F8_E4M3", shape=(4,))), "a is of type that is not read; save it as F32"),
    ],
)
def test_safetensors_that_lie(tmp_path, data, reason):
    assert read_tensors(write(tmp_path, header(a=entry())))["a"].shape == (1,)  # the others differ from this one
    assert refused(tmp_path, data) == reason


ONLY = "; save the tensors alone, where torch is: torch.save(model.state_dict(), NEW)"
DAMAGED_PICKLE = "its pickle is damaged; fetch it again"


def four(*tensor, **options):
    """A .pth file of one tensor over a storage of four bytes."""
    return pth({"a": Tensor(*tensor)}, {"0": b"1234"}, **options)


@pytest.mark.parametrize(
    "data, reason",
    [
        (four("0", (2**40,), (1,)), CLAIM),
        (four("0", (2**40,), (0,)), CLAIM),
        (four("0", (1,), (1,), 1), CLAIM),
        (four("0", (2, 2), (1, 0)), CLAIM),
        (four("0", (-1,), (1,)), SIZE),
        (four("0", (1,), (-1,)), SIZE),
        (four("0", (1, 1), (1,)), SHAPE),
        (four("0", (1,) * 33, (1,) * 33), SHAPE),
        (four("../../etc/passwd", (1,), (1,)), cut_short("KeyError")),
        (four("0", (1,), (1,))[:-30], cut_short("BadZipFile")),
        (
            pth({"a": Tensor("0", (250000,), (1,))}, {"0": bytes(1000000)}, compression=zipfile.ZIP_DEFLATED),
            "its archive is compressed or claims more data than it has" + ONLY,
        ),
        (
            pth({}, more=[("other/data.pkl", b"")]),
            "it is a zip archive, but not torch's; if it was sent zipped, unpack it",
        ),
        (pth({(1, 2): 3}), "its pickle has keys that are not names" + ONLY),
        (pth(b"(" + opcodes("a") + b"K\1d"), "its pickle does more than hold tensors (DICT)" + ONLY),
        (pth({"a": 1, b"X\1\0\0\0a": 2}), "the name a is in it twice"),
        (pth([1, 2]), "it holds no state dict" + ONLY),
        (pth(b"K\1K\2"), cut_short("ValueError")),
        (pth(b"X\xff\xff\xff\x7fa"), cut_short("ValueError")),
        (pth(b"h\1"), cut_short("KeyError")),
        (pth(b"K\1\x86"), DAMAGED_PICKLE),
    ],
)
def test_pth_that_lies(tmp_path, data, reason):
    assert read_tensors(write(tmp_path, four("0", (1,), (1,))))["a"].shape == (1,)
    assert refused(tmp_path, data) == reason


def test_a_storage_that_many_tensors_name_is_read_once(tmp_path):
    value = {str(i): Tensor("0", (250000,), (1,)) for i in range(1000)}  # 1 GB, if each had its own
    found = read_tensors(write(tmp_path, pth(value, {"0": bytes(1000000)})))
    starts = {array.__array_interface__["data"][0] for array in found.values()}
    assert len(found) == 1000 and len(starts) == 1


def test_two_entries_of_an_archive_with_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = four("0", (1,), (1,), more=[("archive/data/0", b"5678")])
    assert refused(tmp_path, data) == "the name archive/data/0 is in it twice"


def test_a_damaged_storage_is_noticed(tmp_path):
    data = four("0", (1,), (1,))
    assert data.count(b"1234") == 1
    assert refused(tmp_path, data.replace(b"1234", b"1235")) == cut_short("BadZipFile")


def test_a_bare_pickle_says_how_to_convert_it(tmp_path):
    reason = refused(tmp_path, pickle.dumps({"a": 1}, protocol=2))
    assert reason.startswith("it is a bare pickle (torch before 1.6), which only running it would read; convert it")
    assert "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)" in reason


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def attacks(path):
    """Pickles that make the folder `path`, by every opcode that calls or imports, and why each is refused."""
    name = str(path)
    yield pickle.dumps(Runs(name), 2), f"its pickle asks for {os.mkdir.__module__}.mkdir, which is not run" + ONLY
    yield pickle.dumps(Runs(name), 4), "its pickle does more than hold tensors (FRAME)" + ONLY
    yield b"(V" + name.encode() + b"\nios\nmkdir\n.", "its pickle does more than hold tensors (UNICODE)" + ONLY
    yield b"(cos\nmkdir\n" + opcodes(name) + b"o.", "its pickle asks for os.mkdir, which is not run" + ONLY
    stack = opcodes("os") + opcodes("mkdir") + b"\x93" + opcodes((name,)) + b"R."
    yield b"\x80\x04" + stack, "its pickle does more than hold tensors (STACK_GLOBAL)" + ONLY


@pytest.mark.parametrize("number", range(5))
def test_nothing_in_a_pickle_is_run(tmp_path, number):
    target = tmp_path / "made by the pickle"
    attack, reason = list(attacks(target))[number]
    pickle.loads(attack)
    target.rmdir()  # so the attack works
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("archive/data.pkl", attack)
    assert refused(tmp_path, body.getvalue()) == reason
    assert not target.exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "value, reason",
    [
        (b"ccollections\nOrderedDict\n((K\1K\2ttR", "its pickle does more than hold tensors (REDUCE)" + ONLY),
        (b"ctorch\nFloatStorage\n)R", "its pickle does more than hold tensors (REDUCE)" + ONLY),
        (REBUILD + opcodes((1, 0, (1,), (1,))) + b"R", DAMAGED_PICKLE),
        (REBUILD + b")R", cut_short("ValueError")),
        (REBUILD + b"}b", DAMAGED_PICKLE),
        (opcodes(("storage", "FloatStorage", "0", "cpu", 1)) + b"Q", DAMAGED_PICKLE),
    ],
)
def test_known_names_are_not_called_with_what_they_do_not_take(tmp_path, value, reason):
    assert refused(tmp_path, pth({"a": value}, {"0": b"1234"})) == reason


def test_nested_sizes_are_not_printed(tmp_path):
    # a tuple of twice the tuple before, forty times: 2^40 numbers, if it were written out
    nested = b"K\1" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(40))
    value = REBUILD + b"(" + opcodes(("storage", b"ctorch\nFloatStorage\n", "0", "cpu", 1)) + b"QK\0("
    assert refused(tmp_path, pth({"a": value + nested + b"t(K\1ttR"}, {"0": b"1234"})) == SIZE


def test_a_deeply_nested_tuple_as_a_name(tmp_path):
    value = b"})" + b"\x85" * 1000000 + b"K\1s"  # hashing it would end the process
    assert refused(tmp_path, pth(value)) == "its pickle has keys that are not names" + ONLY


def small_files():
    """One whole file of each kind."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return (
        params(record((2, 3), raw(array), start="<Iii", head=(0xF993FAC9, 0))),
        safetensors({"a": ("F32", array), "b": ("BF16", bfloat16(array))}),
        pth({"a": contiguous(array, "0"), "b": 3, "c": [1.5, (None, True)]}, {"0": raw(array)}),
    )


every_kind = pytest.mark.parametrize("data", small_files(), ids=["params", "safetensors", "pth"])


@every_kind
def test_a_file_cut_anywhere_is_refused(tmp_path, data):
    assert "a" in read_tensors(write(tmp_path, data))
    for length in range(len(data)):
        refused(tmp_path, data[:length])


def read_or_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.getbasetemp(), data)
    try:
        assert all(isinstance(array, np.ndarray) for array in read_tensors(path).values())
    except ConfsegError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def changed(data, changes):
    result = bytearray(data)
    for position, new in changes:
        position %= len(data)
        result[position : position + len(new)] = new
    return bytes(result)


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
KNOWN_OPCODES = (
    *(bytes([byte]) for byte in b"()]}tuseabRQN\x85\x86\x87"),
    *(b"q\1", b"h\1", b"K\1", opcodes("a"), opcodes(Tensor("0", (2,), (1,)))),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", REBUILD),
)


@every_kind
@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_a_file_changed_anywhere_is_read_or_refused(tmp_path_factory, data, changes):
    read_or_refused(tmp_path_factory, changed(data, changes))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools, of a damaged string
@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_a_pickle_changed_anywhere_is_read_or_refused(tmp_path_factory, changes):
    # within the archive, where no checksum stands in front of the reader
    pickled = opcodes({"a": Tensor("0", (2, 3), (3, 1)), "b": {"c": [1.5, (None, True)]}})
    read_or_refused(tmp_path_factory, pth(changed(pickled, changes), {"0": bytes(24)}))


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(KNOWN_OPCODES), max_size=30))
def test_any_row_of_known_opcodes_is_read_or_refused(tmp_path_factory, parts):
    read_or_refused(tmp_path_factory, pth(b"".join(parts), {"0": bytes(24)}))


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfsegError) as caught:
            read_tensors(path)
        assert str(caught.value) == f"weights file {path} does not exist"
