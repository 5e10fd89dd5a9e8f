"""Order, content, errors and threads of the loaders."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gluon_confseg.data.base import Sample, SegmentationDataset
from gluon_confseg.data.loader import EvalLoader, TrainLoader
from gluon_confseg.data.transforms import TrainTransform
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import VOC
from gluon_confseg.workers import Job

COUNT = 11


@pytest.fixture
def dataset(tmp_path):
    """Eleven pairs; image and label i hold the value i."""
    samples = []
    for index in range(COUNT):
        image, label = tmp_path / f"i{index}.png", tmp_path / f"l{index}.png"
        Image.fromarray(np.full((8, 9, 3), index, np.uint8)).save(image)
        Image.fromarray(np.full((8, 9), index, np.uint8)).save(label)
        samples.append(Sample(f"id{index:02d}", image, label))
    return SegmentationDataset(VOC, "train", samples)


def loader(dataset, *, workers=2, batch_size=3, seed=0, cache_bytes=0, transform=None, share=list):
    transform = transform or TrainTransform(seed, (0.5, 1.5), (6, 6))
    options = {"seed": seed, "workers": workers, "cache_bytes": cache_bytes, "share": share}
    return TrainLoader(dataset, transform, batch_size, **options)


class Whole:
    """A transform whose samples are whole images; `note` is told of each (epoch, sample, label)."""

    def __init__(self, note):
        self._note = note

    def window(self, size, *, epoch, sample):
        return SimpleNamespace(last_row=size[0], named=(epoch, sample))

    def cut(self, image, label, window):
        self._note(*window.named, label)
        return image.transpose(2, 0, 1).astype(np.float32), label


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("confseg-data")]


def same(first, second):
    return len(first) == len(second) and all(
        a.ids == b.ids and np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second)
    )


def test_batches(dataset):
    batches = list(loader(dataset).epoch(0))
    assert len(batches) == len(loader(dataset)) == 3  # 11 = 3 * 3 + an incomplete batch
    for batch in batches:
        assert batch.images.dtype == np.float32 and batch.images.shape == (3, 3, 6, 6)
        assert batch.labels.dtype == np.uint8 and batch.labels.shape == (3, 6, 6)
        for id_, label in zip(batch.ids, batch.labels):
            assert set(np.unique(label)) <= {int(id_[2:]), 255}
    ids = [id_ for batch in batches for id_ in batch.ids]
    assert len(set(ids)) == 9 and set(ids) <= set(dataset.ids)


def test_epochs_and_seeds_shuffle_differently_and_repeatably(dataset):
    first = loader(dataset)
    orders = {tuple(id_ for batch in first.epoch(epoch) for id_ in batch.ids) for epoch in range(5)}
    assert len(orders) == 5
    assert same(list(first.epoch(2)), list(loader(dataset).epoch(2)))
    assert same(list(first.epoch(2, 1)), list(first.epoch(2))[1:])
    assert not same(list(first.epoch(2)), list(loader(dataset, seed=1).epoch(2)))


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("cache_bytes", [0, 700, 10**6])
def test_workers_and_cache_change_nothing(dataset, workers, cache_bytes):
    reference, other = loader(dataset, workers=1), loader(dataset, workers=workers, cache_bytes=cache_bytes)
    for epoch in range(3):
        assert same(list(reference.epoch(epoch)), list(other.epoch(epoch)))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_workers_of_a_job_share_every_batch_without_loss_or_repetition(dataset, data):
    batch_size, seed, epoch = (data.draw(st.integers(*limits)) for limits in ((1, COUNT), (0, 3), (0, 3)))
    count = data.draw(st.integers(1, batch_size))
    whole = list(loader(dataset, batch_size=batch_size, seed=seed).epoch(epoch))
    shared = []
    for rank in range(count):
        job = Job()
        job.rank, job.count = rank, count
        shared.append(list(loader(dataset, batch_size=batch_size, seed=seed, share=job.share).epoch(epoch)))
    assert [len(batches) for batches in shared] == [len(whole)] * count
    for batch, parts in zip(whole, zip(*shared)):
        assert [id_ for part in parts for id_ in part.ids] == batch.ids
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), batch.images)
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), batch.labels)


def test_the_transform_is_told_epoch_and_index(dataset):
    told = []

    def noting(epoch, sample, label):
        told.append((epoch, sample, int(label[0, 0])))

    list(loader(dataset, batch_size=COUNT, transform=Whole(noting)).epoch(7))
    assert sorted(told) == [(7, index, index) for index in range(COUNT)]


def test_order_holds_when_early_samples_are_slow(dataset):
    slow_first = Whole(lambda epoch, sample, label: time.sleep(0.02 if sample % 3 == 0 else 0))
    batches = list(loader(dataset, workers=4, transform=slow_first).epoch(0))
    assert [int(id_[2:]) for batch in batches for id_ in batch.ids] == [
        int(value) for batch in batches for value in batch.labels[:, 0, 0]
    ]
    assert same(batches, list(loader(dataset, workers=1, transform=slow_first).epoch(0)))


def test_cache_keeps_up_to_its_bytes(dataset):
    pair = 8 * 9 * 4  # an image and a label
    reads = []
    image = dataset.image
    dataset.image = lambda index, rows=None: reads.append(index) or image(index, rows)
    train = loader(dataset, workers=1, batch_size=COUNT, cache_bytes=4 * pair + 1)
    list(train.epoch(0))
    assert len(reads) == COUNT
    list(train.epoch(1))
    assert len(reads) == COUNT + (COUNT - 4)


def test_reads_ahead_no_further_than_two_batches(dataset):
    started = []

    transform = Whole(lambda epoch, sample, label: started.append(sample))
    epoch = loader(dataset, workers=4, batch_size=2, transform=transform).epoch(0)
    next(epoch)
    time.sleep(0.1)
    assert len(started) <= 2 + 2 * 2
    epoch.close()


def test_leaving_early_ends_the_threads(dataset):
    epoch = loader(dataset, workers=4).epoch(0)
    next(epoch)
    assert data_threads()
    epoch.close()
    assert not data_threads()
    for _ in loader(dataset, workers=4).epoch(0):
        break
    for _ in EvalLoader(dataset, 4):
        break
    assert not data_threads()


def test_a_finished_epoch_leaves_no_thread(dataset):
    list(loader(dataset).epoch(0))
    list(EvalLoader(dataset, 2))
    assert not data_threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_a_worker_surfaces(dataset, workers):
    path = dataset.image_path(4)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfsegError, match=r"i4\.png: cannot decode, truncated"):
        list(loader(dataset, workers=workers, batch_size=COUNT).epoch(0))
    seen = []
    with pytest.raises(ConfsegError, match=r"i4\.png"):
        seen.extend(index for index, _, _ in EvalLoader(dataset, workers))
    assert not data_threads()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_evaluation_sees_every_image_once_in_order(dataset, workers):
    found = list(EvalLoader(dataset, workers))
    assert [index for index, _, _ in found] == list(range(COUNT)) and len(EvalLoader(dataset, workers)) == COUNT
    for index, image, label in found:
        assert image.shape == (8, 9, 3) and (label == int(dataset.ids[index][2:])).all()


def test_evaluation_without_labels(dataset):
    samples = [Sample(id_, dataset.image_path(index), None) for index, id_ in enumerate(dataset.ids)]
    test = SegmentationDataset(VOC, "test", samples)
    assert all(label is None for _, _, label in EvalLoader(test, 2))
    with pytest.raises(ConfsegError, match="split 'test' has no labels to train on"):
        loader(test)


def test_fewer_images_than_a_batch(dataset):
    with pytest.raises(
        ConfsegError, match="split 'train' has 11 images, fewer than a batch of 12; lower the batch size"
    ):
        loader(dataset, batch_size=12)
    assert len(loader(dataset, batch_size=11)) == 1
