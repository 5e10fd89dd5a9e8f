"""ResNet-38 (Model A1) against the facts known of its released checkpoint; the weights here are random."""

import ast
import json
from collections import Counter

import numpy as np
import pytest
from released_resnet38 import HEAD, ROWS, SHAPES, drawn, reference

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import ResNet38Encoder, Subnet, get_encoder, resnet38
from gluon_confseg.nn.resnet38 import is_released_checkpoint, load_encoder, load_head
from gluon_confseg.tensor_files import read_tensors


@pytest.fixture(scope="module")
def values():
    return drawn()


@pytest.fixture(scope="module")
def checkpoint(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet38") / "released.params"
    mx.nd.save(str(path), values)
    yield path
    path.unlink()  # 0.5 GB


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return get_encoder("resnet38_a1", weights=str(checkpoint), frozen_batchnorm=True)


@pytest.fixture(scope="module")
def head(checkpoint):
    subnet = Subnet(19)
    subnet.initialize()
    load_head(subnet, checkpoint)
    return subnet


@pytest.fixture(scope="module")
def bare():
    """An encoder to fail to fill."""
    encoder = ResNet38Encoder()
    encoder.initialize(mx.init.Zero())
    return encoder


def image(height, width, batch=1):
    return mx.nd.array(np.random.default_rng(height).normal(size=(batch, 3, height, width)))


def close(got, expected, tolerance=1e-5):
    """Within `tolerance` of the largest expected value."""
    got, expected = got.asnumpy(), expected.asnumpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


# names and shapes


def test_parameters_are_those_of_the_table_in_its_order(encoder, head):
    # here without the code under test: "running" is Gluon's word for what the file calls "moving"
    assert len(ROWS) == len(SHAPES) == 195
    symbol = encoder(mx.sym.var("data"))[-1]
    names = [("arg", name) for name in symbol.list_arguments() if name != "data"]
    names += [("aux", name) for name in symbol.list_auxiliary_states()]
    parameters = encoder.collect_params()
    found = [
        (f"{kind}:{name[len(encoder.prefix) :].replace('running', 'moving')}", parameters[name].shape)
        for kind, name in names
    ]
    assert found == [(name, shape) for name, shape in SHAPES.items() if name not in HEAD]
    assert len(list(parameters)) == len(found)
    built = {key: parameter.shape for key, parameter in head._collect_params_with_prefix().items()}
    assert list(built.values()) == [SHAPES[name] for name in HEAD]
    # 105.1 million in the encoder, 19.0 million in the head
    assert sum(int(np.prod(shape)) for _, shape in found) == 105118656
    assert sum(int(np.prod(shape)) for shape in built.values()) == 512 * (4096 * 9 + 1) + 19 * (512 * 9 + 1)


def test_every_value_arrives_where_its_name_says(encoder, head, values):
    parameters = encoder.collect_params()
    for name in values:
        if name not in HEAD:
            key = encoder.prefix + name[len("arg:") :].replace("moving", "running")
            assert (parameters[key].data() == values[name]).asnumpy().all(), name
    built = head._collect_params_with_prefix()
    for name, key in zip(HEAD, ("body.0.weight", "body.0.bias", "classifier.weight", "classifier.bias")):
        assert (built[key].data() == values[name]).asnumpy().all(), name


# the function


@pytest.mark.parametrize("height, width", [(40, 56), (33, 47)])
def test_features_and_logits_are_those_of_the_network_written_out(encoder, head, values, height, width):
    x = image(height, width)
    arguments = {name[4:]: value for name, value in values.items() if name.startswith("arg:")}
    auxiliary = {name[4:]: value for name, value in values.items() if name.startswith("aux:")}
    bound = reference().bind(mx.cpu(), {"data": x, **arguments}, aux_states=auxiliary, grad_req="null")
    expected = bound.forward(is_train=False)
    features = encoder(x)
    for got, wanted in zip((*features, head(features[-1])), expected):
        assert 0.01 < float(wanted.abs().mean().asscalar()) < 100
        close(got, wanted)


@pytest.mark.parametrize("height, width, at4, at8", [(64, 96, (16, 24), (8, 12)), (7, 1, (2, 1), (1, 1))])
def test_shapes_of_the_stages(encoder, height, width, at4, at8):
    features = encoder(image(height, width, batch=1))
    assert len(features) == encoder.stages == 4 and encoder.output_stride == 8
    assert [f.shape for f in features] == [(1, 256, *at4), (1, 512, *at8), (1, 1024, *at8), (1, 4096, *at8)]
    assert float(features[-1].min().asscalar()) == 0  # a ReLU closes the encoder


def test_dropout_acts_in_training_only_and_on_the_last_stage_only(encoder):
    x = image(16, 24)
    once, again = encoder(x), encoder(x)
    with mx.autograd.train_mode():
        training = encoder(x)
    for first, second, third in list(zip(once, again, training))[:3]:
        close(second, first, 0)
        close(third, first)  # frozen BatchNorm: nothing else depends on the mode
    close(again[-1], once[-1], 0)
    assert float((training[-1] - once[-1]).abs().max().asscalar()) > 0.1 * float(once[-1].max().asscalar())


# the graph


@pytest.fixture(scope="module")
def graph(encoder):
    nodes = json.loads(encoder(mx.sym.var("data"))[-1].tojson())["nodes"]
    prefix = len(encoder.prefix)
    return nodes, {node["name"][prefix : -len("_fwd")]: node["attrs"] for node in nodes if node["op"] == "Convolution"}


def pairs(attributes, key):
    return ast.literal_eval(attributes[key])


def test_strides_dilations_kernels_and_padding_of_every_convolution(graph):
    convolutions = graph[1]
    names = [name[4:-7] for name in SHAPES if name.endswith("_weight") and name not in HEAD]
    assert list(convolutions) == names and len(names) == 43
    halving = {f"res{level}a_branch{branch}" for level in (2, 3, 4) for branch in ("1", "2a")}
    two = {"res5a_branch2b1", *(f"res5b{i}_branch{branch}" for i in (1, 2) for branch in ("2a", "2b1"))}
    four = {"res6a_branch2b1", "res7a_branch2b1"}
    for name, attributes in convolutions.items():
        kernel = SHAPES[f"arg:{name}_weight"][2]
        dilation = 2 if name in two else 4 if name in four else 1
        padding = dilation if kernel == 3 else 0
        assert pairs(attributes, "kernel") == (kernel, kernel), name
        assert pairs(attributes, "stride") == ((2, 2) if name in halving else (1, 1)), name
        assert pairs(attributes, "dilate") == (dilation, dilation), name
        assert pairs(attributes, "pad") == (padding, padding), name
        assert attributes["no_bias"] == "True" and attributes["num_group"] == "1", name


def test_head_convolutions_have_dilation_12_and_a_bias(head):
    nodes = json.loads(head(mx.sym.var("data")).tojson())["nodes"]
    found = [node["attrs"] for node in nodes if node["op"] == "Convolution"]
    assert len(found) == 2
    for attributes in found:
        assert pairs(attributes, "kernel") == (3, 3) and pairs(attributes, "stride") == (1, 1)
        assert pairs(attributes, "dilate") == pairs(attributes, "pad") == (12, 12)
        assert attributes["no_bias"] == "False"


def test_batchnorm_relu_dropout_and_projections(graph, encoder):
    nodes, prefix = graph[0], len(encoder.prefix)
    by_name = {node["name"][prefix : -len("_fwd")]: node for node in nodes if node["op"] != "null"}

    def source(name, position=0):
        return nodes[by_name[name]["inputs"][position][0]]

    counts = Counter(node["op"] for node in nodes)
    assert "Pooling" not in counts and counts["BatchNorm"] == counts["Activation"] == 37 and counts["Dropout"] == 2
    for node in nodes:
        if node["op"] == "BatchNorm":
            attributes = node["attrs"]
            assert float(attributes["eps"]) == 1.001e-5
            assert (attributes["fix_gamma"], attributes["use_global_stats"]) == ("False", "True")
    for level, p in (("6a", 0.3), ("7a", 0.5)):
        assert source(f"res{level}_branch2b2")["op"] == "Dropout"
        assert float(source(f"res{level}_branch2b2")["attrs"]["p"]) == p
    for level in ("2a", "3a", "4a", "5a", "6a", "7a"):
        activation = source(f"res{level}_branch1")
        assert activation is source(f"res{level}_branch2a") and activation["op"] == "Activation"
        assert nodes[activation["inputs"][0][0]] is by_name[f"bn{level}_branch2a"]


def test_batchnorm_statistics_are_global_where_frozen_and_the_batchs_otherwise(bare, encoder):
    for block, expected in ((bare, "False"), (encoder, "True")):
        nodes = json.loads(block(mx.sym.var("data"))[-1].tojson())["nodes"]
        assert {node["attrs"]["use_global_stats"] for node in nodes if node["op"] == "BatchNorm"} == {expected}
        gamma = [p for name, p in block.collect_params().items() if name.endswith("gamma")]
        assert len(gamma) == 37 and {p.grad_req for p in gamma} == {"write"}


# files that are not what they should be


@pytest.fixture(scope="module")
def arrays(checkpoint):
    """What the reader gives: the values as NumPy arrays by name."""
    return read_tensors(checkpoint)


def changed(values, change):
    result = dict(values)
    for name, shape in change.items():
        if shape is None:
            del result[name]
        else:
            result[name] = np.zeros(shape, np.float32)
    return result


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arg:conv1a_weight": None}, "1 missing (arg:conv1a_weight)"),
        ({"aux:bn7_moving_var": None, "aux:bn7_variance": (4096,)}, "1 missing (aux:bn7_moving_var), 1 unknown (aux:"),
        ({"arg:fc1_weight": (10, 4)}, "1 unknown (arg:fc1_weight)"),
        ({"bn8_gamma": (10,)}, "1 unknown (bn8_gamma)"),
        ({"aux:bn7_gamma": (4096,), "arg:bn7_gamma": None}, "1 missing (arg:bn7_gamma), 1 unknown (aux:bn7_gamma)"),
        (
            {"arg:res5a_branch1_weight": (1024, 512, 3, 3)},
            "1 of another shape (arg:res5a_branch1_weight (1024, 512, 3, 3) instead of (1024, 512, 1, 1))",
        ),
        (
            {name: None for name in SHAPES if "moving" in name},
            "74 missing (aux:bn2a_branch2a_moving_mean, aux:bn2a_branch2a_moving_var, aux:bn2a_branch2b1_",
        ),
    ],
)
def test_names_and_shapes_that_do_not_match(bare, arrays, checkpoint, monkeypatch, change, message):
    contents = changed(arrays, change)
    monkeypatch.setattr(resnet38, "read_tensors", lambda path: contents)  # without writing 0.5 GB each time
    with pytest.raises(ConfsegError) as caught:
        load_encoder(bare, checkpoint)
    assert str(caught.value).startswith(f"{checkpoint} is not a checkpoint of this ResNet-38: arrays {message}")
    assert not any(p.data().asnumpy().any() for name, p in bare.collect_params().items() if name.endswith("weight"))


@pytest.mark.parametrize(
    "outputs, change, message",
    [
        (19, {"arg:conv6a_bias": None}, "1 missing (arg:conv6a_bias)"),
        (
            21,
            {},
            "2 missing (arg:linear21_weight, arg:linear21_bias), 2 unknown (arg:linear19_weight, arg:linear19_bias)",
        ),
        (
            19,
            {"arg:linear19_weight": (19, 256, 3, 3)},
            "1 of another shape (arg:linear19_weight (19, 256, 3, 3) instead",
        ),
    ],
)
def test_head_that_does_not_match(arrays, checkpoint, monkeypatch, outputs, change, message):
    contents = changed({name: arrays[name] for name in HEAD}, change)
    monkeypatch.setattr(resnet38, "read_tensors", lambda path: contents)
    subnet = Subnet(outputs)
    subnet.initialize()
    subnet.infer_shape(mx.nd.zeros((1, 4096, 1, 1)))
    with pytest.raises(ConfsegError) as caught:
        load_head(subnet, checkpoint)
    assert str(caught.value).startswith(f"{checkpoint} is not a checkpoint of this ResNet-38: arrays {message}")


@pytest.mark.parametrize("options", [{"hidden": 2}, {"dilation": 6}, {"norm": "batch"}, {"stages": (2, 3)}])
def test_subnet_that_is_not_built_like_the_released_head(checkpoint, options):
    with pytest.raises(ConfsegError, match="^subnet0: it is not built like ResNet-38's released head; set {hidden: 1"):
        load_head(Subnet(19, **options), checkpoint)


def test_a_head_for_other_classes_is_left_to_its_subnet(arrays, checkpoint, monkeypatch, caplog):
    contents = {name.replace("linear19", "linear21"): value for name, value in arrays.items()}
    monkeypatch.setattr(resnet38, "read_tensors", lambda path: contents)
    fresh = ResNet38Encoder()
    fresh.initialize(mx.init.Zero())
    with caplog.at_level("INFO"):
        load_encoder(fresh, checkpoint)
    head = "arg:conv6a_weight, arg:conv6a_bias, arg:linear21_weight, arg:linear21_bias"
    assert caplog.messages == [f"{checkpoint}: 191 arrays are the encoder's; the head's are {head}"]


@pytest.mark.parametrize("name", ["arg:conv1a_weight", "aux:bn7_moving_var"])
def test_values_that_are_not_finite_are_refused_and_nothing_is_changed(bare, arrays, checkpoint, monkeypatch, name):
    broken = np.array(arrays[name])
    broken.flat[-1] = np.nan
    monkeypatch.setattr(resnet38, "read_tensors", lambda path: {**arrays, name: broken})
    with pytest.raises(ConfsegError, match=f"{name} holds values that are not finite$"):
        load_encoder(bare, checkpoint)
    assert not any(p.data().asnumpy().any() for name, p in bare.collect_params().items() if name.endswith("weight"))


def test_mxnets_own_reader_is_never_given_the_file(checkpoint, head, monkeypatch):
    def refuse(path):
        raise AssertionError("mx.nd.load crashes on hostile files")

    monkeypatch.setattr(mx.nd, "load", refuse)
    assert is_released_checkpoint(checkpoint)
    subnet = Subnet(19)
    subnet.initialize()
    load_head(subnet, checkpoint)
    assert (subnet.classifier.weight.data() == head.classifier.weight.data()).asnumpy().all()


def test_files_that_are_no_checkpoint(bare, checkpoint, tmp_path):
    path = tmp_path / "some.params"
    with pytest.raises(ConfsegError, match="^weights file .* does not exist$"):
        load_encoder(bare, path)
    with open(checkpoint, "rb") as whole:
        beginning = whole.read(100000)
    for content, reason in (
        (b"", "it is neither a .params"),
        (b"these are no weights", "it is neither a .params"),
        (beginning, "it claims more data than it has"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfsegError, match=f"does not hold the weights of this network: {reason}[^\n]+$"):
            load_encoder(bare, path)
        assert not is_released_checkpoint(path)
    mx.nd.save(str(path), {"conv1a.weight": mx.nd.zeros(2)})
    with pytest.raises(ConfsegError, match="no array in it is named arg:... or aux:...$"):
        load_encoder(bare, path)
    assert not is_released_checkpoint(path)
    mx.nd.save(str(path), [mx.nd.zeros(2)])
    with pytest.raises(ConfsegError, match="its arrays have no names"):
        load_encoder(bare, path)
    assert not is_released_checkpoint(path)
    assert is_released_checkpoint(checkpoint)


def test_weights_may_also_be_a_gluon_file(encoder, tmp_path):
    path = tmp_path / "encoder.params"
    encoder.save_parameters(str(path))
    again = get_encoder("resnet38_a1", weights=str(path), frozen_batchnorm=True)
    path.unlink()
    x = image(8, 16)
    close(again(x)[-1], encoder(x)[-1], 0)
