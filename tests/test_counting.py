"""Two folders of label maps into a confusion matrix: the join, the reading of the ids, the counts."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from gluon_confseg import labels
from gluon_confseg.counting import count
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labelmaps import Classes, Folder

CITY = Classes(labels.CITYSCAPES, True)
RAW = np.full(256, 0, np.uint8)  # train id -> raw id; ignored is "unlabeled"
RAW[:19] = [raw for raw, train in sorted(labels.CITYSCAPES.raw_ids.items(), key=lambda item: item[1]) if train != 255]
SHIFTED = Classes(labels.LabelSet("shifted", tuple("abc"), labels.palette(4)[1:], {1: 0, 2: 1, 3: 2, 0: 255}), True)


@pytest.fixture
def maps():
    """Truth (255 = ignored) and prediction of five images, train ids of Cityscapes; sizes differ among images."""
    rng = np.random.default_rng(3)
    pairs = []
    for number in range(5):
        truth = rng.integers(0, 20, (30 + number, 40)).astype(np.uint8)
        truth[truth == 19] = 255
        wrong = rng.random(truth.shape) < 0.3
        prediction = np.where(wrong | (truth == 255), rng.integers(0, 19, truth.shape), truth).astype(np.uint8)
        pairs.append((truth, prediction))
    return pairs


def write(folder, images, ending="", names="abcdefgh"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images):
        Image.fromarray(np.asarray(image, np.uint8)).save(folder / f"{name}{ending}.png")
    return folder


def counted(tmp_path, truth="truth", predictions="predictions", classes=CITY, encodings=(None, None), **settings):
    folders = [
        Folder("truth", tmp_path / truth, encodings[0]),
        Folder("predictions", tmp_path / predictions, encodings[1]),
    ]
    return count(folders[0], folders[1:], classes, **settings)


def expected(pairs, classes=19):
    truth, prediction = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    valid = truth != 255
    return confusion_matrix(truth[valid], prediction[valid], labels=range(classes))


CODED = {
    "train": lambda ids: ids,
    "raw": lambda ids: RAW[ids],
    "colors": labels.CITYSCAPES.colorize,
}


@pytest.mark.parametrize("truth", CODED)
@pytest.mark.parametrize("prediction", CODED)
def test_counts_are_scikit_learns_whatever_the_encodings(tmp_path, maps, truth, prediction):
    write(tmp_path / "truth", [CODED[truth](label) for label, _ in maps])
    write(tmp_path / "predictions", [CODED[prediction](guess) for _, guess in maps])
    found = counted(tmp_path)
    assert found.images == 5 and (found.matrices[0].counts == expected(maps)).all()
    told = {"train": "train-ids", "raw": "raw-ids", "colors": "colors"}
    assert [note.split()[-1] for note in found.notes] == [told[truth], told[prediction]]
    again = counted(tmp_path, encodings=(told[truth], told[prediction]))
    assert (again.matrices[0].counts == found.matrices[0].counts).all()


def test_renumbering_the_classes_permutes_the_counts(tmp_path, maps):
    order = np.random.default_rng(1).permutation(19)
    city = labels.CITYSCAPES
    raw_ids = {raw: int(np.argsort(order)[train]) if train != 255 else 255 for raw, train in city.raw_ids.items()}
    classes, colors = ([values[i] for i in order] for values in (city.classes, city.colors))
    mixed = dataclasses.replace(city, name="mixed", classes=tuple(classes), colors=tuple(colors), raw_ids=raw_ids)
    write(tmp_path / "truth", [RAW[label] for label, _ in maps])
    write(tmp_path / "predictions", [city.colorize(guess) for _, guess in maps])
    found = counted(tmp_path, classes=Classes(mixed, True)).matrices[0].counts
    assert (found == expected(maps)[np.ix_(order, order)]).all()


def test_two_folders_of_predictions(tmp_path, maps):
    write(tmp_path / "truth", [RAW[label] for label, _ in maps])
    write(tmp_path / "one", [guess for _, guess in maps])
    write(tmp_path / "two", [RAW[guess.clip(0, 17)] for _, guess in maps])
    folders = [Folder("predictions", tmp_path / "one"), Folder("before", tmp_path / "two")]
    one, two = count(Folder("truth", tmp_path / "truth"), folders, CITY).matrices
    assert (one.counts == expected(maps)).all()
    assert (two.counts == expected([(label, guess.clip(0, 17)) for label, guess in maps])).all()


def test_join_of_official_names_in_city_folders(tmp_path, maps):
    for city, (label, guess) in zip(("ulm", "bonn"), maps):
        write(tmp_path / "truth" / city, [RAW[label]], "_gtFine_labelIds", names=[f"{city}_0"])
        write(tmp_path / "truth" / city, [label], "_gtFine_instanceIds", names=[f"{city}_0"])
        write(tmp_path / "predictions", [guess], "_leftImg8bit", names=[f"{city}_0"])
    assert (counted(tmp_path).matrices[0].counts == expected(maps[:2])).all()


def test_join_by_folders_where_names_repeat(tmp_path, maps):
    for scene, (label, guess) in zip(("x", "y"), maps):
        write(tmp_path / "truth" / scene, [label], "_color")
        write(tmp_path / "predictions" / scene, [guess], "_pred")
    assert (counted(tmp_path).matrices[0].counts == expected(maps[:2])).all()
    write(tmp_path / "predictions" / "x", [maps[0][1]])
    with pytest.raises(ConfsegError, match="a.png.*a_pred.png.*same image x/a"):
        counted(tmp_path)


def test_without_a_partner(tmp_path, maps):
    write(tmp_path / "truth", [label for label, _ in maps])
    write(tmp_path / "predictions", [guess for _, guess in maps[:2]])
    with pytest.raises(ConfsegError, match=r"3 of 5 .*\(first: c, d, e\).*--skip-missing"):
        counted(tmp_path)
    found = counted(tmp_path, skip_missing=True)
    assert found.images == 2 and "3 truths without a prediction" in found.notes[0]
    assert (found.matrices[0].counts == expected(maps[:2])).all()
    write(tmp_path / "other", [maps[0][1]], names="z")
    with pytest.raises(ConfsegError, match=r"no name of .*other .*z.* is a name of .*truth"):
        counted(tmp_path, predictions="other")


def test_a_prediction_without_a_truth_is_left_out(tmp_path, maps):
    write(tmp_path / "truth", [label for label, _ in maps[:3]])
    write(tmp_path / "predictions", [guess for _, guess in maps])
    found = counted(tmp_path)
    assert "2 predictions without a truth (first: d, e)" in found.notes[0]
    assert (found.matrices[0].counts == expected(maps[:3])).all()


def test_sizes_that_differ(tmp_path):
    write(tmp_path / "truth", [np.zeros((2, 3))])
    write(tmp_path / "predictions", [np.zeros((3, 2))])
    with pytest.raises(ConfsegError, match="predictions/a.png is 2x3 but its truth .*truth/a.png is 3x2"):
        counted(tmp_path)


def test_unknown_values_name_their_file(tmp_path):
    good = [[1, 2, 3]]
    write(tmp_path / "good", [good] * 3)
    write(tmp_path / "bad", [good, good, [[1, 77, 78]]])
    with pytest.raises(ConfsegError, match="bad/c.png: predictions: values 77, 78 "):
        counted(tmp_path, "good", "bad", SHIFTED)
    with pytest.raises(ConfsegError, match="bad/c.png: truth: values 77, 78 "):
        counted(tmp_path, "bad", "good", SHIFTED)


def test_an_ignored_prediction_matters_only_where_the_truth_is_a_class(tmp_path):
    write(tmp_path / "truth", [[[3, 1, 0]]])
    write(tmp_path / "predictions", [[[3, 2, 255]]])
    assert counted(tmp_path, classes=SHIFTED).matrices[0].counts.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    write(tmp_path / "predictions", [[[3, 255, 0]]])
    with pytest.raises(ConfsegError, match="a.png: predictions: values 255 .* where the truth is one"):
        counted(tmp_path, classes=SHIFTED)


def test_ids_that_can_be_both_must_be_told(tmp_path):
    write(tmp_path / "truth", [[[1, 2, 3]]])
    write(tmp_path / "predictions", [[[1, 2, 2]]])
    with pytest.raises(ConfsegError, match="predictions.*1, 2.*raw ids or train ids.*--prediction-encoding"):
        counted(tmp_path, classes=SHIFTED)
    found = counted(tmp_path, classes=SHIFTED, encodings=(None, "raw-ids")).matrices[0].counts
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    found = counted(tmp_path, classes=SHIFTED, encodings=(None, "train-ids")).matrices[0].counts
    assert found.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]
    write(tmp_path / "named", [[[1, 2, 2]]], "_labelTrainIds")
    assert counted(tmp_path, "truth", "named", SHIFTED).matrices[0].counts.tolist() == found.tolist()
    write(tmp_path / "either", [[[1, 2, 2]]])
    with pytest.raises(ConfsegError, match="--truth-encoding"):
        counted(tmp_path, "either", "truth", SHIFTED)


def test_nothing_to_count(tmp_path):
    write(tmp_path / "truth", [[[255, 255]]])
    write(tmp_path / "predictions", [[[1, 1]]])
    with pytest.raises(ConfsegError, match="all of the truth .* is ignored"):
        counted(tmp_path)
