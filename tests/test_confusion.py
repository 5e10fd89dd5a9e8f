import json
from collections import OrderedDict

import numpy as np
import pytest

from gluon_confseg.confusion import ConfusionMatrix, group_mapping
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup

# truth \ prediction     0  1  2
HAND = np.array([[6, 2, 0], [1, 0, 3], [0, 0, 0]])


def plain(label, prediction, num_classes, ignore_label=255):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for truth, guess in zip(np.ravel(label), np.ravel(prediction)):
        if truth != ignore_label:
            counts[truth, guess] += 1
    return counts


def maps(seed, num_classes=19, shape=(3, 24, 32), block=1, dtype=np.uint8):
    """Random truth (some of it ignored) and prediction, constant over block x block pixels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, label, rng.integers(0, num_classes, shape))
    label[rng.random(shape) < 0.15] = 255
    return tuple(np.kron(a, np.ones((1, block, block), int)).astype(dtype) for a in (label, prediction))


def counted(label, prediction, num_classes=19, **options):
    matrix = ConfusionMatrix(num_classes, **options)
    matrix.update(label, prediction)
    return matrix


def test_counts_by_hand():
    label = np.array([[[0, 0, 1], [1, 255, 2]]], np.uint8)
    prediction = np.array([[[0, 1, 1], [2, 2, 2]]], np.uint8)
    matrix = counted(label, prediction, 3)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert matrix.num_classes == 3


def test_metrics_by_hand():
    matrix = ConfusionMatrix.from_counts(HAND)
    np.testing.assert_array_equal(matrix.row_normalized(), [[0.75, 0.25, 0], [0.25, 0, 0.75], [0, 0, 0]])
    # class 0: 6 / (8 + 7 - 6); class 1 is never right; class 2 is predicted but not in the truth, so it counts, as 0
    np.testing.assert_array_equal(matrix.iou(), [6 / 9, 0, 0])
    assert matrix.mean_iou() == 6 / 9 / 3
    np.testing.assert_array_equal(matrix.recall(), [0.75, 0, np.nan])
    assert matrix.mean_recall() == 0.375
    assert matrix.pixel_accuracy() == 0.5


def test_a_class_in_neither_truth_nor_prediction_is_left_out_of_the_mean():
    matrix = ConfusionMatrix.from_counts([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_array_equal(matrix.iou(), [3 / 4, 4 / 5, np.nan])
    assert matrix.mean_iou() == (3 / 4 + 4 / 5) / 2


def test_an_empty_matrix_has_no_score():
    matrix = counted(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), 3)
    assert matrix.counts.sum() == 0
    assert np.isnan(matrix.iou()).all() and np.isnan(matrix.recall()).all()
    assert np.isnan([matrix.mean_iou(), matrix.mean_recall(), matrix.pixel_accuracy()]).all()
    assert (matrix.row_normalized() == 0).all()
    matrix.update(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("block", [1, 16])  # noise, and long runs of one pair: the two ways uint8 is counted
def test_every_integer_type_counts_like_the_plain_loop(dtype, block):
    label, prediction = maps(1, shape=(2, 16, 16), block=block)
    if dtype == np.int8:
        label = label.astype(int)
        label[label == 255] = -1
    ignore = -1 if dtype == np.int8 else 255
    matrix = counted(label.astype(dtype), prediction.astype(dtype), ignore_label=ignore)
    np.testing.assert_array_equal(matrix.counts, plain(label, prediction, 19, ignore))


def test_types_and_memory_layouts_may_be_mixed():
    label, prediction = maps(2)
    expected = plain(label, prediction, 19)
    np.testing.assert_array_equal(counted(label, prediction.astype(np.int64)).counts, expected)
    np.testing.assert_array_equal(counted(label.T, prediction.T).counts, expected)
    np.testing.assert_array_equal(counted(np.asfortranarray(label), prediction).counts, expected)


def test_the_uint8_range_is_covered():
    label = np.arange(256, dtype=np.uint8)
    assert counted(label, label[::-1].copy(), 256, ignore_label=-1).counts.trace() == 0
    np.testing.assert_array_equal(counted(label, label, 256, ignore_label=-1).counts, np.eye(256))
    assert counted(label, np.minimum(label, 254), 255).counts.trace() == 255
    wide = np.array([0, 300, 700])
    assert counted(wide, wide, 1000, ignore_label=-1).counts.trace() == 3


def test_batch_size_and_workers_do_not_matter():
    label, prediction = maps(3, shape=(6, 40, 30))
    whole = counted(label, prediction)
    single = ConfusionMatrix(19)
    for one_label, one_prediction in zip(label, prediction):
        single.update(one_label, one_prediction)
    workers = [counted(label[i::3], prediction[i::3]) for i in (2, 0, 1)]
    merged = workers[0] + workers[1] + workers[2]
    np.testing.assert_array_equal(single.counts, whole.counts)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert merged.mean_iou() == whole.mean_iou()


@pytest.mark.parametrize("pixels", [2**24, 2**31, 2**53])
def test_one_pixel_more_is_seen_beyond_float32_int32_and_float64(pixels):
    matrix = ConfusionMatrix.from_counts([[pixels, 0], [0, pixels]])
    matrix.update(np.array([0, 1, 1], np.uint8), np.array([0, 0, 1], np.uint8))
    assert (matrix + matrix).counts.tolist() == [[2 * pixels + 2, 0], [2, 2 * pixels + 2]]
    assert matrix.merged([1]).counts.tolist() == matrix.counts.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_the_cityscapes_evaluator(seed, tmp_path):
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    from PIL import Image

    train_to_raw = [label.id for label in evaluator.labels if 0 <= label.trainId < 19]
    table = np.zeros(256, np.uint8)  # ignored truth becomes raw id 0, "unlabeled"
    table[:19] = train_to_raw
    label, prediction = maps(seed, shape=(3, 64, 48))
    if seed % 2:  # class 4 nowhere; class 7 predicted only; class 9 in the truth only
        label[(label == 4) | (label == 7)] = 255
        prediction[(prediction == 4) | (prediction == 9)] = 0

    args = evaluator.CArgs()
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    official = evaluator.generateMatrix(args)
    for number, (truth, guess) in enumerate(zip(table[label], table[prediction])):
        files = [str(tmp_path / f"{number}_{kind}.png") for kind in ("prediction", "labelIds")]
        Image.fromarray(guess).save(files[0])
        Image.fromarray(truth).save(files[1])
        evaluator.evaluatePair(files[0], files[1], official, {}, {}, args)
    scores = OrderedDict((raw, evaluator.getIouScoreForLabel(raw, official, args)) for raw in args.evalLabels)

    matrix = counted(label, prediction)
    np.testing.assert_array_equal(matrix.counts, official[np.ix_(train_to_raw, train_to_raw)].astype(np.int64))
    np.testing.assert_array_equal(matrix.iou(), [scores[raw] for raw in train_to_raw])
    assert matrix.mean_iou() == evaluator.getScoreAverage(scores, args)
    assert np.isnan(matrix.iou()).sum() == seed % 2


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    label, prediction = maps(seed, num_classes=11)
    valid = label != 255
    expected = metrics.confusion_matrix(label[valid], prediction[valid], labels=range(11))
    np.testing.assert_array_equal(counted(label, prediction, 11).counts, expected)


@pytest.mark.parametrize("group", [[4, 1], ClassGroup((1, 4)), np.array([1, 4])])
def test_merged_by_hand(group):
    counts = np.arange(25).reshape(5, 5)
    assert group_mapping(group, 5).tolist() == [0, 1, 0, 0, 2]
    merged = ConfusionMatrix.from_counts(counts, ignore_label=7).merged(group)
    others = [0, 2, 3]
    assert merged.counts.tolist() == [
        [counts[np.ix_(others, others)].sum(), 1 + 11 + 16, 4 + 14 + 19],
        [5 + 7 + 8, 6, 9],
        [20 + 22 + 23, 21, 24],
    ]
    assert merged.ignore_label == 7


def test_focused_by_hand():
    counts = np.arange(1, 17).reshape(4, 4)
    focused = ConfusionMatrix.from_counts(counts, ignore_label=7).focused([1, 3])
    # rows 0 and 2 keep their errors towards 1 and 3 only; 3 = counts[0, 2] and 9 = counts[2, 0] count as right
    assert focused.counts.tolist() == [[1 + 3, 2, 0, 4], [5, 6, 7, 8], [0, 10, 9 + 11, 12], [13, 14, 15, 16]]
    assert focused.ignore_label == 7
    np.testing.assert_array_equal(
        focused.merged([1, 3]).counts, ConfusionMatrix.from_counts(counts).merged([1, 3]).counts
    )


def test_collapsed_by_hand():
    counts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    collapsed = ConfusionMatrix.from_counts(counts, ignore_label=7).collapsed([1, 0, 1])
    assert collapsed.counts.tolist() == [[5, 10], [10, 20]] and collapsed.ignore_label == 7
    assert ConfusionMatrix.from_counts(counts).collapsed([2, 1, 0]).counts.tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    for wrong in ([0, 1], [0, -1, 1], [0.0, 1.0, 1.0]):
        with pytest.raises(ConfsegError, match="one index >= 0 for each"):
            ConfusionMatrix.from_counts(counts).collapsed(wrong)


def test_merged_equals_counting_merged_maps():
    label, prediction = maps(5)
    group = [2, 3, 11, 18]
    table = np.full(256, 255, np.uint8)
    table[:19] = group_mapping(group, 19)
    expected = counted(table[label], table[prediction], 5).counts
    np.testing.assert_array_equal(counted(label, prediction).merged(group).counts, expected)


@pytest.mark.parametrize("group", [[], [1, 1], [-1, 2], [2, 5]])
def test_a_wrong_group_is_refused(group):
    with pytest.raises(ConfsegError, match=r"0\.\.4"):
        group_mapping(group, 5)


def test_most_confused():
    matrix = ConfusionMatrix.from_counts([[90, 10, 0], [3, 6, 1], [4, 0, 36]])
    assert matrix.most_confused(3) == [(1, 0, 0.3, 3), (0, 1, 0.1, 10), (2, 0, 0.1, 4)]
    assert len(matrix.most_confused(100)) == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("runs", [1, 50])
def test_values_that_are_not_classes_are_named_and_nothing_is_counted(dtype, runs):
    matrix = ConfusionMatrix(3)
    label, prediction = (np.repeat(np.array(a, dtype), runs) for a in ([0, 7, 200, 255], [0, 1, 1, 9]))
    with pytest.raises(ConfsegError, match=r"label has values that are not classes: 7, 200; expected 0..2 and 255"):
        matrix.update(label, prediction)
    with pytest.raises(ConfsegError, match=r"prediction has values that are not classes: 255; expected 0..2$"):
        matrix.update(prediction * 0, label.clip(255) if dtype == np.uint8 else label * 0 + 255)
    assert matrix.counts.sum() == 0
    matrix.update(label[-runs:], prediction[-runs:])  # the truth is ignored, so its prediction does not matter
    assert matrix.counts.sum() == 0


def test_negative_values_are_named():
    with pytest.raises(ConfsegError, match="label has values that are not classes: -1;"):
        counted(np.array([0, -1]), np.array([0, 0]), 3)
    with pytest.raises(ConfsegError, match="prediction has values that are not classes: -5, -4, -3, -2, -1, ...;"):
        counted(np.zeros(9, int), np.arange(9) - 5, 2)


@pytest.mark.parametrize(
    "label, prediction, message",
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "differ in shape"),
        (np.zeros(2), np.zeros(2, int), "label must hold integer"),
        (np.zeros(2, int), np.zeros(2, bool), "prediction must hold integer"),
    ],
)
def test_arrays_that_cannot_be_counted(label, prediction, message):
    with pytest.raises(ConfsegError, match=message):
        counted(label, prediction)


@pytest.mark.parametrize(
    "counts, message",
    [
        ([[1, 2, 3], [4, 5, 6]], "square"),
        ([1, 2], "square"),
        ([[0.5, 0.5], [0, 1]], "not fractions"),
        ([[np.nan, 1], [0, 1]], "not fractions"),
        ([[1, -1], [0, 1]], ">= 0"),
        ([["1", "2"], ["3", "4"]], "whole numbers"),
        (np.zeros((0, 0)), "at least 1 class"),
    ],
)
def test_counts_that_are_not_counts(counts, message):
    with pytest.raises(ConfsegError, match=message):
        ConfusionMatrix.from_counts(counts)


def test_from_counts_copies():
    counts = np.eye(2, dtype=np.int64)
    matrix = ConfusionMatrix.from_counts(counts)
    counts[0, 0] = 9
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]


def test_matrices_that_do_not_belong_together():
    with pytest.raises(ConfsegError, match="one of the 300 classes"):
        ConfusionMatrix(300)
    with pytest.raises(ConfsegError, match="cannot add confusion matrices of 3 classes"):
        ConfusionMatrix(3) + ConfusionMatrix(4)
    with pytest.raises(ConfsegError, match="ignore 254"):
        ConfusionMatrix(3) + ConfusionMatrix(3, ignore_label=254)


def test_save_and_load(tmp_path):
    matrix = ConfusionMatrix.from_counts(HAND * 2**33, ignore_label=77)
    path = tmp_path / "run" / "confusion.npz"
    matrix.save(path, images="train", fingerprint="über 1f")
    loaded = ConfusionMatrix.load(path)
    np.testing.assert_array_equal(loaded.counts, matrix.counts)
    assert (loaded.counts.dtype, loaded.ignore_label) == (np.int64, 77)
    assert loaded.metadata == {"images": "train", "fingerprint": "über 1f"}
    again = tmp_path / "again.npz"
    loaded.save(again, **loaded.metadata)
    assert again.read_bytes() == path.read_bytes()
    with np.load(path, allow_pickle=False) as archive:  # readable without this package
        assert archive["counts"].sum() == matrix.counts.sum()
        assert json.loads(str(archive["description"]))["ignore_label"] == 77
    with pytest.raises(ConfsegError, match="seed is int"):
        matrix.save(path, seed=3)


def test_missing_and_truncated_files_are_named(tmp_path):
    path = tmp_path / "confusion.npz"
    with pytest.raises(ConfsegError, match=r"cannot read .*confusion\.npz: No such file"):
        ConfusionMatrix.load(path)
    ConfusionMatrix.from_counts(HAND).save(path, images="train")
    content = path.read_bytes()
    array = tmp_path / "array.npy"
    np.save(array, HAND)
    for damaged in (b"", b"x", content[:40], content[: len(content) // 2], content[:-1], array.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ConfsegError, match=r"confusion\.npz is not a whole"):
            ConfusionMatrix.load(path)


def test_a_damaged_byte_never_changes_a_count(tmp_path):
    path = tmp_path / "confusion.npz"
    ConfusionMatrix.from_counts(HAND).save(path, images="train")
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(bytes(damaged))
        try:
            loaded = ConfusionMatrix.load(path)
        except ConfsegError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.counts, HAND)
            assert loaded.metadata == {"images": "train"}
    assert refused > len(content) / 2


def test_counts_that_no_int64_holds():
    for huge in (np.full((2, 2), 1e300), np.full((2, 2), 2**63, np.uint64)):
        with pytest.raises(ConfsegError, match="2\\^63"):
            ConfusionMatrix.from_counts(huge)
