"""INT8 exports of a tiny run: what is quantised, what the record says, what is refused."""

import json
import logging
import runpy

import numpy as np
import pytest
from PIL import Image
from test_export import contract, images, network, refusal, run  # noqa: F401  fixture
from test_symbols import SYMBOLS

from gluon_confseg.config_data import Augment
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import open_dataset
from gluon_confseg.errors import ConfsegError
from gluon_confseg.export import Int8, Options, export, graph, int8_onnx, int8_symbol, onnx_file


@pytest.fixture(autouse=True)
def _own_cache(run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.parent / "cache"))


@pytest.fixture(scope="module")
def validation(run):  # noqa: F811
    (root,) = (run.parent / "cache" / "gluon_confseg").iterdir()
    return open_dataset("camvid", root, "val")


@pytest.fixture
def onnx_quantization():
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnxruntime.quantization", reason="the extra 'onnx' is not installed")


def operators(folder):
    """Of a symbol: (operator, whether it is quantised)."""
    nodes = json.loads((folder / "network-symbol.json").read_text())["nodes"]
    return [(node["op"], node.get("attrs", {}).get("quantized") == "true") for node in nodes if node["op"] != "null"]


def check_record(folder, run, dataset):  # noqa: F811
    """The float32 figure is the run's own; the INT8 figure is that of the deployed label maps."""
    found = contract(folder)["int8"]
    assert found["calibration"]["images"] == 6 and found["calibration"]["source"] == "camvid train"
    assert (found["measured_on"]["images"], found["measured_on"]["of"]) == (2, 2)
    own = ConfusionMatrix.from_counts(np.load(run / "counts.npz")["subnets_new"])
    assert found["miou"]["float32"] == pytest.approx(100 * own.mean_iou(), abs=0.1)
    assert found["miou_drop"] == found["miou"]["float32"] - found["miou"]["int8"]
    assert min(found["milliseconds"].values()) > 0 and found["milliseconds_are"]["threads"] >= 1
    return found


def test_symbol(run, validation, tmp_path):  # noqa: F811
    folder = export(run, output=tmp_path / "made", options=Options(int8=Int8()))
    found = operators(folder)
    assert {quantized for op, quantized in found if op == "_sg_mkldnn_conv"} == {True}
    names = {op for op, _ in found}
    assert "Convolution" not in names and {"Deconvolution", "softmax", "take"} <= names
    record = check_record(folder, run, validation)
    deployed, matrix = network(folder), ConfusionMatrix(11)
    for i in range(len(validation)):
        matrix.update(validation.label(i), deployed.label_map(validation.image(i)))
    assert record["miou"]["int8"] == pytest.approx(100 * matrix.mean_iou(), abs=0.1)
    assert contract(folder)["comparison"]["largest_difference"] == 0


def test_onnx(run, validation, tmp_path, onnx_quantization):  # noqa: F811
    import onnx

    folder = export(run, output=tmp_path / "made", options=Options("onnx", int8=Int8()))
    graph = onnx.load(str(folder / "network.onnx")).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    before = {(made_by.get(name), n.op_type) for n in graph.node for name in n.input}
    assert {first for first, second in before if second == "Conv"} == {"DequantizeLinear"}
    assert ("Conv", "BatchNormalization") not in before  # folded
    assert ("Softmax", "QuantizeLinear") not in before and ("DequantizeLinear", "ConvTranspose") not in before
    check_record(folder, run, validation)
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", "network.onnx", "run_onnx.py"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symbol", "onnx"])
def test_of_one_size_with_normalization_and_labels(run, tmp_path, kind, request):  # noqa: F811
    if kind == "onnx":
        request.getfixturevalue("onnx_quantization")
    options = Options(kind, size=(40, 56), labels=True, normalize=True, int8=Int8(limit=1))
    folder = export(run, output=tmp_path / "made", options=options)
    found = contract(folder)["int8"]
    assert found["measured_on"]["images"] == 1 and found["milliseconds_are"]["size"] == [40, 56]
    labels = network(folder).run(np.float32(images(40, 56).transpose(0, 3, 1, 2)))
    assert labels.dtype == np.uint8 and labels.shape == (1, 40, 56) and len(np.unique(labels)) > 1


@pytest.mark.slow
def test_calibrated_on_a_folder(run, tmp_path):  # noqa: F811
    (tmp_path / "images").mkdir()
    for index, image in enumerate(images(48, 64, count=40)):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    folder = export(run, output=tmp_path / "made", options=Options(int8=Int8(images=tmp_path / "images", limit=1)))
    assert contract(folder)["int8"]["calibration"]["images"] == 32  # of 40


def test_a_large_drop_is_warned_of(run, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr("gluon_confseg.export.int8.LARGE_DROP", -101)
    with caplog.at_level(logging.WARNING):
        export(run, output=tmp_path / "made", options=Options(int8=Int8(limit=1)))
    assert "INT8 costs" in caplog.text


def test_one_that_differs_is_not_kept(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(np, "save", lambda path, array, save=np.save: save(path, array * np.float32(1.1)))
    with pytest.raises(ConfsegError, match="differs from"):
        export(run, output=tmp_path / "made", options=Options(int8=Int8(limit=1)))
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line(run, tmp_path, monkeypatch, capsys):  # noqa: F811
    def refused(*arguments):
        return refusal(monkeypatch, capsys, run, "--output", tmp_path / "made", *arguments)

    assert "are for --int8" in refused("--limit", "3")
    assert "no image file or folder" in refused("--int8", "--images", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no image found in" in refused("--int8", "--images", tmp_path / "empty")
    assert "no folder" in refused("--int8", "--data-root", tmp_path / "none")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.quantization", None)
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    assert "--format onnx --int8 wants onnxruntime's quantisation" in refused("--int8", "--format", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("kind", ["symbol", "onnx"])
def test_close_to_float32(tmp_path, kind, request, monkeypatch):
    """Random weights, calibrated on the very image, so that nothing is out of range."""
    benchmarks = SYMBOLS.parent / "tools" / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    made = runpy.run_path(str(benchmarks / "int8.py"))["network"]("small", fused=True)
    weighted = graph.trace(graph.Graph(made, Augment(), Options()))
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype("float32")
    expected, keep = graph.runner(weighted)(batch), (made.fusion.prefix, made.upsample.prefix)
    if kind == "symbol":
        got = graph.runner(int8_symbol.quantize(weighted, [batch], keep))(batch)
    else:
        request.getfixturevalue("onnx_quantization")
        onnx_file.write(tmp_path / "float32.onnx", weighted, None)
        int8_onnx.quantize(tmp_path / "float32.onnx", tmp_path / "int8.onnx", [batch], keep)
        got = onnx_file.runner(tmp_path / "int8.onnx")(batch)
    assert 0 < np.abs(got - expected).mean() < 0.2 * expected.std()
