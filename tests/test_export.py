"""Exported networks against the run's own, on a tiny run whose subnets read several stages and have BatchNorm."""

import json
import os
import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from test_end_to_end import TINY

from gluon_confseg import cli, files
from gluon_confseg.backend import mx
from gluon_confseg.building import build_network
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import open_dataset
from gluon_confseg.data.transforms import normalize
from gluon_confseg.errors import ConfsegError
from gluon_confseg.export import Options, export
from gluon_confseg.run import open_run

SETTINGS = [*TINY, "subnet.stages=[0, -1]", "subnet.norm=batch"]
SIZES = [(32, 48), (37, 51), (7, 1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished run; its images are in the folder beside it."""
    base = tmp_path_factory.mktemp("export")
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    code = "from gluon_confseg.cli import main; main()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(base / "cache")}
    command = [sys.executable, "-c", code, "run", "camvid", "--cpu", "--output", str(base / "run"), *overrides]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return base / "run"


@pytest.fixture(scope="module")
def symbol(run):
    return export(run)


@pytest.fixture(scope="module")
def onnx(run):
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    return lambda target, **options: export(run, output=target, options=Options("onnx", **options))


def contract(folder):
    return json.loads((folder / "network.json").read_text())


def network(folder):
    """The exported network as its own example loads it."""
    (script,) = folder.glob("run_*.py")
    return runpy.run_path(str(script))["Network"](folder)


def images(height, width, count=1):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def normalized(batch):
    return np.stack([normalize(image) for image in batch])


def expected_scores(run, batch, cell="subnets_new"):
    return build_network(open_run(run, [mx.cpu()]), cell, mx.cpu())(mx.nd.array(normalized(batch))).asnumpy()


@pytest.mark.parametrize("size", SIZES)
def test_symbol_is_the_network(run, symbol, size):
    batch = images(*size, count=2)
    got = network(symbol).run(normalized(batch))
    assert got.shape == (2, 11, *size) and got.std() > 0
    np.testing.assert_array_equal(got, expected_scores(run, batch))


def test_onnx_is_the_network(run, onnx, tmp_path):
    made = network(onnx(tmp_path / "made"))
    for size in SIZES:
        batch = images(*size, count=2)
        got = made.run(normalized(batch))
        assert got.shape == (2, 11, *size)
        np.testing.assert_allclose(got, expected_scores(run, batch), rtol=0, atol=1e-4)


def test_symbol_with_normalization_and_labels(run, tmp_path):
    folder = export(run, "control_adjusted", tmp_path / "new" / "made", Options(labels=True, normalize=True))
    batch = images(37, 51)
    got = network(folder).run(np.float32(batch.transpose(0, 3, 1, 2)))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected_scores(run, batch, "control_adjusted").argmax(axis=1))
    found = contract(folder)
    assert found["input"]["normalization"] == "inside" and found["groups"] == []
    assert found["output"]["name"] == "labels" and found["output"]["layout"] == "NHW"


def test_onnx_of_one_size_with_normalization_and_labels(run, onnx, tmp_path):
    folder = onnx(tmp_path / "made", size=(37, 51), labels=True, normalize=True)
    batch = images(37, 51)
    got = network(folder).label_map(batch[0])
    scores = np.sort(expected_scores(run, batch)[0], axis=0)
    clear = scores[-1] - scores[-2] > 1e-4
    assert got.dtype == np.uint8 and clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], expected_scores(run, batch)[0].argmax(axis=0)[clear])
    found = contract(folder)
    assert found["input"]["size"] == [37, 51] and found["input"]["batch"] == 1
    assert found["comparison"]["sizes"] == [[37, 51], [37, 51]]
    with pytest.raises(Exception, match="(?i)dimension"):
        network(folder).label_map(images(37, 52)[0])


def test_the_onnx_file_is_tidy(onnx, tmp_path):
    import onnx as package

    model = package.load(str(onnx(tmp_path / "made") / "network.onnx"))
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["scores"]
    assert [entry.version for entry in model.opset_import] == [13]
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


def test_contract(run, symbol):
    found = contract(symbol)
    assert symbol == run / "export" / "subnets_new-symbol" and found["cell"]["key"] == "subnets_new"
    assert found["classes"][:2] == ["Sky", "Building"] and found["colors"][0] == [128, 128, 128]
    assert len(found["classes"]) == len(found["colors"]) == 11
    groups = json.loads((run / "results.json").read_text())["groups"]
    assert [group["classes"] for group in found["groups"]] == [group["classes"] for group in groups]
    wanted = found["input"]
    assert (wanted["layout"], wanted["dtype"], wanted["channels"]) == ("NCHW", "float32", "RGB")
    assert wanted["size"] == "dynamic" and wanted["scale"] == 0.5
    assert wanted["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert found["output"]["layout"] == "NCHW" and found["versions"]["mxnet"] == "1.9.1"
    assert found["comparison"] == {"sizes": [[64, 96], [51, 77]], "tolerance": 0.0, "largest_difference": 0.0}
    assert set(found["sha256"]) == {"network-symbol.json", "network.params"}
    assert all(files.sha256(symbol / name) == digest for name, digest in found["sha256"].items())


def test_the_example_counts_the_runs_own_confusion(run, symbol):
    """At the working resolution 0.5, from the image files: the deployed network is the one that was evaluated."""
    (root,) = (run.parent / "cache" / "gluon_confseg").iterdir()
    val = open_dataset("camvid", root, "val")
    made, matrix = network(symbol), ConfusionMatrix(11)
    for i in range(len(val)):
        matrix.update(val.label(i), made.label_map(val.image(i)))
    differing = np.abs(matrix.counts - np.load(run / "counts.npz")["subnets_new"]).sum() / 2
    assert differing <= 0.001 * matrix.counts.sum()


def test_the_example_by_itself(symbol, tmp_path):
    image = images(40, 60)[0]
    cv2.imwrite(str(tmp_path / "image.png"), image[:, :, ::-1])
    start = [sys.executable, "-I", str(symbol / "run_symbol.py"), str(symbol), str(tmp_path / "image.png")]
    done = subprocess.run([*start, str(tmp_path / "labels.png")], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == ""
    with Image.open(tmp_path / "labels.png") as written:
        np.testing.assert_array_equal(np.array(written), network(symbol).label_map(image))
        assert written.getpalette()[: 3 * 11] == [v for color in contract(symbol)["colors"] for v in color]


@pytest.mark.parametrize("change", [1e-6, np.nan])
def test_a_network_that_differs_is_not_kept(run, tmp_path, monkeypatch, change):
    monkeypatch.setattr(np, "save", lambda path, array, save=np.save: save(path, array + np.float32(change)))
    with pytest.raises(ConfsegError, match="differs from the trained one"):
        export(run, output=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_run_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr("gluon_confseg.export.fresh._BLOCKED", {"symbol": "mxnet"})
    with pytest.raises(ConfsegError, match=r"does not run \(ModuleNotFoundError"):
        export(run, output=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def refusal(monkeypatch, capsys, *arguments):
    """The one line that `confseg export` ends with, at exit code 2."""
    monkeypatch.setattr(sys, "argv", ["confseg", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    return line


def test_errors_are_one_line(run, symbol, tmp_path, monkeypatch, capsys):
    def refused(*arguments):
        return refusal(monkeypatch, capsys, *arguments)

    assert "not a finished run" in refused(tmp_path)
    assert "no cell 'best'; its cells: subnet0_ce, subnets_ce" in refused(run, "--cell", "best")
    assert "--size 64: wants height x width" in refused(run, "--size", "64")
    assert "exclude each other" in refused(run, "--size", "64x64", "--dynamic")
    assert f"{symbol} exists; remove it" in refused(run)
    (tmp_path / "file").touch()
    assert f"cannot write {tmp_path / 'file' / 'made'}" in refused(run, "--output", tmp_path / "file" / "made")


def test_onnx_is_asked_for_and_not_installed(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install -e '.[onnx]'" in refusal(monkeypatch, capsys, run, "--format", "onnx")
