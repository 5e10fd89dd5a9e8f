"""Found before training starts: absent classes, labels that are all ignore, copies, groups and crops that cannot be."""

import logging
import shutil

import cv2
import numpy as np
import pytest

from gluon_confseg import config, groups, preflight
from gluon_confseg.data import open_dataset, synthetic
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CAMVID
from gluon_confseg.places import CONFIGS

SIZE = (64, 96)
FITTING = ["augment.crop=[48, 64]", "baseline.batch_size=2", "subnets.batch_size=2", "baseline.warmup=0"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return synthetic.ensure("camvid", tmp_path_factory.mktemp("data") / "d", train=4, val=2, size=SIZE, seed=0)


@pytest.fixture
def root(drawn, tmp_path):
    """A data set that a test may change."""
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


def check(root, folder, *overrides, named=(), devices=1):
    settings = config.load(CONFIGS / "camvid.yaml", [*FITTING, "subnets.warmup=0", *overrides])
    splits = [open_dataset("camvid", root, split) for split in ("train", "val")]
    preflight.check(settings, *splits, groups.named(CAMVID, named), folder, devices=devices)


def fill(root, split, change):
    for path in (root / f"{split}annot").glob("*.png"):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(label))


def without(*names):
    """Labels in which the classes are ignore (11 in CamVid's files)."""
    ids = [CAMVID.index(name) for name in names]
    return lambda label: np.where(np.isin(label, ids), 11, label).astype(np.uint8)


def test_labels_are_counted_once_as_they_are(root, tmp_path, caplog, monkeypatch):
    dataset = open_dataset("camvid", root, "train")
    expected = sum(np.bincount(dataset.label(i).ravel(), minlength=256) for i in range(4))
    for _ in range(2):
        found = preflight.count_labels(dataset, "train", tmp_path)
        assert found.pixels.tolist() == expected[:11].tolist() and tuple(found.largest) == SIZE
        monkeypatch.setattr(type(dataset), "label", None)  # the second time, nothing is read
    monkeypatch.undo()
    for damage in ("[]", '{"train": 1}', '{"train": {"largest": [1], "pixels": [], "fingerprint": ""}}'):
        (tmp_path / preflight.LABEL_COUNTS_FILE).write_text(damage)
        assert preflight.count_labels(dataset, "train", tmp_path).pixels.tolist() == expected[:11].tolist()
    for path in (root / "trainannot").glob("*.png"):
        cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    changed = preflight.count_labels(open_dataset("camvid", root, "train"), "train", tmp_path)
    assert changed.pixels.tolist() == [4 * SIZE[0] * SIZE[1]] + [0] * 10


def test_a_class_that_never_occurs_is_a_warning(root, tmp_path, caplog):
    fill(root, "train", without("Fence", "Sky"))
    check(root, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records if "never occur" in record.getMessage()]
    assert "2 of 11" in line and line.endswith("Sky, Fence")


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_all_ignore_are_refused(root, tmp_path, split):
    fill(root, split, lambda label: np.full_like(label, 11))
    with pytest.raises(ConfsegError, match=f"all labels of the split '{split}' are ignore"):
        check(root, tmp_path)


def test_a_group_without_two_classes_that_occur_is_refused(root, tmp_path, caplog):
    fill(root, "train", without("Fence"))
    check(root, tmp_path, named=[["Road", "Pavement", "Fence"]])
    with pytest.raises(ConfsegError, match=r"of group 2 \(Sky, Fence\) only Sky occurs"):
        check(root, tmp_path, named=[["Road", "Pavement"], ["Sky", "Fence"]])


def test_a_group_class_that_is_not_counted_is_a_warning(root, tmp_path, caplog):
    fill(root, "val", without("Sky"))
    check(root, tmp_path, named=[["Building", "Sky"]])
    assert not caplog.records
    check(root, tmp_path, "confusion_images=val", named=[["Building", "Sky"]])
    assert "group 1: Sky never occurs in the images that the confusion is counted on" in caplog.text


def test_a_validation_image_under_another_name_is_refused(root, tmp_path):
    source, target = sorted((root / "train").glob("*.png"))[2], sorted((root / "val").glob("*.png"))[0]
    shutil.copy(source, target)
    with pytest.raises(ConfsegError, match=f"1 training images are .*{source.name} = .*{target.name}"):
        check(root, tmp_path)
    content = bytearray(source.read_bytes())
    content[-20] ^= 1
    target.write_bytes(content)  # as long, but another image
    splits = [open_dataset("camvid", root, split) for split in ("train", "val")]
    preflight.check_copies(*splits)


@pytest.mark.parametrize("stage", ["baseline", "subnets"])
def test_batches_are_checked_for_both_stages(root, tmp_path, caplog, stage):
    with pytest.raises(ConfsegError, match=f"{stage}.batch_size: 5 is more than the 4 training images"):
        check(root, tmp_path, f"{stage}.batch_size=5")
    with pytest.raises(ConfsegError, match=f"{stage}.batch_size: 1 is less than the 2 devices"):
        check(root, tmp_path, f"{stage}.batch_size=1", devices=2)
    check(root, tmp_path, f"{stage}.warmup=10", f"{stage}.epochs=5")
    assert f"{stage}.warmup: 10 updates, but the training has 10" in caplog.text


def test_so_are_those_of_a_joint_training_with_a_schedule_of_its_own(root, tmp_path):
    cells = "cells=[{key: a, title: A, role: baseline}, {key: b, title: B, joint: own}]"
    overrides = ["baseline.batch_size=4", "comparisons=[]", cells]
    check(root, tmp_path, *overrides, "joint={own: {subnet0: ce}}")
    with pytest.raises(ConfsegError, match="joint.own.schedule.batch_size: 5 is more than the 4 training images"):
        check(root, tmp_path, *overrides, "joint={own: {subnet0: ce, schedule: {batch_size: 5}}}")


def test_a_crop_larger_than_every_image_is_a_warning(root, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    # 64x96 files, halved by the config, at most 1.75 times as large: 56x84
    check(root, tmp_path, "augment.crop=[56, 84]")
    assert not caplog.records
    check(root, tmp_path, "augment.crop=[57, 80]")
    assert "augment.crop: 57x80 (height x width) is larger than every image, at most 56x84" in caplog.text
