"""Class tables against their sources, and the mapping of ids."""

import numpy as np
import pytest

from gluon_confseg import labels
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CAMVID, CITYSCAPES, VOC, LabelSet


def test_cityscapes_table_is_the_official_one():
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    evaluated = sorted((entry for entry in official if 0 <= entry.trainId < 255), key=lambda entry: entry.trainId)
    assert CITYSCAPES.classes == tuple(entry.name for entry in evaluated)
    assert CITYSCAPES.colors == tuple(entry.color for entry in evaluated)
    raw_ids = {entry.id % 256: entry.trainId % 256 for entry in official}  # the licence plate's -1 becomes 255
    assert CITYSCAPES.raw_ids == raw_ids
    categories = {}
    for entry in evaluated:
        categories.setdefault(entry.category, []).append(entry.name)
    assert {name: list(classes) for name, classes in CITYSCAPES.categories.items()} == categories


def test_category_indices():
    assert CITYSCAPES.category_indices().tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6]
    with pytest.raises(ConfsegError, match="voc: category scores need each class in exactly one category"):
        VOC.category_indices()


def test_voc_table():
    assert VOC.num_classes == 21
    assert VOC.raw_ids == {**{index: index for index in range(21)}, 255: 255}
    # from the development kit's VOClabelcolormap
    assert VOC.colors[VOC.index("aeroplane")] == (128, 0, 0)
    assert VOC.colors[VOC.index("car")] == (128, 128, 128)
    assert VOC.colors[VOC.index("person")] == (192, 128, 128)
    assert VOC.colors[VOC.index("tv monitor")] == (0, 64, 128)


def test_palette_ends_as_the_development_kit_says():
    assert labels.palette(256)[255] == (224, 224, 192)
    assert len(set(labels.palette(256))) == 256


def test_camvid_table():
    assert CAMVID.num_classes == 11
    assert CAMVID.raw_ids[11] == 255
    assert CAMVID.classes[0] == "Sky" and CAMVID.classes[10] == "Bicyclist"


@pytest.mark.parametrize("label_set", [CITYSCAPES, VOC, CAMVID])
def test_named_groups_hold_classes_once(label_set):
    for groups in label_set.named_groups.values():
        indices = [label_set.index(name) for group in groups for name in group]
        assert len(indices) == len(set(indices))


def test_papers_groups_have_the_sizes_of_table_1():
    assert [len(group) for group in CITYSCAPES.named_groups["paper"]] == [6, 4, 4]
    assert [len(group) for group in VOC.named_groups["paper"]] == [5]


def test_to_train_maps_raw_ids():
    raw = np.array([[7, 8, 33], [0, 255, 26]], np.uint8)
    train = CITYSCAPES.to_train(raw, "a.png")
    assert train.dtype == np.uint8
    assert train.tolist() == [[0, 1, 18], [255, 255, 13]]


def test_unknown_id_names_file_and_values():
    with pytest.raises(ConfsegError, match=r"^a\.png: label ids 34, 254 are not ids of cityscapes"):
        CITYSCAPES.to_train(np.array([[254, 34, 7, 34]], np.uint8), "a.png")


def test_colorize_with_ignore_black():
    colors = VOC.colorize(np.array([[1, 255, 7]], np.uint8))
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[128, 0, 0], [0, 0, 0], [128, 128, 128]]]


def test_misspelt_class_is_answered_with_close_ones():
    with pytest.raises(ConfsegError, match="voc has no class 'diningtable'; did you mean 'dining table'"):
        VOC.index("diningtable")
    with pytest.raises(ConfsegError, match="did you mean 'Pole'"):
        CAMVID.index("pole")
    with pytest.raises(ConfsegError, match="its classes: Sky, Building"):
        CAMVID.index("zzz")


def test_get():
    assert labels.get("voc") is VOC
    with pytest.raises(ConfsegError, match="no label set 'ade20k'; there are cityscapes, voc, camvid"):
        labels.get("ade20k")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": ("a", "a")}, "class 'a' is listed twice"),
        ({"classes": ("a",)}, "1 classes"),
        ({"colors": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"raw_ids": {256: 0}}, "raw id 256 -> 0 is out of range"),
        ({"raw_ids": {0: 2}}, "raw id 0 -> 2 is out of range"),
    ],
)
def test_a_label_set_that_does_not_fit_together(change, message):
    good = {"name": "two", "classes": ("a", "b"), "colors": ((0, 0, 0), (1, 1, 1)), "raw_ids": {0: 0, 1: 1, 255: 255}}
    assert LabelSet(**good).num_classes == 2
    with pytest.raises(ConfsegError, match=message):
        LabelSet(**{**good, **change})
