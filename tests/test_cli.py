"""The command line's answers to bad input: one line that says what is wrong and where, exit code 2, no traceback."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.data import synthetic
from gluon_confseg.places import CONFIGS

QUICK = ["--set", "augment.crop=[32, 48]", "--set", "subnet0.channels=8", "--set", "subnet.channels=8"]
QUICK += ["--set", "baseline={epochs: 1, batch_size: 2}", "--set", "subnets={epochs: 1, batch_size: 2}"]


@pytest.fixture(autouse=True)
def own_cache_and_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for kind in ("camvid", "cityscapes"):
        synthetic.ensure(kind, folder / kind, train=4, val=2, size=(64, 96), seed=0)
    return folder


@pytest.fixture
def root(drawn, tmp_path):
    """A CamVid of one's own, to damage."""
    shutil.copytree(drawn / "camvid", tmp_path / "camvid")
    return tmp_path / "camvid"


@pytest.fixture
def confseg(command_line):
    """Run the command in this process: (exit code, the error line)."""

    def call(*arguments):
        code, _, errors = command_line(*arguments)
        lines = [line for line in errors.splitlines() if line.startswith("confseg: error:")]
        assert len(lines) <= 1
        return code, lines[0] if lines else errors

    return call


def first(root, folder):
    return sorted((root / folder).iterdir())[0]


def refuses(answer, *parts):
    code, line = answer
    assert code == 2
    for part in parts:
        assert str(part) in line
    return line


def test_missing_root(confseg, tmp_path):
    refuses(confseg("run", "camvid", "--data-root", tmp_path / "nowhere"), tmp_path / "nowhere")


def test_root_variable_that_points_nowhere(confseg, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMVID_ROOT", str(tmp_path / "nowhere"))
    refuses(confseg("run", "camvid"), tmp_path / "nowhere")


def test_half_downloaded_data_set(confseg, drawn, tmp_path):
    shutil.copytree(drawn / "cityscapes", tmp_path / "city")
    shutil.rmtree(tmp_path / "city" / "gtFine")
    small = Path(CONFIGS) / "cityscapes_builtin.yaml"
    refuses(confseg("run", small, "--data-root", tmp_path / "city"), "gtFine")


def test_image_without_label(confseg, root):
    missing = first(root, "trainannot")
    missing.unlink()
    refuses(confseg("run", "camvid", "--data-root", root), f"trainannot/{missing.stem}")


def test_label_of_another_size(confseg, root):
    path = first(root, "trainannot")
    cv2.imwrite(str(path), np.zeros((10, 12), np.uint8))
    refuses(confseg("run", "camvid", "--data-root", root, *QUICK), path, "12x10")


def test_unknown_id(confseg, root):
    path = first(root, "trainannot")
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[0, 0] = 77
    cv2.imwrite(str(path), label)
    refuses(confseg("run", "camvid", "--data-root", root, *QUICK), path, "77")


def test_truncated_png(confseg, root):
    path = first(root, "trainannot")
    path.write_bytes(path.read_bytes()[:-30])
    refuses(confseg("run", "camvid", "--data-root", root, *QUICK), path, "truncated")


def test_misspelt_config_key(confseg):
    refuses(confseg("run", "camvid", "--set", "basline.epochs=3"), "basline", "did you mean 'baseline'")
    refuses(confseg("run", "camvid", "--set", "baseline.epoch=3"), "baseline.epoch", "did you mean 'epochs'")


def test_ill_typed_value(confseg):
    refuses(confseg("run", "camvid", "--set", "baseline.epochs=many"), "baseline.epochs", "integer", "many")


def test_class_name_that_is_not_in_the_data_set(confseg, root):
    groups = "groups.source=[[Road, Pavment], [Car, Pedestrian]]"
    refuses(confseg("run", "camvid", "--data-root", root, "--set", groups), "Pavment", "Pavement")


def test_groups_that_overlap(confseg, root):
    groups = "groups.source=[[Road, Pavement], [Pavement, Car]]"
    refuses(confseg("run", "camvid", "--data-root", root, "--set", groups), "Pavement", "group 1", "group 2")


def test_groups_of_the_paper_on_a_data_set_without_them(confseg, root):
    refuses(confseg("run", "camvid", "--data-root", root, "--set", "groups.source=paper"), "camvid", "groups.source")


@pytest.mark.skipif(mx.context.num_gpus() > 7, reason="this machine has GPU 7")
def test_a_gpu_that_is_not_there(confseg):
    refuses(confseg("run", "camvid", "--gpus", "7"), "gpu:7")


def test_devices_that_contradict_each_other(confseg):
    refuses(confseg("run", "camvid", "--gpus", "0", "--cpu"), "--gpus")
    refuses(confseg("run", "camvid", "--gpus", "zero"), "--gpus zero")


def test_unknown_config(confseg, tmp_path):
    refuses(confseg("run", "camvidd"), "camvidd", "cityscapes", "voc")
    refuses(confseg("run", tmp_path / "none.yaml"), "none.yaml")


def test_output_that_cannot_be_written(confseg, root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refuses(confseg("run", "camvid", "--data-root", root, "--output", tmp_path / "file" / "run"), tmp_path / "file")


def test_full_disk(confseg, root, monkeypatch, tmp_path):
    def full(path, content):
        with open(path, "wb") as handle:
            handle.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    answer = confseg("run", "camvid", "--data-root", root, "--output", tmp_path / "run", *QUICK)
    refuses(answer, "baseline.checkpoint.npz", "No space left on device")
    assert not list((tmp_path / "run").glob("*.npz")) and not list((tmp_path / "run").glob(".baseline*"))


def test_wrong_usage(confseg):
    assert confseg("run")[0] == 2
    assert confseg("nonsense")[0] == 2
    assert confseg("run", "camvid", "--seed", "-1")[0] == 2


def test_help_is_light():
    code = "import sys; from gluon_confseg.cli import main; sys.argv = ['confseg', '--help']\ntry: main()\nfinally: "
    code += "heavy = {'mxnet', 'numpy', 'cv2', 'matplotlib', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout and "table" in done.stdout


def test_table_of_a_damaged_results_file(confseg, tmp_path):
    (tmp_path / "results.json").write_text('{"format": 1')
    refuses(confseg("table", tmp_path), tmp_path / "results.json")
