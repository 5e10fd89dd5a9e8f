"""confseg evaluate: the run's own numbers, other splits and manners, interrupted and continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_prediction import refused, written

from gluon_confseg import evaluation, results
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import open_dataset
from gluon_confseg.errors import ConfsegError

KILLED = """
import os, signal, sys
from gluon_confseg import cli, evaluation
save = evaluation.State.save
def save_and_die(self, counted):
    save(self, counted)
    if len(counted.ids) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
evaluation.State.save, evaluation.SAVE_SECONDS = save_and_die, 0
cli.main()
"""


def test_evaluate_gives_the_run_s_own_numbers_and_writes_nothing(confseg, run):
    before = written(run)
    code, out, errors = confseg("evaluate", run)
    found = results.read(run / "results.json")
    assert code == 0 and "built-in data" in errors
    assert "cityscapes val, 2 images (data root: built-in), scales 1, without flip" in out
    for cell in found.cells:
        row = next(line for line in out.splitlines() if line.startswith(f"| {cell.key} "))
        assert [part.strip() for part in row.split("|")[2:4]] == [cell.title, f"{100 * cell.miou:.2f}"]
    road = next(line for line in out.splitlines() if line.startswith("| road "))
    assert [part.strip() for part in road.split("|")[3:-1]] == [f"{100 * cell.iou[0]:.2f}" for cell in found.cells]
    assert written(run) == before and not list(Path().iterdir())


def test_a_run_on_built_in_images_is_evaluated_on_them_whatever_the_environment_says(confseg, run, root, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    assert "data root: built-in" in confseg("evaluate", run, "--cell", "subnet0_ce")[1]


def test_a_run_on_images_of_the_user_s_wants_them(confseg, run, root, monkeypatch, tmp_path):
    elsewhere = tmp_path / "copy"
    shutil.copytree(run, elsewhere)
    tree = json.loads((run / "results.json").read_text())
    tree["dataset"]["source"] = "variable"
    (elsewhere / "results.json").write_text(json.dumps(tree))
    code, _, errors = confseg("evaluate", elsewhere, "--cell", "subnet0_ce")
    assert code == 2 and "was trained on a data set of yours; say where it is with --data-root" in errors
    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    assert "data root: variable" in confseg("evaluate", elsewhere, "--cell", "subnet0_ce")[1]


def test_evaluate_another_split_at_several_scales(confseg, run, root):
    options = ("--split", "train", "--data-root", root, "--cell", "subnets_new", "--cell", "subnet0_ce")
    assert confseg("evaluate", run, *options, "--output", "one.json")[0] == 0
    code, out, _ = confseg("evaluate", run, *options, "--scales", "0.5,1.5", "--flip", "--output", "several.json")
    assert code == 0 and "train, 6 images (data root: option), scales 0.5, 1.5, with flip" in out
    one, several = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "several"))
    assert (
        several["scales"] == [0.5, 1.5] and several["flip"] and list(several["cells"]) == ["subnets_new", "subnet0_ce"]
    )
    assert one["dataset"] == several["dataset"]
    assert one["dataset"]["fingerprint"] == open_dataset("cityscapes", root, "train").fingerprint()
    truth = {str(np.sum(cell["counts"], axis=1)) for each in (one, several) for cell in each["cells"].values()}
    assert len(truth) == 1
    assert one["cells"] != several["cells"]


def test_built_in_images_do_not_stand_in_for_the_user_s(confseg, run, root, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    record = json.loads((run / "results.json").read_text())
    record["dataset"]["source"] = "variable"
    (tmp_path / "copy" / "results.json").write_text(json.dumps(record))
    refused(confseg("evaluate", "copy"), "copy", "--data-root")
    assert confseg("evaluate", "copy", "--data-root", root, "--cell", "subnet0_ce")[0] == 0
    classes = json.loads((run / "labels.json").read_text())
    classes["classes"][0] = "street"
    (tmp_path / "copy" / "labels.json").write_text(json.dumps(classes))
    refused(confseg("evaluate", "copy", "--data-root", root), "classes are not those")


def counts(path):
    record = json.loads(Path(path).read_text())
    return {key: cell["counts"] for key, cell in record["cells"].items()}


def states(folder):
    return [name for name in written(folder) if name.endswith(".partial.npz")]


@pytest.fixture
def whole(confseg, run):
    """The counts on the six training images, never interrupted."""
    assert confseg("evaluate", run, "--split", "train", "--output", "whole.json")[0] == 0
    return counts("whole.json")


def test_a_killed_evaluation_continues(confseg, run, whole, tmp_path, cache):
    arguments = ["evaluate", str(run), "--split", "train", "--output", "out/counts.json"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "--cpu"],
        cwd=str(tmp_path),
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(states(tmp_path / "out")) == 1 and written(tmp_path / "out") == states(tmp_path / "out")
    assert "before" not in confseg(*arguments, "--flip")[2]  # other settings, another state
    assert len(states(tmp_path / "out")) == 1
    Path("out/counts.json").unlink()
    code, _, errors = confseg(*arguments)
    assert code == 0 and "3 of the images were counted before, skipped" in errors
    assert counts("out/counts.json") == whole
    assert written(tmp_path / "out") == ["counts.json"]


@pytest.mark.parametrize("output", [(), ("--output", "counts.json")])
def test_ctrl_c_in_the_middle_of_an_image_loses_only_that_image(confseg, run, whole, monkeypatch, tmp_path, output):
    updates, update = [], ConfusionMatrix.update

    def interrupted(self, label, prediction):
        updates.append(self)
        if len(updates) == 2 * len(whole) + 2:  # in the third image, after its first cell
            raise KeyboardInterrupt
        update(self, label, prediction)

    with monkeypatch.context() as patch:
        patch.setattr(ConfusionMatrix, "update", interrupted)
        code, _, errors = confseg("evaluate", run, "--split", "train", *output)
    assert code == 130 and "what was finished is saved; go on with\n  confseg evaluate" in errors
    assert len(states(tmp_path if output else run)) == 1
    code, _, errors = confseg("evaluate", run, "--split", "train", "--output", "counts.json")
    assert ("2 of the images were counted before" in errors) == bool(output)
    assert counts("counts.json") == whole and states(tmp_path) == []
    if not output:
        _, out, errors = confseg("evaluate", run, "--split", "train")
        assert "2 of the images were counted before" in errors and "train, 6 images" in out
    assert states(run) == []


@pytest.mark.parametrize("damage", [b"", b"no archive", "half", "other"])
def test_a_damaged_state_is_as_good_as_none(confseg, run, whole, monkeypatch, tmp_path, damage):
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "SAVE_SECONDS", 0)
        patch.setattr(evaluation.State, "remove", lambda self: None)
        arguments = ("evaluate", run, "--split", "train", "--output", "counts.json")
        assert confseg(*arguments)[0] == 0
    (name,) = states(tmp_path)
    if damage == "other":
        np.savez(name, meta=np.array("[]"))
    else:
        Path(name).write_bytes(Path(name).read_bytes()[:-50] if damage == "half" else damage)
    code, _, errors = confseg(*arguments)
    lines = [line for line in errors.splitlines() if "counting starts over" in line]
    assert code == 0 and len(lines) == 1 and name in lines[0]
    assert counts("counts.json") == whole


def test_writing_is_bounded_and_may_fail(confseg, run, whole, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(evaluation, "write_npz", lambda path, arrays: saved.append(path))
    assert confseg("evaluate", run, "--split", "train")[0] == 0 and not saved  # it takes less than SAVE_SECONDS

    def full(path, arrays):
        saved.append(path)
        raise ConfsegError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(evaluation, "write_npz", full)
    monkeypatch.setattr(evaluation, "SAVE_SECONDS", 0)
    code, _, errors = confseg("evaluate", run, "--split", "train", "--output", "counts.json")
    assert code == 0 and len(saved) == 1 and errors.count("No space left on device") == 1
    assert counts("counts.json") == whole


def test_a_window_as_large_as_the_images_gives_the_same_counts(confseg, run, whole):
    options = ("--split", "train", "--output", "counts.json", "--window")
    code, out, _ = confseg("evaluate", run, *options, "64x96")
    assert code == 0 and "without flip, windows of 64x96" in out and counts("counts.json") == whole
    assert confseg("evaluate", run, *options, "48x48")[0] == 0
    assert counts("counts.json") != whole and json.loads(Path("counts.json").read_text())["window"] == [48, 48]
    refused(confseg("evaluate", run, *options, "8x8"), "--window 8x8", "at least 32")


def test_the_config_s_window_is_the_default(confseg, run, whole, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    config = json.loads((run / "config.json").read_text())
    config["evaluation"]["window"] = [48, 48]
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    assert "windows of 48x48" in confseg("evaluate", "copy", "--split", "train")[1]
    config["evaluation"]["window"] = [48, 4]
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    refused(confseg("evaluate", "copy"), "evaluation.window.1", "32")
