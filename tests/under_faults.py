"""Every writer and reader under every fault. Run by test_faults.py, in a process with faults.c preloaded."""

import functools
import json
import logging
import os
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from faults import READING, WRITING, fault
from PIL import Image
from test_end_to_end import TINY

from gluon_confseg import checkpoint, cli, files, results, run, training
from gluon_confseg.backend import mx
from gluon_confseg.building import save_parameters
from gluon_confseg.config_schedules import Schedule
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import synthetic
from gluon_confseg.data.base import read_image, read_label_png
from gluon_confseg.data.synthetic.dataset import KINDS
from gluon_confseg.errors import ConfsegError
from gluon_confseg.heads import make_trainer
from gluon_confseg.labels import CAMVID
from gluon_confseg.nn.weights import load_parameters
from gluon_confseg.workers import ALONE


def network(value):
    block = mx.gluon.nn.Dense(50, in_units=30)
    block.initialize(mx.init.Constant(value))
    return block


def write_parameters(path, version):
    save_parameters(SimpleNamespace(folder=path.parent, job=ALONE), network(version), path.name)


def write_picture(path, version):
    with files.atomic_path(path) as temporary:
        Image.fromarray(np.full((40, 30), version, np.uint8)).save(temporary, format="PNG")


WRITERS = {
    "a.txt": lambda path, version: files.write_text(path, f"text {version}\n" * 100),
    "a.json": lambda path, version: files.write_json(path, {"version": version}),
    "a.npz": lambda path, version: files.write_npz(path, {"x": np.full(5000, version)}),
    "confusion.npz": lambda path, version: ConfusionMatrix.from_counts(np.eye(3, dtype=np.int64) + version).save(path),
    "labels.json": lambda path, version: run.write_labels(path, CAMVID if version else CAMVID),
    "a.params": write_parameters,
    "a.png": write_picture,
}


def complaint(call):
    """The one line of the ConfsegError that `call` raises; None where it raises none."""
    try:
        call()
    except ConfsegError as error:
        assert "\n" not in str(error) and "cannot" in str(error), error
        return str(error)
    return None


@pytest.mark.parametrize("kind, error, part", WRITING)
@pytest.mark.parametrize("name", WRITERS)
def test_after_a_failed_write_the_old_file_is_whole_or_the_new_one_is(tmp_path, name, kind, error, part):
    write, path, contents = WRITERS[name], tmp_path / "folder" / name, []
    for version in (0, 1):
        write(path, version)
        contents.append(path.read_bytes())
    for number in range(1, 100):
        write(path, 0)
        with fault(tmp_path, kind, number, error, part) as calls:
            said = complaint(lambda: write(path, 1))
        assert path.read_bytes() in contents, "neither the old file nor the new one"
        assert [each.name for each in path.parent.iterdir()] == [name]
        if calls[kind] < number:
            break
        # a folder that cannot be opened for syncing is no reason to stop
        assert str(path) in said if said else path.read_bytes() == contents[1]
    assert number > 1 and path.read_bytes() == contents[1]


@pytest.mark.parametrize("kind, error, part", WRITING)
def test_built_in_data_is_whole_or_absent(tmp_path, monkeypatch, kind, error, part):
    drawn = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    monkeypatch.setitem(KINDS, "voc", (lambda *_: drawn, KINDS["voc"][1]))  # drawing takes its time

    def draw():
        synthetic.ensure("voc", tmp_path / "cache" / "voc", train=1, val=1, size=(32, 32), seed=0)

    for number in range(1, 100):
        with fault(tmp_path, kind, number, error, part) as calls:
            said = complaint(draw)
        left = [each.name for each in (tmp_path / "cache").glob("*")]
        if calls[kind] < number:
            break
        assert left in (([], ["voc"]) if said else (["voc"],))
        draw()  # whole, or it raises
        files.shutil.rmtree(tmp_path / "cache")
    assert number > 1 and left == ["voc"]


@pytest.mark.parametrize("kind, error, part", WRITING)
def test_one_of_the_checkpoints_is_whole(tmp_path, kind, error, part):
    path, block = tmp_path / "stage.checkpoint.npz", network(0)
    trainer = make_trainer(block, Schedule())
    for number in range(1, 100):
        for old in tmp_path.glob("*"):
            old.unlink()
        kept = checkpoint.Kept(path, [trainer])
        for epoch in (1, 2):
            kept.save({"epoch": epoch})
        with fault(tmp_path, kind, number, error, part) as calls:
            said = complaint(functools.partial(kept.save, {"epoch": 3}))
        assert checkpoint.Kept(path, [trainer]).load()["epoch"] in ((2, 3) if said else (3,))
        assert {each.name for each in tmp_path.iterdir()} <= {path.name, f"previous-{path.name}"}
        if calls[kind] < number:
            break
        assert said is None or str(path) in said
        kept.save({"epoch": 4})
        assert checkpoint.newest_meta(path)["epoch"] == 4
    assert number > 1


READERS = {
    "a.json": (WRITERS["a.json"], files.read_json),
    "a.npz": (WRITERS["a.npz"], files.read_npz),
    "a.params": (write_parameters, lambda path: load_parameters(network(0), path, [mx.cpu()])),
    "a.png": (lambda path, _: cv2.imwrite(str(path), np.zeros((40, 30, 3), np.uint8)), read_image),
    "label.png": (lambda path, _: cv2.imwrite(str(path), np.zeros((40, 30), np.uint8)), read_label_png),
}


@pytest.mark.parametrize("kind, error, part", READING)
@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_is_named(tmp_path, name, kind, error, part):
    write, read = READERS[name]
    path = tmp_path / name
    write(path, 0)
    for number in range(1, 100):
        with fault(tmp_path, kind, number, error, part) as calls:
            said = complaint(lambda: read(path))
        if calls[kind] < number:
            break
        assert said and str(path) in said
    assert number > 1 and said is None


@pytest.fixture
def confseg(monkeypatch, capfd, tmp_path):
    for name in ("CITYSCAPES_DATASET", "VOC_ROOT", "CAMVID_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)

    def call(folder):
        settings = [part for setting in TINY for part in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["confseg", "run", "camvid", "--cpu", "--output", str(folder), *settings])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capfd.readouterr().err

    yield call
    assert not logging.getLogger("gluon_confseg").handlers


def end(folder):
    found = {path.name: path.read_bytes() for path in folder.glob("*.params")}
    record = json.loads((folder / "results.json").read_text())
    del record["seconds"]
    return {**found, "results": results.parse({**record, "seconds": {}}, "results.json")}


def test_a_run_goes_on_to_the_same_end_once_the_fault_is_gone(confseg, tmp_path):
    """A full disk and a refused rename in the middle of the run; with UNDER_FAULTS=N, every Nth call of every kind."""
    with fault(tmp_path, "write", 0) as calls:
        assert confseg(tmp_path / "whole")[0] == 0
    expected, step, ended = end(tmp_path / "whole"), int(os.environ.get("UNDER_FAULTS", 0)), 0
    tried = [
        (kind, error, part, number)
        for kind, error, part in (WRITING if step else [WRITING[2], WRITING[4]])
        for number in (range(1, calls[kind] + 1, step) if step else [calls[kind] // 2])
    ]
    for kind, error, part, number in tried:
        folder = tmp_path / f"{kind}{part}{number}"
        with fault(tmp_path, kind, number, error, part):
            code, said = confseg(folder)
        lines = [line for line in said.splitlines() if line.startswith("confseg: error:")]
        assert (code, len(lines)) in ((2, 1), (0, 0)) and "Traceback" not in said, said
        assert not list(folder.rglob(f"{files.UNFINISHED}*"))
        assert confseg(folder)[0] == 0
        assert end(folder) == expected
        ended += code == 2
        files.shutil.rmtree(folder, ignore_errors=True)
    print(f"{ended} of {len(tried)} faults ended a run, which then went on to the same end")
    assert ended > len(tried) / 2
