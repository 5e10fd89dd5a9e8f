"""Every kind of network is exported and passes the comparison that export makes, float32 and INT8."""

import json

import pytest
from test_symbols import SYMBOLS

from gluon_confseg import config, groups
from gluon_confseg.backend import mx, settle
from gluon_confseg.config import to_tree
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.export import Int8, Options, export
from gluon_confseg.files import write_json, write_text
from gluon_confseg.labels import CITYSCAPES
from gluon_confseg.nn import Subnet, get_encoder
from gluon_confseg.run import HeadName, manifest_path, write_labels

pytestmark = pytest.mark.slow

CONFIG = SYMBOLS.parent / "experiments" / "configs" / "cityscapes_builtin.yaml"
CELLS = (
    "cells=[{key: first, title: first, role: baseline}, "
    "{key: sum, title: sum, subnet0: ce, subnets: ce}, "
    "{key: product, title: product, subnet0: ce, subnets: ce, rule: product}]"
)
HEAD = {"hidden": 1, "channels": 16, "kernel": 3, "dilation": 4}
FOUND = groups.named(CITYSCAPES, CITYSCAPES.named_groups["paper"])


@pytest.fixture(scope="module", params=["small", "resnet18_v1b", "resnet38_a1"])
def run(request, tmp_path_factory):
    """The folder of a run that trained nothing: random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    built_in = "data.built_in={train: 4, val: 1, size: [64, 96]}"
    heads = [f"{key}={json.dumps(HEAD)}" for key in ("subnet0", "subnet")]
    settings = config.load(CONFIG, [f"encoder.name={request.param}", CELLS, built_in, *heads])
    write_json(folder / "config.json", to_tree(settings))
    write_labels(folder / "labels.json", CITYSCAPES)
    names = [{"classes": [CITYSCAPES.classes[c] for c in group.classes], "reason": "by name"} for group in FOUND]
    write_text(folder / "groups.yaml", json.dumps(names))  # JSON is YAML
    ConfusionMatrix.from_counts([[1] * 19] * 19).save(folder / "confusion.npz")
    mx.random.seed(0)
    encoder = get_encoder(request.param)
    features = encoder(mx.nd.random.normal(shape=(1, 3, 64, 64)))
    for subnet, outputs in enumerate((19, *(len(group.classes) + 1 for group in FOUND))):
        head = Subnet(outputs, **HEAD)
        head.initialize(mx.init.MSRAPrelu(slope=0))
        head(*head.inputs(features))
        settle()
        head.save_parameters(str(folder / HeadName(subnet, "ce").file))
    encoder.save_parameters(str(folder / "encoder.params"))
    for stage in ("baseline", "groups", "subnets"):
        write_json(manifest_path(folder, stage), {})
    return folder


def check(folder, tolerance):
    found = json.loads((folder / "network.json").read_text())["comparison"]
    assert found["sizes"] == [[64, 96], [51, 77]] and found["tolerance"] == tolerance
    assert (folder / "network.json").is_file()


@pytest.mark.parametrize("rule", ["sum", "product"])
def test_symbol(run, tmp_path, rule):
    check(export(run, rule, tmp_path / "made"), 0.0)


@pytest.mark.parametrize("rule", ["sum", "product"])
def test_onnx(run, tmp_path, rule):
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    check(export(run, rule, tmp_path / "made", Options("onnx")), 1e-4)


@pytest.mark.parametrize("kind, tolerance", [("symbol", 0.0), ("onnx", 1e-4)])
def test_int8(run, tmp_path, monkeypatch, kind, tolerance):
    if kind == "onnx":
        pytest.importorskip("onnxruntime.quantization", reason="the extra 'onnx' is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check(export(run, "product", tmp_path / "made", Options(kind, int8=Int8())), tolerance)
