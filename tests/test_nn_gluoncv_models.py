"""GluonCV's segmentation models taken apart: the same scores from the same weights; what cannot be is refused."""

import json

import numpy as np
import pytest
from networks import image

from gluon_confseg import pipeline, results
from gluon_confseg.backend import import_gluoncv, mx, settle
from gluon_confseg.building import build_network
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup
from gluon_confseg.nn import ConfSegNet, Fusion, Subnet, get_encoder, make_encoder
from gluon_confseg.nn.gluoncv_models import load_head, segmentation_models, weights_file
from gluon_confseg.places import config_path
from gluon_confseg.run import open_run

CLASSES = {"citys": 19, "voc": 21, "ade": 150}
MODELS = (
    "fcn_resnet50_voc",
    "psp_resnet50_ade",
    "deeplab_resnet50_citys",
    "deeplab_resnest50_ade",
    pytest.param("deeplab_v3b_plus_wideresnet_citys", marks=pytest.mark.slow),  # 137 million parameters
)
CPU = [mx.cpu()]


def classes(model):
    return CLASSES[model.rsplit("_", 1)[1]]


def gluoncv_model(name, **options):
    """GluonCV's own model with random weights, BatchNorm's statistics included."""
    mx.random.seed(3)
    net = import_gluoncv().model_zoo.get_model(
        name, pretrained=False, pretrained_base=False, crop_size=64, **{"aux": False, **options}
    )
    net.initialize(mx.init.MSRAPrelu(slope=0), force_reinit=True)
    net(image(64, 64))
    settle()
    rng = np.random.default_rng(5)
    for key, parameter in net.collect_params().items():
        if key.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.0, parameter.shape)))
        if key.endswith(("beta", "running_mean")):
            parameter.set_data(mx.nd.array(rng.normal(scale=0.1, size=parameter.shape)))
    return net


def logits_of(net, x):
    """GluonCV's scores before it resizes them to the image."""
    if hasattr(net, "mod1"):
        fine = net.mod2(net.pool2(net.mod1(x)))
        coarse = net.mod3(net.pool3(fine))
        for module in (net.mod4, net.mod5, net.mod6, net.mod7):
            coarse = module(coarse)
        return net.head.demo(coarse, fine)
    features = net.base_forward(x)[-1]
    return net.head.demo(features) if hasattr(net.head, "demo") else net.head(features)


def close(got, expected, tolerance=1e-5):
    got, expected = got.asnumpy(), expected.asnumpy()
    assert got.shape == expected.shape
    assert expected.std() > 1e-3 * np.abs(expected).max() > 0
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def taken_apart(model, path):
    encoder = get_encoder("gluoncv", model=model, weights=str(path))
    head = encoder.new_head(classes(model))
    assert load_head(head, path, CPU)
    return encoder, head


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_gluoncvs_from_the_same_weights(model, tmp_path):
    net, path = gluoncv_model(model), tmp_path / "model.params"
    net.save_parameters(str(path))
    encoder, head = taken_apart(model, path)
    path.unlink()  # the largest has 0.5 GB
    for height, width in ((64, 96), (51, 77)):
        x = image(height, width)
        features = encoder(x)
        stride = encoder.output_stride
        assert len(features) == encoder.stages
        assert features[-1].shape[2:] == (-(-height // stride), -(-width // stride))
        logits = head(*head.inputs(features))
        close(logits, logits_of(net, x))
        whole = net.predict(x)
        upsampled = mx.nd.contrib.BilinearResize2D(logits, height=height, width=width, align_corners=True)
        close(upsampled, whole[0] if isinstance(whole, (tuple, list)) else whole)


@pytest.fixture(scope="module")
def fcn(tmp_path_factory):
    """(model, file) of an FCN for VOC with its auxiliary head."""
    net, path = gluoncv_model("fcn_resnet50_voc", aux=True), tmp_path_factory.mktemp("fcn") / "fcn.params"
    net.save_parameters(str(path))
    return net, path


def test_an_auxiliary_head_is_dropped_and_that_is_said(fcn, caplog):
    net, path = fcn
    with caplog.at_level("INFO"):
        encoder, head = taken_apart("fcn_resnet50_voc", path)
    assert caplog.messages == [
        f"{path}: 7 arrays are subnet 0's (head.*)",
        f"{path}: 7 arrays are an auxiliary head's, not used (auxlayer.*)",
    ]
    x = image(40, 40)
    close(head(encoder(x)[-1]), logits_of(net, x))


def test_names_that_belong_to_nobody_are_reported(fcn, tmp_path, caplog):
    path = tmp_path / "more.params"
    tensors = {name: p.data() for name, p in fcn[0]._collect_params_with_prefix().items()}
    mx.nd.save(str(path), {**tensors, "extra.weight": mx.nd.zeros(2)})
    get_encoder("gluoncv", model="fcn_resnet50_voc", weights=str(path))
    assert f"{path}: 1 names left over, not used: extra.weight" in caplog.messages


def test_a_head_for_other_classes_is_refused(fcn):
    head = make_encoder("gluoncv", model="fcn_resnet50_voc").new_head(19)
    with pytest.raises(ConfsegError, match="its head is for 21 classes, the run has 19; choose weights [^\n]+$"):
        load_head(head, fcn[1], CPU)


@pytest.mark.parametrize("model", ["psp_resnet50_ade", "fcn_resnet101_voc"])
def test_weights_of_another_model_are_refused(fcn, model):
    encoder = make_encoder("gluoncv", model=model)
    with pytest.raises(ConfsegError, match="^[^\n]+ does not hold the weights of this network: [^\n]+$"):
        if model.startswith("psp"):  # the encoders are the same network
            load_head(encoder.new_head(21), fcn[1], CPU)
        else:
            get_encoder("gluoncv", model=model, weights=str(fcn[1]))


def test_a_file_of_the_encoder_alone_has_no_head(tmp_path):
    encoder, path = get_encoder("gluoncv", model="fcn_resnet50_voc"), tmp_path / "encoder.params"
    encoder.save_parameters(str(path))
    assert not load_head(encoder.new_head(19), path, CPU)
    close(
        get_encoder("gluoncv", model="fcn_resnet50_voc", weights=str(path))(image(24, 24))[-1],
        encoder(image(24, 24))[-1],
    )


@pytest.mark.parametrize("model", ["icnet_resnet50_citys", "danet_resnet50_citys", "fastscnn_citys", "no_such", None])
def test_models_that_cannot_be_taken_apart(model):
    with pytest.raises(ConfsegError) as caught:
        make_encoder("gluoncv", model=model)
    message = str(caught.value)
    assert message.startswith(f"encoder.model: {model!r} cannot be taken apart") and "\n" not in message
    for kind in ("FCN", "PSPNet", "DeepLabV3 ", "DeepLabV3+ on a WideResNet"):
        assert kind in message


def test_a_misspelt_model_is_corrected():
    with pytest.raises(ConfsegError, match="did you mean 'deeplab_resnet50_citys'"):
        make_encoder("gluoncv", model="deeplab_resnet50_city")


def test_every_model_that_is_offered_is_built_without_memory_for_weights():
    models = segmentation_models()
    assert len(models) == 23 and set(MODELS[:4]) <= set(models)
    for model in models:
        encoder = make_encoder("gluoncv", model=model)
        for block in (encoder, encoder.new_head(4)):
            assert all(p._data is None for p in block.collect_params().values())


def test_the_model_store_cannot_be_reached(monkeypatch):
    store = import_gluoncv().model_zoo.model_store

    def unreachable(name, tag=None):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(store, "get_model_file", unreachable)
    with pytest.raises(
        ConfsegError, match="^encoder.weights: GluonCV's model store cannot be reached [^\n]*$"
    ) as caught:
        get_encoder("gluoncv", model="deeplab_resnet50_citys", weights="pretrained")
    assert "fetch deeplab_resnet50_citys-cf6a7bb3.params (zipped at " in str(caught.value)
    with pytest.raises(ConfsegError, match="model store has no weights of fcn_resnet50_voc"):
        weights_file("fcn_resnet50_voc", "pretrained")


def test_pretrained_weights_are_the_model_stores(fcn, monkeypatch):
    store = import_gluoncv().model_zoo.model_store
    monkeypatch.setattr(store, "get_model_file", lambda name, tag=None: str(fcn[1]))
    monkeypatch.setitem(store._model_sha1, "fcn_resnet50_voc", "0" * 40)
    encoder, x = get_encoder("gluoncv", model="fcn_resnet50_voc", weights="pretrained"), image(24, 32)
    close(encoder(x)[-1], fcn[0].base_forward(x)[-1])


def test_imagenet_weights_are_those_of_the_backbone(monkeypatch):
    zoo = import_gluoncv().model_zoo
    original, asked = zoo.get_model, []

    def get_model(name, pretrained=False, **options):
        network = original(name, pretrained=False, **options)
        if pretrained:
            asked.append((name, network))
            network.initialize(mx.init.MSRAPrelu(slope=0))
            network(image(32, 32))
        return network

    monkeypatch.setattr(zoo, "get_model", get_model)
    encoder, x = get_encoder("gluoncv", model="deeplab_resnet50_citys", weights="imagenet"), image(24, 32)
    ((name, network),) = asked
    assert name == "resnet50_v1s"
    expected = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        expected = layer(expected)
    close(encoder(x)[-1], expected)
    with pytest.raises(ConfsegError, match="there are no ImageNet weights of 'deeplab_v3b_plus_wideresnet_citys'"):
        get_encoder("gluoncv", model="deeplab_v3b_plus_wideresnet_citys", weights="imagenet")


def test_frozen_batchnorm_is_the_encoders_and_not_the_heads():
    for frozen in (True, False):
        encoder = make_encoder("gluoncv", model="deeplab_resnest50_ade", frozen_batchnorm=frozen)
        head = encoder.new_head(5)
        for block, features, expected in (
            (encoder, [mx.sym.var("x")], str(frozen)),
            (head, [mx.sym.var("x")], "False"),
        ):
            out = block(*features)
            symbol = mx.sym.Group(list(out)) if isinstance(out, (tuple, list)) else out
            nodes = json.loads(symbol.tojson())["nodes"]
            assert {n["attrs"]["use_global_stats"] for n in nodes if n["op"] == "BatchNorm"} == {expected}


def test_head_keeps_its_dropout():
    for model, rates in (("fcn_resnet50_voc", [0.1]), ("deeplab_resnet50_citys", [0.5, 0.1])):
        head = make_encoder("gluoncv", model=model).new_head(5)
        nodes = json.loads(head(mx.sym.var("x")).tojson())["nodes"]
        assert [float(node["attrs"]["p"]) for node in nodes if node["op"] == "Dropout"] == rates


@pytest.mark.parametrize("model", ["psp_resnet50_ade", "deeplab_resnet50_citys"])
def test_subnets_of_groups_are_fused_with_the_head_and_hybridized_is_the_same(model):
    encoder = get_encoder("gluoncv", model=model)
    subnets = [encoder.new_head(5), Subnet(3, channels=4)]
    network = ConfSegNet(encoder, subnets, Fusion([ClassGroup((1, 2))], 5))
    for block in (network.subnets, network.fusion, network.upsample):
        block.initialize(mx.init.MSRAPrelu(slope=0))
    inputs = [image(40, 64), image(33, 47, seed=1)]
    expected = [network(x) for x in inputs]
    assert [scores.shape for scores in expected] == [(1, 5, 40, 64), (1, 5, 33, 47)]
    network.hybridize()
    for x, scores in zip(inputs, expected):
        close(network(x), scores, 1e-4)


def test_a_resnest_trains_at_any_size():
    encoder = get_encoder("gluoncv", model="deeplab_resnest50_ade", frozen_batchnorm=True)
    encoder.hybridize(static_alloc=True)
    for height, width in ((32, 48), (41, 40)):
        with mx.autograd.record():
            total = encoder(image(height, width))[-1].mean()
        total.backward()
        gradient = encoder.stem[0][0].weight.grad().asnumpy()
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


# the whole chain


SETTINGS = (
    "data.built_in={train: 4, val: 2, size: [64, 96]}",
    "augment.crop=[48, 64]",
    "baseline={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0}",
    "subnets={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0}",
    "subnet.channels=8",
    "groups.source=[[Road, Pavement], [Car, Bicyclist, Pedestrian]]",
    "devices=[cpu:0]",
    "encoder={name: gluoncv, model: fcn_resnet50_voc, frozen_batchnorm: true}",
)


def run(folder, *settings):
    return pipeline.run(config_path("camvid"), overrides=[*SETTINGS, *settings], output=str(folder))


@pytest.mark.slow
def test_train_evaluate_and_build(tmp_path, monkeypatch):
    """Subnet 0 is the model's head in both stages; a whole model's weights need no first stage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trained = run(tmp_path / "trained")
    found = results.read(trained / "results.json")
    assert len(found.groups) == 2 and found.cells[0].miou >= 0
    opened = open_run(trained, CPU)
    network, x = build_network(opened, "subnets_new", CPU[0]), image(51, 77)
    scores = network(x)
    assert scores.shape == (1, 11, 51, 77) and np.isfinite(scores.asnumpy()).all()
    encoder, head = (mx.nd.load(str(trained / f)) for f in ("encoder.params", "subnet0.baseline.params"))
    finetuned = mx.nd.load(str(trained / "subnet0.new.params"))
    assert set(finetuned) == set(head) and "head.block.4.weight" in head
    moved = np.abs((finetuned["head.block.4.weight"] - head["head.block.4.weight"]).asnumpy()).max()
    assert 0 < moved < 0.1 * np.abs(head["head.block.0.weight"].asnumpy()).max()  # from the baseline's, not afresh

    whole = {name.replace("stem.0.", "conv1.").replace("stem.1.", "bn1."): value for name, value in encoder.items()}
    mx.nd.save(str(tmp_path / "whole.params"), {**whole, **head})
    again = run(tmp_path / "again", "baseline.epochs=0", f"encoder.weights={tmp_path}/whole.params")
    assert results.read(again / "results.json").baseline.confusion == found.baseline.confusion


def test_a_first_stage_without_epochs_wants_a_head(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    get_encoder("gluoncv", model="fcn_resnet50_voc").save_parameters(str(tmp_path / "encoder.params"))
    with pytest.raises(ConfsegError, match="encoder.params holds no head; give one in subnet0.weights"):
        run(tmp_path / "run", "baseline.epochs=0", f"encoder.weights={tmp_path}/encoder.params")
