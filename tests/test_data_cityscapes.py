"""Cityscapes: layout, the two encodings, what is missing."""

import numpy as np
import pytest
from PIL import Image

from gluon_confseg.data import Cityscapes, open_dataset
from gluon_confseg.data.transforms import TrainTransform
from gluon_confseg.errors import ConfsegError

RAW = np.array([[7, 26, 0, 33], [1, 8, 24, 23]], np.uint8)
TRAIN = np.array([[0, 13, 255, 18], [255, 1, 11, 10]], np.uint8)


def write(root, split, frame, label=RAW, encoding="labelIds", kind="gtFine", city="aachen"):
    """Write one image (and its label, where given); returns the label's path."""
    image = root / "leftImg8bit" / split / city / f"{city}_{frame:06d}_000019_leftImg8bit.png"
    path = root / kind / split / city / f"{city}_{frame:06d}_000019_{kind}_{encoding}.png"
    for file, array in ((image, np.full((2, 4, 3), frame, np.uint8)), (path, label)):
        file.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:
            Image.fromarray(array).save(file)
    return path


def test_layout_over_cities(tmp_path):
    write(tmp_path, "train", 1, city="ulm")
    write(tmp_path, "train", 0, city="ulm")
    path = write(tmp_path, "train", 2)
    path.with_name(path.name.replace("labelIds", "color")).touch()  # other files of gtFine are not labels
    dataset = open_dataset("cityscapes", tmp_path, "train")
    assert dataset.ids == ["aachen_000002_000019", "ulm_000000_000019", "ulm_000001_000019"]
    assert dataset.image(0)[0, 0].tolist() == [2, 2, 2]
    assert dataset.label_path(0) == path
    assert dataset.label(0).tolist() == TRAIN.tolist()


@pytest.mark.parametrize("named", ["labelIds", "labelTrainIds"])
@pytest.mark.parametrize("label, encoding", [(RAW, "labelIds"), (TRAIN, "labelTrainIds")])
def test_values_tell_the_encoding_whatever_the_name(tmp_path, named, label, encoding):
    write(tmp_path, "train", 0, label, named)
    dataset = Cityscapes(tmp_path, "train")
    assert dataset.encoding == encoding
    assert dataset.label(0).tolist() == TRAIN.tolist()


@pytest.mark.parametrize("named, train", [("labelIds", [0, 255, 2]), ("labelTrainIds", [7, 4, 11])])
def test_values_that_tell_nothing_leave_it_to_the_name(tmp_path, named, train):
    write(tmp_path, "train", 0, np.array([[7, 4, 11, 7]] * 2, np.uint8), named)
    assert Cityscapes(tmp_path, "train").label(0)[0].tolist() == [*train, train[0]]


def test_licence_plate_as_255_does_not_make_raw_ids_train_ids(tmp_path):
    plate = RAW.copy()
    plate[0, 0] = 255
    write(tmp_path, "train", 0, np.full((2, 4), 255, np.uint8))
    write(tmp_path, "train", 1, plate)
    dataset = Cityscapes(tmp_path, "train")
    assert dataset.encoding == "labelIds"
    assert dataset.label(1)[0].tolist() == [255, 13, 255, 18]


def test_raw_ids_are_taken_where_both_encodings_are_complete(tmp_path):
    write(tmp_path, "train", 0, TRAIN, "labelTrainIds")
    path = write(tmp_path, "train", 0, RAW, "labelIds")
    assert Cityscapes(tmp_path, "train").label_path(0) == path


def test_the_complete_encoding_is_taken(tmp_path):
    for frame in range(2):
        write(tmp_path, "train", frame, TRAIN, "labelTrainIds")
    write(tmp_path, "train", 0, RAW, "labelIds")
    dataset = Cityscapes(tmp_path, "train")
    assert len(dataset) == 2 and dataset.encoding == "labelTrainIds"


def test_a_raw_id_among_train_ids_names_the_file(tmp_path):
    for frame in range(20):
        write(tmp_path, "train", frame, TRAIN, "labelTrainIds")
    path = write(tmp_path, "train", 1, RAW, "labelTrainIds")  # not among the files that are looked at
    with pytest.raises(ConfsegError, match=rf"{path.name}: label ids 23, 24, 26, 33 are not ids"):
        Cityscapes(tmp_path, "train").label(1)


def test_test_split_has_no_labels(tmp_path):
    write(tmp_path, "test", 0, np.zeros((2, 4), np.uint8))
    dataset = Cityscapes(tmp_path, "test")
    assert not dataset.has_labels and dataset.label(0) is None and dataset.label_path(0) is None
    assert len(dataset.fingerprint()) == 64


def test_train_extra_uses_coarse_labels(tmp_path):
    write(tmp_path, "train_extra", 0, kind="gtCoarse")
    assert Cityscapes(tmp_path, "train_extra").label(0).tolist() == TRAIN.tolist()


def test_padding_is_ignore_after_the_mapping(tmp_path):
    write(tmp_path, "train", 0)
    dataset = Cityscapes(tmp_path, "train")
    transform = TrainTransform(0, (1, 1), (6, 8), flip=False)
    _, label = transform(dataset.image(0), dataset.label(0), epoch=0, sample=0)
    # 8 labelled pixels, two of them ignored; padded pixels are ignored too, not class 0 (road) or raw id 0
    assert (label == 255).sum() == 6 * 8 - 6 and (label == 0).sum() == 1


@pytest.mark.parametrize("given", ["cityscapes/leftImg8bit", "cityscapes/leftImg8bit/train", "."])
def test_root_a_level_off_says_what_was_looked_for_and_guesses(tmp_path, given):
    write(tmp_path / "cityscapes", "train", 0)
    with pytest.raises(ConfsegError, match="for leftImg8bit/train and gtFine/train, not there; did you mean") as caught:
        Cityscapes(tmp_path / given, "train")
    assert str(caught.value).endswith(f"did you mean {tmp_path / 'cityscapes'}?")


def test_missing_labels_folder(tmp_path):
    write(tmp_path, "train", 0)
    write(tmp_path, "val", 0)
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfsegError, match="for gtFine/val, not there; give the folder that holds them, or unpack"):
        Cityscapes(tmp_path, "val")


def test_half_downloaded(tmp_path):
    labels = [write(tmp_path, "train", frame) for frame in range(5)]
    for path in labels[1:3]:
        path.unlink()
    with pytest.raises(
        ConfsegError, match=r"2 of 5 images have no label in gtFine.*aachen_000001_000019, aachen_000002"
    ):
        Cityscapes(tmp_path, "train")
    for path in (tmp_path / "leftImg8bit/train/aachen").glob("*_00000[124]_*"):
        path.unlink()
    with pytest.raises(ConfsegError, match=r"1 of 3 labels in gtFine.* have no image \(first: aachen_000004_000019\)"):
        Cityscapes(tmp_path, "train")


def test_empty_split(tmp_path):
    write(tmp_path, "train", 0).unlink()
    next((tmp_path / "leftImg8bit/train/aachen").iterdir()).unlink()
    with pytest.raises(ConfsegError, match="split 'train' lists no image"):
        Cityscapes(tmp_path, "train")
