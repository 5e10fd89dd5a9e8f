"""The part of the training split that takes the place of validation: disjoint, contiguous, the same again."""

import pytest

from gluon_confseg.config_data import Data
from gluon_confseg.data import check_disjoint, open_dataset
from gluon_confseg.data.held_out import cut, open_training_split, open_validation_split
from gluon_confseg.data.synthetic import ensure
from gluon_confseg.errors import ConfsegError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ensure("camvid", tmp_path_factory.mktemp("data") / "camvid", train=10, val=3, size=(64, 96), seed=0)


@pytest.mark.parametrize("share, count", [(0.2, 2), (0.25, 2), (0.3, 3), (0.94, 9)])
def test_the_end_of_the_sorted_ids_is_held_out(data, share, count):
    settings = Data(name="camvid", held_out=share)
    whole = open_dataset("camvid", data, "train")
    train, held = open_training_split(settings, data), open_validation_split(settings, data)
    check_disjoint(train, held)
    assert train.ids + held.ids == whole.ids == sorted(whole.ids)
    assert len(held) == count and (train.split, held.split) == (f"train[:{10 - count}]", f"train[{10 - count}:]")
    assert held.image_path(0) == whole.image_path(10 - count)
    assert (held.label(count - 1) == whole.label(9)).all()


def test_fingerprints_are_of_the_part(data):
    whole = open_dataset("camvid", data, "train")
    first, again, other = cut(whole, 0.2), cut(open_dataset("camvid", data, "train"), 0.2), cut(whole, 0.3)
    assert [part.fingerprint() for part in first] == [part.fingerprint() for part in again]
    assert len({part.fingerprint() for part in (whole, *first, *other)}) == 5


def test_without_a_share_the_splits_are_those_of_the_data_set(data):
    settings = Data(name="camvid")
    for opened, split in ((open_training_split, "train"), (open_validation_split, "val")):
        assert opened(settings, data).fingerprint() == open_dataset("camvid", data, split).fingerprint()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nothing_is_refused(data, share):
    with pytest.raises(ConfsegError, match=f"data.held_out: {share} of the 10 images of camvid train"):
        open_training_split(Data(name="camvid", held_out=share), data)
