"""The stored graphs are what the code gives, complete, and run with MXNet and NumPy alone."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from gluon_confseg import files
from gluon_confseg.backend import mx
from gluon_confseg.labels import CITYSCAPES

SYMBOLS = Path(__file__).resolve().parents[1] / "symbols"
MANIFEST = json.loads((SYMBOLS / "manifest.json").read_text())
GRAPHS = MANIFEST["graphs"]
CITYSCAPES_GRAPHS = [name for name in GRAPHS if name.startswith("cityscapes")]

# With `python -I`: random weights of the manifest's shapes into the stored graph, through the example.
ALONE = """
import json, runpy, shutil, sys
from pathlib import Path
symbols, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for blocked in ("gluon_confseg", "gluoncv", "cv2", "onnx", "onnxruntime", "PIL", "scipy", "matplotlib"):
    sys.modules[blocked] = None
Network = runpy.run_path(str(symbols / "run_symbol.py"))["Network"]
import mxnet as mx
import numpy as np
graph = json.loads((symbols / "manifest.json").read_text())["graphs"][name]
random, weights = np.random.default_rng(0), {}
for kind in ("arg", "aux"):
    for key, shape in graph[kind].items():
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        value = random.normal(size=shape, scale=scale) if len(shape) > 1 else np.ones(shape)
        value = np.broadcast_to(np.array(graph["constants"][key]), shape) if key in graph["constants"] else value
        weights[kind + ":" + key] = mx.nd.array(value)
mx.nd.save(str(folder / "network.params"), weights)
shutil.copyfile(symbols / graph["file"], folder / "network-symbol.json")
(folder / "network.json").write_text(json.dumps({"input": graph["input"]}))
for size in ((32, 64), (37, 51)):
    scores = Network(folder).run(random.normal(size=(2, 3, *size)))
    assert scores.shape == (2, len(graph["classes"]), *size), scores.shape
    assert np.isfinite(scores).all() and scores.std() > 1e-3
"""


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbols")
    mx.gluon.nn.Conv2D(1, 1)  # names must not depend on what was built before
    runpy.run_path(str(SYMBOLS / "regenerate.py"))["main"](folder)
    return folder


def test_what_is_stored_is_what_the_code_gives(regenerated):
    stored = {path.name for path in SYMBOLS.glob("*.json")}
    assert {path.name for path in regenerated.iterdir()} == stored
    assert stored == {"manifest.json", *(graph["file"] for graph in GRAPHS.values())}
    different = [name for name in sorted(stored) if (SYMBOLS / name).read_bytes() != (regenerated / name).read_bytes()]
    assert not different, f"{different} are out of date: python symbols/regenerate.py"


@pytest.mark.parametrize("name", GRAPHS)
def test_the_manifest_is_complete(name):
    graph = GRAPHS[name]
    assert graph["sha256"] == files.sha256(SYMBOLS / graph["file"])
    symbol = mx.sym.load(str(SYMBOLS / graph["file"]))
    shapes = {key: tuple(shape) for key, shape in {**graph["arg"], **graph["aux"]}.items()}
    assert {*symbol.list_arguments()} == {"data", *graph["arg"]}
    assert {*symbol.list_auxiliary_states()} == {*graph["aux"]}
    arguments, outputs, auxiliary = symbol.infer_shape(data=tuple(graph["input"]["shape"]))
    assert outputs == [tuple(graph["output"]["shape"])]
    inferred = dict(zip(symbol.list_arguments(), arguments), **dict(zip(symbol.list_auxiliary_states(), auxiliary)))
    assert shapes == {key: shape for key, shape in inferred.items() if key != "data"}
    assert set(graph["constants"]) <= set(shapes)


def test_the_networks_are_the_papers():
    paper = [list(group) for group in CITYSCAPES.named_groups["paper"]]
    for name in CITYSCAPES_GRAPHS:
        assert GRAPHS[name]["groups"] == ([] if "baseline" in name else paper)
    # what three group subnets add, each a 3x3 convolution of 2048 features to 512 and one to its classes and "others"
    added = GRAPHS["cityscapes_resnet101"]["numbers"] - GRAPHS["cityscapes_resnet101_baseline"]["numbers"]
    assert added == 3 * (2048 * 512 * 9 + 512) + sum(512 * outputs * 9 + outputs for outputs in (7, 5, 5))
    # four hidden convolutions that read ResNet-38's 4096 features, as one
    assert [4 * 512, 4096, 3, 3] in GRAPHS["cityscapes_resnet38"]["arg"].values()
    assert GRAPHS["voc_resnet101"]["output"]["shape"][1] == 21 and len(GRAPHS["voc_resnet101"]["groups"]) == 1


def test_a_stored_graph_runs_with_mxnet_and_numpy_alone(tmp_path):
    command = [sys.executable, "-I", "-c", ALONE, str(SYMBOLS), str(tmp_path), "cityscapes_small"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
