"""CamVid: folders, lists, and the real images where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluon_confseg.data import CamVid, check_disjoint
from gluon_confseg.errors import ConfsegError

REAL = Path(os.environ.get("CAMVID_ROOT") or Path(__file__).resolve().parents[2] / "shared" / "camvid")


def write(root, split, name, suffix=".png", labelled=True):
    for folder, ending, array in (
        (split, suffix, np.zeros((3, 4, 3), np.uint8)),
        (f"{split}annot", ".png", np.array([[0, 10, 11, 5]] * 3, np.uint8)),
    ):
        if labelled or folder == split:
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{name}{ending}")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_folders(tmp_path, suffix):
    write(tmp_path, "train", "b", suffix)
    write(tmp_path, "train", "a", suffix)
    dataset = CamVid(tmp_path, "train")
    assert dataset.ids == ["a", "b"]
    assert dataset.image(0).shape == (3, 4, 3)
    assert dataset.label(0)[0].tolist() == [0, 10, 255, 5]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_list_chooses_the_files_by_their_last_two_parts(tmp_path, suffix):
    for name in "abc":
        write(tmp_path, "train", name, suffix)
    lines = [f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png\n" for name in "ca"]
    (tmp_path / "train.txt").write_text("".join(lines) + "\n")
    dataset = CamVid(tmp_path, "train")
    assert dataset.ids == ["a", "c"]
    assert dataset.image_path(1) == tmp_path / "train" / f"c{suffix}"
    assert dataset.label_path(1) == tmp_path / "trainannot" / "c.png"


def test_listed_files_that_are_not_there(tmp_path):
    write(tmp_path, "val", "a")
    (tmp_path / "val.txt").write_text("/x/val/a.png /x/valannot/a.png\n/x/val/b.png /x/valannot/b.png\n")
    with pytest.raises(ConfsegError, match=r"camvid val: 2 of 4 files are not in .*val\.txt lists them \(first: val/b"):
        CamVid(tmp_path, "val")


def test_list_line_without_label(tmp_path):
    write(tmp_path, "val", "a")
    (tmp_path / "val.txt").write_text("/x/val/a.png\n")
    with pytest.raises(ConfsegError, match=r"val\.txt: the line '/x/val/a\.png' names no label"):
        CamVid(tmp_path, "val")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_test_split_with_and_without_labels(tmp_path, labelled, listed):
    write(tmp_path, "test", "a", labelled=labelled)
    if listed:
        (tmp_path / "test.txt").write_text("/x/test/a.png /x/testannot/a.png\n")
    dataset = CamVid(tmp_path, "test")
    assert dataset.ids == ["a"] and dataset.has_labels == labelled


def test_half_downloaded(tmp_path):
    for name in "abc":
        write(tmp_path, "train", name)
    (tmp_path / "trainannot" / "b.png").unlink()
    with pytest.raises(ConfsegError, match=r"camvid: 1 of 3 images have no label in trainannot \(first: b\)"):
        CamVid(tmp_path, "train")
    (tmp_path / "train" / "b.png").unlink()
    (tmp_path / "train" / "c.png").unlink()
    with pytest.raises(ConfsegError, match=r"camvid: 1 of 2 labels in trainannot have no image \(first: c\)"):
        CamVid(tmp_path, "train")


def test_root_a_level_off(tmp_path):
    write(tmp_path, "train", "a")
    with pytest.raises(ConfsegError, match=r"looked in .*train for train and trainannot, not there; did you mean"):
        CamVid(tmp_path / "train", "train")


@pytest.mark.skipif(not (REAL / "train").is_dir(), reason=f"no CamVid in {REAL}; set CAMVID_ROOT")
def test_real_images():
    train, val = CamVid(REAL, "train"), CamVid(REAL, "val")
    assert (len(train), len(val)) == (367, 101)
    check_disjoint(train, val)
    found = np.zeros(256, np.int64)
    for dataset in (train, val):
        for index in range(0, len(dataset), 10):
            assert dataset.image(index).shape == (360, 480, 3)
        for index in range(len(dataset)):
            found += np.bincount(dataset.label(index).ravel(), minlength=256)
    assert np.flatnonzero(found).tolist() == [*range(11), 255]
