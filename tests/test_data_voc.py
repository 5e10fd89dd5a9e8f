"""PASCAL VOC with SBD: lists, palette labels, .mat labels, overlap."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gluon_confseg.data import PascalVOC, check_disjoint
from gluon_confseg.data.transforms import TrainTransform
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import VOC

TRAIN, VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2007_000042"]
SBD_ONLY = ["2008_000002", "2008_000003"]


def home_of(root):
    return root / "VOCdevkit" / "VOC2012"


def write_list(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{id_}\n" for id_ in ids))


def write_label(path, value, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.full((4, 6), value, np.uint8)
    label[0] = 255
    image = Image.fromarray(label, mode="P") if palette else Image.fromarray(label)
    if palette:
        image.putpalette([channel for color in VOC.colors for channel in color])
    image.save(path)


def write_mat(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(str(path), {"GTcls": {"Segmentation": np.full((4, 6), value, np.uint8), "CategoriesPresent": [value]}})


@pytest.fixture
def root(tmp_path):
    """VOC with train and val labels of class 15 (palette PNGs), and two further images without labels."""
    home = home_of(tmp_path)
    write_list(home / "ImageSets/Segmentation/train.txt", TRAIN)
    write_list(home / "ImageSets/Segmentation/val.txt", VAL)
    write_list(home / "ImageSets/Segmentation/test.txt", ["2008_000001"])
    (home / "JPEGImages").mkdir()
    for id_ in [*TRAIN, *VAL, *SBD_ONLY, "2008_000001"]:
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(home / "JPEGImages" / f"{id_}.jpg")
    for id_ in [*TRAIN, *VAL]:
        write_label(home / "SegmentationClass" / f"{id_}.png", 15)
    return tmp_path


def add_sbd(dataset):
    """SBD: two images of its own, one of VOC's train and one of VOC's val; labels of class 3."""
    write_list(dataset / "train.txt", [SBD_ONLY[0], TRAIN[0], VAL[0]])
    write_list(dataset / "val.txt", [SBD_ONLY[1]])
    for id_ in [*SBD_ONLY, TRAIN[0], VAL[0]]:
        write_mat(dataset / "cls" / f"{id_}.mat", 3)


@pytest.mark.parametrize("given", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_root_at_three_levels(root, given):
    dataset = PascalVOC(root / given, "val")
    assert dataset.ids == VAL
    assert dataset.image(0).shape == (4, 6, 3)
    assert dataset.label(0)[:, 0].tolist() == [255, 15, 15, 15]


def test_missing_root_says_what_was_looked_for(tmp_path):
    with pytest.raises(ConfsegError, match="no VOC2012 .JPEGImages and ImageSets/Segmentation. in .*; give the folder"):
        PascalVOC(tmp_path, "train")


def test_train_is_not_trainval(root):
    train, val = PascalVOC(root, "train"), PascalVOC(root, "val")
    assert train.ids == TRAIN
    check_disjoint(train, val)


def test_gray_labels_are_read_too(root):
    write_label(home_of(root) / "SegmentationClass" / f"{TRAIN[0]}.png", 4, palette=False)
    assert PascalVOC(root, "train").label(0)[:, 0].tolist() == [255, 4, 4, 4]


def test_padding_is_ignore_not_background(root):
    dataset = PascalVOC(root, "train")
    transform = TrainTransform(0, (1, 1), (8, 8), flip=False)
    _, label = transform(dataset.image(0), dataset.label(0), epoch=0, sample=0)
    assert (label == 0).sum() == 0 and (label == 15).sum() == 18 and (label == 255).sum() == 64 - 18


def test_test_split_has_no_labels(root):
    dataset = PascalVOC(root, "test")
    assert dataset.ids == ["2008_000001"] and not dataset.has_labels and dataset.label(0) is None


@pytest.mark.parametrize("place", ["benchmark_RELEASE", "VOCdevkit/VOC2012/benchmark_RELEASE", "VOCaug"])
@pytest.mark.parametrize("given", [".", "VOCdevkit/VOC2012"])
def test_trainaug_from_sbd(root, place, given):
    add_sbd(root / place / "dataset")
    dataset = PascalVOC(root / given, "trainaug")
    assert dataset.ids == sorted([*TRAIN, *SBD_ONLY])  # VOC's val image is left out
    check_disjoint(dataset, PascalVOC(root, "val"))
    values = {id_: int(dataset.label(index)[3, 0]) for index, id_ in enumerate(dataset.ids)}
    # VOC's own label for the image that both have
    assert values == {TRAIN[0]: 15, TRAIN[1]: 15, SBD_ONLY[0]: 3, SBD_ONLY[1]: 3}


@pytest.mark.parametrize("line", ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"])
def test_trainaug_from_pngs(root, line):
    home = home_of(root)
    write_list(home / "ImageSets/Segmentation/trainaug.txt", [line.format(id_) for id_ in [*TRAIN, SBD_ONLY[1]]])
    for id_ in [*TRAIN, *SBD_ONLY]:
        write_label(home / "SegmentationClassAug" / f"{id_}.png", 9, palette=False)
    dataset = PascalVOC(root, "trainaug")
    assert dataset.ids == [*TRAIN, SBD_ONLY[1]]
    assert [int(dataset.label(index)[3, 0]) for index in range(3)] == [15, 15, 9]


def test_trainaug_without_its_files(root):
    with pytest.raises(ConfsegError, match=r"trainaug needs .*trainaug\.txt .*benchmark_RELEASE.*; neither is there"):
        PascalVOC(root, "trainaug")


@pytest.mark.parametrize("split", ["train", "trainaug"])
def test_training_list_with_validation_images_is_refused(root, split):
    write_list(home_of(root) / f"ImageSets/Segmentation/{split}.txt", [*TRAIN, *VAL])
    with pytest.raises(ConfsegError, match=rf"2 of 4 images of .*{split}\.txt are in val\.txt too \(first: {VAL[0]}"):
        PascalVOC(root, split)


def test_half_downloaded(root):
    home = home_of(root)
    (home / "SegmentationClass" / f"{TRAIN[1]}.png").unlink()
    with pytest.raises(
        ConfsegError, match=rf"1 of 2 files are not in .*SegmentationClass \(first: {TRAIN[1]}\); finish"
    ):
        PascalVOC(root, "train")
    (home / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink()
    with pytest.raises(ConfsegError, match=rf"1 of 2 files are not in .*JPEGImages \(first: {TRAIN[0]}\)"):
        PascalVOC(root, "train")


def test_missing_list_is_named(root):
    (home_of(root) / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(ConfsegError, match=r"cannot read the list .*val\.txt"):
        PascalVOC(root, "val")


def test_damaged_mat_is_named(root):
    add_sbd(root / "benchmark_RELEASE/dataset")
    path = root / "benchmark_RELEASE/dataset/cls" / f"{SBD_ONLY[0]}.mat"
    path.write_bytes(path.read_bytes()[:150])
    dataset = PascalVOC(root, "trainaug")
    with pytest.raises(ConfsegError, match=rf"{path.name}: cannot read GTcls\.Segmentation"):
        dataset.label(dataset.ids.index(SBD_ONLY[0]))
