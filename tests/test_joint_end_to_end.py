"""Joint trainings by the real command line on generated data: beside the other stages, continued, used, refused."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from test_end_to_end import TINY, command

from gluon_confseg import config, results
from gluon_confseg.places import CONFIGS

SETTINGS = {
    "_base_": str(CONFIGS / "camvid.yaml"),
    "losses": {"ce": {"kind": "cross_entropy"}, "new": {"kind": "confusion", "diagonal": "one"}},
    "joint": {
        "groups": {"subnet0": "new", "subnets": "new", "plain_epochs": 1},
        "ordinary": {"subnet0": "ce", "subnets": "ce", "spaces": "all", "pull_like": "groups"},
        "spare": {"subnet0": "ce"},
    },
    "cells": [
        {"key": "base", "title": "baseline", "role": "baseline"},
        {"key": "fused", "title": "joint, fused", "joint": "groups", "rule": "product"},
        {"key": "alone", "title": "joint, subnet 0 alone", "joint": "groups", "subnets": None},
        {"key": "ordinary", "title": "joint, ordinary heads", "role": "control", "joint": "ordinary"},
    ],
    "comparisons": {"fused": ["ordinary"]},
}
LONGER = [
    *TINY,
    "data.held_out=0.34",
    "baseline={epochs: 3, batch_size: 2, max_updates_per_epoch: 2, warmup: 0, learning_rate: 0.01}",
]


@pytest.fixture(scope="module")
def start(environment, tmp_path_factory):
    """Run settings in a folder: the finished process, or, not waited for, the one at work."""
    home = tmp_path_factory.mktemp("joint")

    def call(folder, *options, settings=SETTINGS, wait=True):
        path = home / "joint.yaml"
        path.write_text(yaml.safe_dump(settings))
        words = command(str(path), folder, "--cpu", *options, settings=LONGER)
        if not wait:
            return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    return call


@pytest.fixture(scope="module")
def ran(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    done = start(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_cells_of_joint_trainings_are_in_the_tables(ran):
    folder, done = ran
    found = results.read(folder / "results.json")
    assert (found.dataset.train.split, found.dataset.val.split) == ("train[:4]", "train[4:]")
    assert [(cell.key, cell.role) for cell in found.cells][1:] == [
        ("fused", "variant"),
        ("alone", "variant"),
        ("ordinary", "control"),
    ]
    assert "joint, ordinary heads *" in done.stdout and "joint, subnet 0 alone" in (folder / "table.txt").read_text()
    assert {"joint-groups", "joint-ordinary"} <= set(found.seconds)
    assert {score.loss for score in found.subnets} == {"new, joint groups"}
    assert config.parse(found.config, "results.json").cells[1].subnets == "new"


def test_each_joint_training_has_files_of_its_own(ran):
    folder, _ = ran
    groups = len(yaml.safe_load((folder / "groups.yaml").read_text()))
    for name in ("groups", "ordinary"):
        heads = {f"joint-{name}.subnet{m}.params" for m in range(groups + 1)}
        made = json.loads((folder / "stages" / f"joint-{name}.json").read_text())
        assert set(made["outputs"]) == heads | {f"joint-{name}.encoder.params", f"joint-{name}.pulls.json"}
    assert not list(folder.glob("joint-spare*"))  # no cell has it
    wanted, found = (json.loads((folder / f"joint-{n}.pulls.json").read_text()) for n in ("groups", "ordinary"))
    assert np.shape(wanted) == (3, groups + 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_another_joint_training_leaves_the_finished_ones_alone(ran, start, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ran[0], folder)
    more = {"key": "spare", "title": "joint, one head", "joint": "spare"}
    changed = {**SETTINGS, "cells": [*SETTINGS["cells"], more]}
    added = start(folder, settings=changed)
    assert added.returncode == 0, added.stderr
    for stage in ("baseline", "subnets", "joint-groups", "joint-ordinary"):
        assert f"{stage}: finished before" in added.stderr
    assert "joint-spare: finished in" in added.stderr and "evaluate: done again" in added.stderr
    assert results.read(folder / "results.json").cells[-1].title == "joint, one head"


@pytest.mark.slow  # test_joint.py resumes in one process
def test_killed_in_a_joint_training_it_continues_to_the_same_result(ran, start, tmp_path):
    folder = tmp_path / "parts"
    for marker in ("joint-groups epoch 2", "joint-ordinary epoch 1"):
        process = start(folder, wait=False)
        log, deadline = folder / "run.log", time.monotonic() + 120
        while not (log.exists() and marker in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(folder).returncode == 0
    for file in sorted(ran[0].glob("*.params")) + sorted(ran[0].glob("*.pulls.json")):
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name
    left, right = (results.read(each / "results.json") for each in (ran[0], folder))
    assert left.cells == right.cells


def test_cells_of_several_encoders_are_evaluated_predicted_and_exported(
    ran, environment, confseg, monkeypatch, tmp_path
):
    folder, _ = ran
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    code, printed, errors = confseg("evaluate", folder, "--output", tmp_path / "counts.json")
    assert code == 0, errors
    counted = json.loads((tmp_path / "counts.json").read_text())["cells"]
    expected = {cell.key: cell.confusion for cell in results.read(folder / "results.json").cells}
    assert {key: cell["counts"] for key, cell in counted.items()} == expected
    assert list(counted) == list(expected) and not list(folder.glob("*.partial.npz"))
    image = next(Path(environment["XDG_CACHE_HOME"]).rglob("val/*.png"))
    code, _, errors = confseg("predict", folder, image, "--cell", "fused", "--output", tmp_path / "fused")
    assert code == 0, errors

    from gluon_confseg import export
    from gluon_confseg.backend import mx
    from gluon_confseg.building import build_network
    from gluon_confseg.run import open_run

    opened, x = open_run(folder, [mx.cpu()]), mx.nd.random.normal(shape=(1, 3, 48, 64))
    scores = [build_network(opened, key, mx.cpu())(x).asnumpy() for key in expected]
    for number, left in enumerate(scores):
        assert all(np.abs(left - right).max() > 1e-3 for right in scores[:number])
    labels = np.array(Image.open(tmp_path / "fused" / "labels" / f"{image.stem}.png"))
    assert labels.max() < 11
    made = export.export(str(folder), "fused", str(tmp_path / "graph"), export.Options("symbol"))
    assert json.loads((made / "network.json").read_text())["cell"]["joint"] == "groups"


def test_a_run_whose_joint_training_is_missing_is_not_finished(ran, confseg, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ran[0], folder)
    (folder / "stages" / "joint-ordinary.json").unlink()
    code, _, errors = confseg("evaluate", folder)
    assert code == 2 and "stage joint-ordinary is missing; run it to the end first" in errors


def test_the_study_of_the_repository_is_valid():
    from gluon_confseg import study

    plan = study.read(CONFIGS.parent / "study_joint.yaml")
    settings = config.load(CONFIGS / "camvid.yaml", overlay=plan.settings)
    assert config.used_joints(settings) == list(settings.joint)
    assert config.parse(config.to_tree(settings), "again") == settings
