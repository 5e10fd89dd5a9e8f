"""A data set of one's own, described in YAML."""

import numpy as np
import pytest
import yaml
from PIL import Image

from gluon_confseg.data import open_dataset
from gluon_confseg.errors import ConfsegError

DESCRIPTION = {
    "name": "harbour",
    "images": {"train": "photos/train", "val": "photos/val", "test": "photos/test"},
    "labels": {"train": "masks/train", "val": "masks/val"},
    "classes": ["water", {"name": "quay", "color": [9, 8, 7], "ids": [1, 7]}],
    "ignore": [254],
}


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "photos" / split / f"{split}0.jpg")
    for split in ("train", "val"):
        (tmp_path / "masks" / split).mkdir(parents=True)
        label = np.array([[0, 1, 7, 254], [255, 0, 0, 0]], np.uint8)
        Image.fromarray(label).save(tmp_path / "masks" / split / f"{split}0.png")
    describe(tmp_path)
    return tmp_path


def describe(root, **changes):
    (root / "dataset.yaml").write_text(yaml.safe_dump({**DESCRIPTION, **changes}))


@pytest.mark.parametrize("given", [".", "dataset.yaml"])
def test_pairs_and_classes(root, given):
    dataset = open_dataset("folders", root / given, "train")
    assert dataset.name == "harbour" and dataset.ids == ["train0"]
    assert dataset.labels.classes == ("water", "quay")
    assert dataset.labels.colors == ((128, 0, 0), (9, 8, 7))
    assert dataset.label(0).tolist() == [[0, 1, 1, 255], [255, 0, 0, 0]]


def test_split_without_labels(root):
    dataset = open_dataset("folders", root, "test")
    assert not dataset.has_labels and dataset.label(0) is None


def test_name_defaults_to_the_folder(root):
    describe(root, name=None)
    assert open_dataset("folders", root, "train").name == root.name


def test_fingerprint_follows_the_class_list(root):
    before = open_dataset("folders", root, "train").fingerprint()
    describe(root, classes=["water", {"name": "quay", "ids": [7]}], ignore=[1, 254])
    assert open_dataset("folders", root, "train").fingerprint() != before


def test_unknown_id(root):
    describe(root, ignore=[])
    with pytest.raises(ConfsegError, match=r"train0\.png: label ids 254 are not ids of harbour"):
        open_dataset("folders", root, "train").label(0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clases": []}, r"clases: Extra inputs are not permitted; the keys are name, images, labels, classes, ignore"),
        ({"classes": [{"nam": "water"}, "quay"]}, r"classes\.0\.name: Field required"),
        ({"classes": ["water", False]}, r"classes\.1\.name: Input should be a valid string"),
        ({"classes": "water"}, r"classes: Input should be a valid list"),
        ({"classes": ["water"]}, r"1 classes"),
        ({"classes": ["water", "water"]}, r"class 'water' is listed twice"),
        ({"classes": ["water", {"name": "quay", "ids": [300]}]}, r"classes\.1\.ids\.0: .*less than or equal to 255"),
        ({"classes": ["water", {"name": "quay", "ids": [0]}]}, r"id 0 stands for 'quay' and for 'water'"),
        ({"ignore": [1]}, r"id 1 stands for 'quay' and for 'ignore'"),
        ({"images": {"val": "photos/val"}}, r"harbour has no split 'train'; choose one of val"),
        ({"labels": {"train": "mask"}}, r"looked in .* for mask, not there"),
    ],
)
def test_bad_description_is_one_line(root, changes, message):
    describe(root, **changes)
    with pytest.raises(ConfsegError, match=message) as caught:
        open_dataset("folders", root, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message", [("", "images: Field required"), ("a: [", "not valid YAML"), ("- a", "the file")]
)
def test_what_is_not_a_description(root, text, message):
    (root / "dataset.yaml").write_text(text)
    with pytest.raises(ConfsegError, match=rf"dataset\.yaml: .*{message}"):
        open_dataset("folders", root, "train")


def test_image_without_label(root):
    (root / "masks/train/train0.png").rename(root / "masks/train/other.png")
    with pytest.raises(ConfsegError, match=r"harbour: 1 of 1 images have no label in masks/train \(first: train0\)"):
        open_dataset("folders", root, "train")
