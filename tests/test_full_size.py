"""The paper's own configs, on CPU: every stage once, at the crop and image size that they name."""

import json
from pathlib import Path

import numpy as np
import pytest
from released_resnet38 import drawn

from gluon_confseg import pipeline, stages
from gluon_confseg.backend import mx, settle
from gluon_confseg.data import synthetic
from gluon_confseg.nn import get_encoder

pytestmark = pytest.mark.slow  # 11 minutes and 7 GB on two busy cores: networks of 50 to 100 million parameters

CONFIGS = Path(__file__).resolve().parents[1] / "experiments" / "configs"
ONE_UPDATE = [
    f"{stage}.{key}"
    for stage in ("baseline", "subnets")
    for key in ("batch_size=2", "max_updates_per_epoch=1", "epochs=1")
]
# fewer heads than the config's: all kinds of head and loss are still there
CELLS = """cells=[{key: subnet0_ce, title: baseline, role: baseline},
    {key: subnets_new, title: subnets, role: paper, subnet0: new, subnets: new}]"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint of random weights in the format of the released ResNet-38."""
    path = tmp_path_factory.mktemp("weights") / "resnet38.params"
    mx.nd.save(str(path), drawn())
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Random weights of ResNet-101 whose features keep their size, as trained ones do: each block adds a little."""
    path = tmp_path_factory.mktemp("weights") / "resnet101.params"
    encoder = get_encoder("resnet101_v1b")
    for name, parameter in encoder._collect_params_with_prefix().items():
        if name.endswith("bn3.gamma"):
            parameter.set_data(mx.nd.full(parameter.shape, 0.1))
    settle()
    encoder.save_parameters(str(path))
    return path


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("data")
    sizes = {"cityscapes": (1024, 2048), "voc": (375, 500)}
    return {
        name: synthetic.ensure(name, base / name, train=4, val=1, size=size, seed=0) for name, size in sizes.items()
    }


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes_resnet38", "voc"])
def test_every_stage_once(name, roots, released, pretrained, tmp_path, monkeypatch):
    weights = [f"encoder.weights={pretrained}"]
    if name == "cityscapes_resnet38":
        weights = [f"encoder.weights={released}", f"subnet0.weights={released}", "baseline.epochs=0"]
    overrides = [*ONE_UPDATE, CELLS, "devices=[cpu:0]", *weights]
    used = []
    load = stages.load_encoder
    monkeypatch.setattr(stages, "load_encoder", lambda *arguments: used.append(load(*arguments)) or used[-1])
    config = CONFIGS / f"{name}.yaml"
    folder = pipeline.run(config, overrides=overrides, data_root=roots[name.split("_")[0]], output=tmp_path / "run")

    results = json.loads((folder / "results.json").read_text())
    assert [cell["key"] for cell in results["cells"]] == ["subnet0_ce", "subnets_new"]
    pixels = {"cityscapes": 1024 * 2048, "voc": 375 * 500}[name.split("_")[0]]
    for cell in results["cells"]:
        counted = np.sum(cell["confusion"])
        assert 0.8 * pixels < counted <= pixels  # one image, at its full size, less what is ignored
    # subnet training leaves the encoder alone, BatchNorm's statistics included (paper section 4.1)
    assert len(used) == 1
    settle()
    saved = mx.nd.load(str(folder / "encoder.params"))
    parameters = used[0]._collect_params_with_prefix()
    assert set(saved) == set(parameters)
    for key, value in saved.items():
        np.testing.assert_array_equal(value.asnumpy(), parameters[key].data().asnumpy(), err_msg=key)
    losses = [line for line in (folder / "run.log").read_text().splitlines() if "loss" in line and "epoch" in line]
    assert losses and not any("nan" in line for line in losses)
