"""Scale, crop, flip and normalisation, against values worked out by hand."""

import numpy as np
import pytest

from gluon_confseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, TrainTransform, normalize

PLAIN = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}  # the transformed image keeps its pixel values


def coordinates(height, width):
    """An image whose pixel (y, x) holds (y, x, 7), and a label that holds y * width + x."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.dstack([y, x, np.full_like(x, 7)]), (y * width + x).astype(np.uint8)


def crops(transform, image, label, count):
    return [transform(image, label, epoch=0, sample=sample) for sample in range(count)]


def test_normalize():
    image = np.array([[[0, 255, 51]]], np.uint8)
    out = normalize(image, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2))
    assert out.dtype == np.float32 and out.shape == (3, 1, 1) and out.flags.c_contiguous
    assert np.allclose(out.ravel(), [-1, 1.5, 0.5], atol=1e-6)
    assert np.allclose(normalize(image).ravel()[1], (1 - IMAGENET_MEAN[1]) / IMAGENET_STD[1], atol=1e-6)


def test_scale_one_is_a_plain_crop_at_every_position():
    image, label = coordinates(5, 6)
    starts = set()
    for pixels, ids in crops(TrainTransform(0, (1, 1), (3, 4), flip=False, **PLAIN), image, label, 200):
        assert pixels.dtype == np.float32 and pixels.shape == (3, 3, 4) and ids.dtype == np.uint8
        y, x = int(round(pixels[0, 0, 0])), int(round(pixels[1, 0, 0]))
        assert np.allclose(pixels, image[y : y + 3, x : x + 4].transpose(2, 0, 1), atol=1e-5)
        assert np.array_equal(ids, label[y : y + 3, x : x + 4])
        starts.add((y, x))
    assert starts == {(y, x) for y in range(3) for x in range(3)}


def test_position_is_uniform():
    image, label = coordinates(2, 5)
    found = [ids[0, 0] for _, ids in crops(TrainTransform(0, (1, 1), (2, 2), flip=False), image, label, 2000)]
    # four starts: mean 500, standard deviation 19
    assert np.abs(np.bincount(found, minlength=4) - 500).max() < 100


def test_flip_mirrors_image_and_label_half_the_time():
    image, label = coordinates(3, 4)
    flipped = 0
    for pixels, ids in crops(TrainTransform(0, (1, 1), (3, 4), **PLAIN), image, label, 400):
        mirrored = ids[0, 0] == 3
        step = -1 if mirrored else 1
        assert np.array_equal(ids, label[:, ::step])
        assert np.allclose(pixels, image[:, ::step].transpose(2, 0, 1), atol=1e-5)
        flipped += mirrored
    assert 150 < flipped < 250


def test_padding_is_zero_and_ignore_and_the_image_lies_anywhere():
    image, label = coordinates(2, 3)
    image[:] = 255
    places = set()
    for pixels, ids in crops(TrainTransform(0, (1, 1), (4, 5)), image, label, 300):
        inside = ids != 255
        y, x = np.argwhere(inside)[0]
        assert inside.sum() == 6 and inside[y : y + 2, x : x + 3].all()
        assert (pixels[:, ~inside] == 0).all() and (pixels[:, inside] > 1).all()
        places.add((y, x))
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_half_scale_averages_the_image_and_takes_labels_from_it():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, ::2] = 100  # columns 100, 0: their mean is 50, skipping pixels would give 100 or 0
    label = np.kron(np.array([[1, 2], [3, 4]], np.uint8), np.ones((2, 2), np.uint8))
    pixels, ids = TrainTransform(0, (0.5, 0.5), (2, 2), flip=False, **PLAIN)(image, label, epoch=0, sample=0)
    assert np.allclose(pixels, 50, atol=1e-4)
    assert ids.tolist() == [[1, 2], [3, 4]]


def test_double_scale_keeps_label_values_and_alignment():
    label = np.array([[3, 9], [200, 255]], np.uint8)
    image = np.dstack([label] * 3)
    pixels, ids = TrainTransform(0, (2, 2), (4, 4), flip=False, **PLAIN)(image, label, epoch=0, sample=0)
    assert np.array_equal(ids, np.kron(label, np.ones((2, 2), np.uint8)))
    assert np.allclose(pixels[0, 0], [3, 4.5, 7.5, 9], atol=0.6)  # bilinear, rounded to whole values


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (90, 60)])
@pytest.mark.parametrize("scale", [(0.01, 0.02), (0.3, 3), (20, 30)])
def test_odd_sizes_and_scales(size, scale):
    image, label = np.full((*size, 3), 200, np.uint8), np.full(size, 5, np.uint8)
    for pixels, ids in crops(TrainTransform(1, scale, (33, 20), **PLAIN), image, label, 50):
        assert pixels.shape == (3, 33, 20) and set(np.unique(ids)) <= {5, 255}
        assert (ids == 5).any()
        assert np.allclose(pixels[:, ids == 5], 200, atol=1e-3) and (pixels[:, ids == 255] == 0).all()


def test_follows_seed_epoch_and_sample_only():
    image, label = coordinates(12, 14)

    def run(seed=3, epoch=4, sample=5):
        return TrainTransform(seed, (0.5, 2), (6, 6))(image, label, epoch=epoch, sample=sample)

    first = run()
    assert all(np.array_equal(a, b) for a, b in zip(first, run()))
    for other in (run(seed=4), run(epoch=5), run(sample=6), run(epoch=5, sample=4)):
        assert not np.array_equal(first[0], other[0])


def test_arguments_are_not_modified():
    image, label = coordinates(6, 6)
    copies = image.copy(), label.copy()
    image.setflags(write=False)
    label.setflags(write=False)
    crops(TrainTransform(0, (0.5, 2), (4, 4)), image, label, 20)
    assert np.array_equal(image, copies[0]) and np.array_equal(label, copies[1])
