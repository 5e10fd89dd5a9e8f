"""Pictures: the pure functions exactly, the files by what is in them."""

import subprocess
import sys

import cv2
import matplotlib
import numpy as np
import pytest

from gluon_confseg import figures, results
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.figures import OverlayRow
from gluon_confseg.labels import CAMVID, CITYSCAPES, VOC

BLACK, GREY, WHITE = [0, 0, 0], [160, 160, 160], [255, 255, 255]


def read(path):
    """RGB uint8 HxWx3 of a PNG; moderate size is part of the contract."""
    assert path.stat().st_size < 2_000_000
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1]


def has_color(picture, color, pixels):
    return (picture == np.array(color)).all(axis=2).sum() >= pixels


def made_results(classes, counts, better):
    def cell(key, role, matrix):
        return results.make_cell(ConfusionMatrix.from_counts(matrix), key=key, title=f"title of {key}", role=role)

    images = {"split": "val", "images": 2, "fingerprint": "f"}
    return results.Results(
        name="made",
        seed=0,
        dataset={"name": "made", "source": "option", "train": images, "val": images, "confusion_images": "train"},
        classes=list(classes),
        groups=[],
        cells=[
            cell("subnet0_ce", "baseline", counts),
            cell("subnets_ce", "paper", better),
            cell("control_subnet0_ce", "control", counts),
            cell("subnet0_new_unit", "variant", better),
        ],
        subnets=[],
        seconds={},
        versions={},
        config={},
    )


def matrix(num_classes, errors):
    """900 pixels of each class, `errors` of them in every other class's column."""
    return errors + np.eye(num_classes, dtype=np.int64) * (900 - errors * num_classes)


def test_error_map_colours():
    label = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)
    prediction = np.array([[0, 2, 0], [2, 1, 255]], np.uint8)
    expected = np.array([[GREY, BLACK, WHITE], [GREY, BLACK, WHITE]], np.uint8)
    made = figures.error_map(label, prediction)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, expected)


def test_overlay_mixes_colour_and_grey_image():
    image = np.array([[[100, 100, 100], [255, 0, 0], [10, 200, 30]]], np.uint8)
    label = np.array([[0, 3, 255]], np.uint8)
    made = figures.overlay(image, label, CITYSCAPES, opacity=0.5)
    # grey values: 100; .299 * 255 = 76.245; .299 * 10 + .587 * 200 + .114 * 30 = 123.81
    road, wall = (128, 64, 128), (102, 102, 156)
    assert made[0, 0].tolist() == [(c + 100) / 2 for c in road]
    assert made[0, 1].tolist() == [round((c + 76.245) / 2) for c in wall]
    assert made[0, 2].tolist() == [124, 124, 124]


def test_overlay_of_a_tall_image_is_that_of_its_rows():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2 * figures._STRIP + 3, 5, 3)).astype(np.uint8)
    label = rng.choice([0, 7, 18, 255], image.shape[:2]).astype(np.uint8)
    rows = [figures.overlay(image[y : y + 1], label[y : y + 1], CITYSCAPES) for y in range(len(image))]
    np.testing.assert_array_equal(figures.overlay(image, label, CITYSCAPES), np.concatenate(rows))


@pytest.mark.parametrize("label_set", [CAMVID, CITYSCAPES, VOC], ids=lambda label_set: label_set.name)
def test_heatmaps(tmp_path, label_set):
    path = tmp_path / "heat.png"
    size = label_set.num_classes
    before, after = matrix(size, 20), matrix(size, 5)
    before[3] = 0
    titles = ("before", "after")
    figures.confusion_heatmaps(path, before, after, label_set.classes, titles=titles, groups=[[0, 2], [4, 5]])
    picture = read(path)
    height, width, _ = picture.shape
    assert 1.5 < width / height < 2.5 and height > 500
    assert has_color(picture, [191, 191, 191], 1000)  # the row without pixels
    figures.confusion_heatmaps(tmp_path / "bare.png", before, after, label_set.classes, titles=titles)
    black = [(drawn[..., :3] == 0).all(axis=2).sum() for drawn in (picture, read(tmp_path / "bare.png"))]
    assert black[0] > black[1] + 300  # the outline of the groups


def test_heatmap_of_six_classes_and_wrong_names(tmp_path):
    figures.confusion_heatmaps(tmp_path / "six.png", matrix(6, 1), matrix(6, 0), list("abcdef"), titles=("a", "b"))
    assert read(tmp_path / "six.png").std() > 20
    with pytest.raises(ConfsegError, match=r"\(6, 6\) does not fit 2 class names"):
        figures.confusion_heatmaps(tmp_path / "no.png", matrix(6, 1), matrix(6, 0), ["a", "b"], titles=("a", "b"))
    assert not (tmp_path / "no.png").exists()


def test_outlines_enclose_the_cells_of_a_group_only():
    # classes 0 and 1 side by side: one 2x2 square, 8 unit edges around (-0.5, -0.5) .. (1.5, 1.5)
    edges = {frozenset(segment) for segment in figures._outlines([[0, 1]], 3)}
    low, middle, high = -0.5, 0.5, 1.5
    expected = set()
    for start, stop in ((low, middle), (middle, high)):
        for border in (low, high):
            expected.add(frozenset([(start, border), (stop, border)]))
            expected.add(frozenset([(border, start), (border, stop)]))
    assert edges == expected
    # classes 0 and 2 apart: four single cells, 4 edges each
    assert len(figures._outlines([[0, 2]], 3)) == 16


def test_class_bars(tmp_path):
    counts, better = matrix(11, 20), matrix(11, 5)
    for made in (counts, better):
        made[:, 0] += made[:, 4]
        made[4], made[:, 4] = 0, 0  # a class that is neither in the truth nor predicted
    run = made_results(CAMVID.classes, counts, better)
    figures.class_bars(tmp_path / "bars.png", [run])
    picture = read(tmp_path / "bars.png")
    for color in ([140, 140, 140], [0, 114, 178], [230, 159, 0]):  # baseline, the paper's cell, the control
        assert has_color(picture, color, 5000)
    assert not has_color(picture, [0, 158, 115], 1)  # the variant was not asked for
    figures.class_bars(tmp_path / "one.png", [run], ["subnet0_new_unit"])
    assert not has_color(read(tmp_path / "one.png"), [230, 159, 0], 1)
    iou = 100 * np.array([run.cell("subnets_ce").iou, run.baseline.iou], float)
    assert np.allclose(figures._iou_points([run, run], "subnets_ce"), iou[[0, 0]], equal_nan=True)
    assert figures._deviation(iou[:1]) is None
    # of two values, the sample standard deviation is their distance / sqrt(2)
    assert np.allclose(figures._deviation(iou), abs(iou[0] - iou[1]) / 2**0.5, equal_nan=True)
    figures.class_bars(tmp_path / "two.png", [run, run])
    with pytest.raises(ConfsegError, match="no cell 'subnets'"):
        figures.class_bars(tmp_path / "no.png", [run], ["subnets"])
    with pytest.raises(ConfsegError, match="at most 7"):
        figures.class_bars(tmp_path / "no.png", [run], ["subnets_ce"] * 8)


def row(name, height, width, titles=("baseline", "+ subnets"), seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    label = np.repeat(np.arange(4, dtype=np.uint8), width // 4)[None].repeat(height, 0)
    label[: height // 4] = 255
    return OverlayRow(name, image, label, {title: np.roll(label, 7 * k, axis=1) for k, title in enumerate(titles)})


def test_overlays(tmp_path):
    path = tmp_path / "overlays.png"
    figures.overlays(path, [row("a", 96, 128), row("b", 128, 96, seed=1)], CAMVID)
    picture = read(path)
    assert picture.shape[0] > picture.shape[1] > 900
    assert has_color(picture, GREY, 50_000)  # right pixels of the error maps
    assert has_color(picture, BLACK, 3_000)  # wrong ones
    for color in CAMVID.colors[:4]:
        assert has_color(picture, color, 100)  # the legend
    assert not has_color(picture, CAMVID.colors[8], 1)  # a class that does not occur


def test_overlays_stay_moderate(tmp_path):
    rows = [row(str(number), 400, 400, seed=number) for number in range(4)]  # noise: nothing compresses worse
    figures.overlays(tmp_path / "small.png", rows[:1], CITYSCAPES)
    figures.overlays(tmp_path / "big.png", rows, CITYSCAPES)
    assert read(tmp_path / "big.png").shape[1] < read(tmp_path / "small.png").shape[1]


def test_overlays_refuse_rows_that_do_not_fit(tmp_path):
    path = tmp_path / "no.png"
    with pytest.raises(ConfsegError, match="at least one image"):
        figures.overlays(path, [], CAMVID)
    with pytest.raises(ConfsegError, match="image b: its predictions are not those of a"):
        figures.overlays(path, [row("a", 32, 32), row("b", 32, 32, titles=("other",))], CAMVID)
    wrong = row("c", 32, 32)
    wrong.predictions["baseline"] = wrong.label[:16]
    with pytest.raises(ConfsegError, match=r"image c: baseline has shape \(16, 32\), the image \(32, 32\)"):
        figures.overlays(path, [wrong], CAMVID)
    assert list(tmp_path.iterdir()) == []


def test_the_users_settings_neither_count_nor_change(tmp_path):
    figures.overlays(tmp_path / "plain.png", [row("a", 32, 32)], CAMVID)
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "savefig.facecolor": "green"}):
        before = dict(matplotlib.rcParams)
        figures.overlays(tmp_path / "own.png", [row("a", 32, 32)], CAMVID)
        assert dict(matplotlib.rcParams) == before
    # not all: Matplotlib 3.7 was once seen to draw 0.7 % of the pixels otherwise the second time; a leak changes 20 %
    assert (read(tmp_path / "plain.png") != read(tmp_path / "own.png")).mean() < 0.02


def test_importing_needs_neither_pyplot_nor_mxnet():
    code = "import sys, gluon_confseg.figures; print([m for m in ('matplotlib.pyplot', 'mxnet') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_heatmap_is_narrower_than_two(tmp_path):
    figures.heatmaps(tmp_path / "one.png", {"a": np.eye(6, dtype=int)}, list("abcdef"), groups=[[0, 2]])
    figures.heatmaps(tmp_path / "two.png", {"a": np.eye(6, dtype=int), "b": np.eye(6, dtype=int)}, list("abcdef"))
    one, two = (cv2.imread(str(tmp_path / name)).shape for name in ("one.png", "two.png"))
    assert one[1] < 0.75 * two[1] and abs(one[0] - two[0]) < 20


def test_heatmap_of_very_many_classes_stays_a_page(tmp_path):
    figures.heatmaps(tmp_path / "many.png", {"a": np.eye(254, dtype=int)}, [f"class {i}" for i in range(254)])
    assert max(cv2.imread(str(tmp_path / "many.png")).shape) < 4000
