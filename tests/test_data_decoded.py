"""Decoded pairs in memory and in files: the same arrays, shared, bounded, and never in the way of a run."""

import errno
import os
import threading

import numpy as np
import pytest
from PIL import Image

from gluon_confseg.data.base import Sample, SegmentationDataset
from gluon_confseg.data.decoded import Decoded, DecodedFiles
from gluon_confseg.labels import CITYSCAPES, VOC

COUNT, HEIGHT, WIDTH = 6, 24, 31
PAIR = 4 * HEIGHT * WIDTH + 1024
LONG_AGO = 10**9


def make(folder, labels=VOC, seed=0):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(COUNT):
        image, label = folder / f"i{index}.png", folder / f"l{index}.png"
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 21, (HEIGHT, WIDTH)).astype(np.uint8)).save(label)
        samples.append(Sample(f"id{index}", image, label))
    return SegmentationDataset(labels, "train", samples)


@pytest.fixture
def dataset(tmp_path):
    return make(tmp_path / "data")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "decoded"


def files(dataset, folder, pairs=COUNT):
    return DecodedFiles(dataset, folder, pairs * PAIR)


def same(pair, dataset, index):
    return all(map(np.array_equal, pair, (dataset.image(index), dataset.label(index))))


def fill(dataset, kept):
    decoded = Decoded(dataset, 0, kept)
    for index in range(COUNT):
        assert same(decoded.pair(index, 1), dataset, index)


def age(folder):
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))


def test_another_run_reads_what_one_has_written(dataset, folder, monkeypatch):
    fill(dataset, files(dataset, folder))
    assert len(list(folder.iterdir())) == COUNT
    wanted = [(dataset.image(index), dataset.label(index)) for index in range(COUNT)]
    monkeypatch.setattr(dataset, "image", None)  # nothing is decoded any more
    again = Decoded(dataset, 0, files(dataset, folder))
    for index, pair in enumerate(wanted):
        assert all(map(np.array_equal, again.pair(index, 1), pair))


def test_without_any_room_only_the_wanted_rows_are_decoded(dataset):
    image, label = Decoded(dataset, 0).pair(2, 5)
    np.testing.assert_array_equal(image, dataset.image(2)[:5])
    np.testing.assert_array_equal(label, dataset.label(2))
    assert Decoded(dataset, 0).size(2) == Decoded(dataset, 10**6).size(2) == (HEIGHT, WIDTH)


def test_a_changed_file_another_encoding_and_another_place_are_others(dataset, folder, tmp_path):
    fill(dataset, files(dataset, folder, pairs=99))
    status = dataset.label_path(0).stat()
    os.utime(dataset.label_path(0), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    fill(dataset, files(dataset, folder, pairs=99))
    assert len(list(folder.iterdir())) == COUNT + 1
    for other in (make(tmp_path / "data", CITYSCAPES), make(tmp_path / "other", seed=1)):
        before = len(list(folder.iterdir()))
        fill(other, files(other, folder, pairs=99))
        assert len(list(folder.iterdir())) == before + COUNT


def test_a_damaged_file_is_made_again(dataset, folder, caplog):
    fill(dataset, files(dataset, folder))
    rng = np.random.default_rng(5)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[int(rng.integers(300, 300 + 2 * HEIGHT * WIDTH))] ^= 0x40  # among the image's pixels
        path.write_bytes(content)
    fill(dataset, files(dataset, folder))  # compares every pair
    assert caplog.text.count("is damaged; it is made again") == COUNT
    caplog.clear()
    sorted(folder.iterdir())[0].write_bytes(b"PK")
    np.savez(sorted(folder.iterdir())[1], something=np.zeros(3))
    fill(dataset, files(dataset, folder))
    assert caplog.text.count("is damaged; it is made again") == 2
    caplog.clear()
    fill(dataset, files(dataset, folder))
    assert not caplog.text


def test_the_size_is_bounded_and_the_first_stay(dataset, folder):
    fill(dataset, files(dataset, folder, pairs=3))
    kept = sorted(folder.iterdir())
    assert len(kept) == 3 and sum(path.stat().st_size for path in kept) <= 3 * PAIR
    age(folder)
    fill(dataset, files(dataset, folder, pairs=3))  # a later run's own, though not used yet, are not replaced
    assert sorted(folder.iterdir()) == kept


def test_room_is_made_of_what_nobody_has_used_since(dataset, folder, tmp_path):
    other = make(tmp_path / "other", seed=1)
    fill(other, files(other, folder))
    age(folder)
    running = files(other, folder)
    late = files(dataset, folder)  # made before `running` has used anything
    for index in (0, 1):
        assert running.read(index) is not None
    fill(dataset, late)
    assert sum(running.read(index) is not None for index in range(COUNT)) == 2
    assert sum(late.read(index) is not None for index in range(COUNT)) == COUNT - 2


def test_threads_and_a_second_run_write_the_same_files_at_once(dataset, folder):
    runs = [Decoded(dataset, 0, files(dataset, folder, pairs=99)) for _ in range(2)]
    wrong = []

    def work(decoded):
        wrong.extend(index for index in range(COUNT) if not same(decoded.pair(index, 1), dataset, index))

    threads = [threading.Thread(target=work, args=(decoded,)) for decoded in runs * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(list(folder.iterdir())) == COUNT


def test_a_folder_that_cannot_be_written_is_said_once(dataset, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    fill(dataset, files(dataset, tmp_path / "file" / "decoded"))
    (line,) = caplog.records
    assert "decoded images are kept in files no longer: cannot write" in line.getMessage()


def test_a_full_disk_is_said_once_and_what_is_there_still_read(dataset, folder, monkeypatch, caplog):
    kept = files(dataset, folder)
    decoded = Decoded(dataset, 0, kept)
    decoded.pair(0, 1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fill(dataset, kept)
    (line,) = caplog.records
    assert "No space left on device" in line.getMessage()
    assert len(list(folder.iterdir())) == 1 and kept.read(0) is not None
