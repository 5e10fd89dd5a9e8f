"""Official-id PNGs: our figures are the official evaluator's; what is wrong with predictions is said in one line."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_prediction
from PIL import Image
from test_import_order import run_blocked

from gluon_confseg import official
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import Cityscapes, synthetic
from gluon_confseg.labels import CITYSCAPES

SIZE = (96, 192)


def corrupted(raw, rng):
    """Ids as a network may predict them: shifted borders, blobs of other ids (void ones too), a frame of unlabelled."""
    height, width = raw.shape
    found = np.roll(raw, rng.integers(-height // 40, height // 40 + 1, 2), (0, 1))
    for _ in range(24):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(1, width // 8)), int(rng.integers(1, height // 8)))
        cv2.ellipse(found, center, axes, float(rng.uniform(0, 180)), 0, 360, int(rng.integers(34)), -1)
    found[: height // 50] = 0
    return found


def predict_badly(root, split, folder, seed=0):
    """Corrupted truth of a whole split, under the images' names below city folders, as confseg predict's raw/."""
    for index, path in enumerate(sorted((root / "gtFine" / split).rglob("*_labelIds.png"))):
        target = folder / path.parent.name / path.name.replace("_gtFine_labelIds", "_leftImg8bit")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(corrupted(np.array(Image.open(path)), np.random.default_rng([seed, index]))).save(target)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    synthetic.ensure("cityscapes", root / "city", train=3, val=4, size=SIZE, seed=2)
    predict_badly(root / "city", "val", root / "raw")
    return root


@pytest.fixture
def root(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def confseg(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command_line


def evaluated(confseg, root, *options):
    return confseg("official", root / "raw", "--data-root", root / "city", "--output", "found.json", *options)


def refused(answer, *parts):
    test_prediction.refused(answer, *parts)
    assert not Path("found.json").exists()


def first(root):
    return sorted((root / "raw").rglob("*.png"))[0]


def check_equal_to_the_evaluator(root, split, record, evaluator):
    """The record's figures against a call of the evaluator's own main path: its search for files and its defaults."""
    options = evaluator.CArgs()
    vars(options).update(vars(evaluator.args), JSONOutput=False, quiet=True)
    options.predictionPath, options.predictionWalk = str(root / "raw"), None
    truth = sorted(map(str, (root / "city" / "gtFine" / split).rglob("*_labelIds.png")))
    found = evaluator.evaluateImgLists([evaluator.getPrediction(options, path) for path in truth], truth, options)
    for key, kind in (("iou", ""), ("official_iou", ""), ("official_iiou", "Inst")):
        expected = {f"class {name}": found[f"class{kind}Scores"][name] for name in CITYSCAPES.classes}
        expected.update({f"category {name}": found[f"category{kind}Scores"][name] for name in CITYSCAPES.categories})
        expected["mean of classes"] = found[f"averageScore{kind}Classes"]
        expected["mean of categories"] = found[f"averageScore{kind}Categories"]
        values = {name: np.nan if value is None else value for name, value in record[key].items()}
        assert list(values) == list(expected)
        np.testing.assert_array_equal(list(values.values()), list(expected.values()))  # exactly, NaN at the same places
    assert record["iou"]["mean of classes"] is not None and record["official_iiou"]["mean of classes"] is not None


@pytest.mark.parametrize("split", ["val", "train"])
def test_every_figure_is_the_official_evaluator_s(confseg, root, split):
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    before = dict(vars(evaluator.args))
    shutil.rmtree(root / "raw")
    predict_badly(root / "city", split, root / "raw", seed=1)
    code, out, _ = evaluated(confseg, root, "--split", split)
    assert code == 0 and "28 IoU figures, and the pixel counts, are equal" in out
    assert vars(evaluator.args) == before
    record = json.loads(Path("found.json").read_text())
    check_equal_to_the_evaluator(root, split, record, evaluator)
    row = next(line for line in out.splitlines() if line.startswith("| class car "))
    expected = [record[key]["class car"] for key in ("iou", "official_iou", "official_iiou")]
    assert [part.strip() for part in row.split("|")[2:-1]] == [f"{100 * value:.2f}" for value in expected]


@pytest.mark.slow  # a minute on two shared cores
def test_agreement_on_twenty_images_of_the_benchmark_s_size(confseg, tmp_path):
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    root = tmp_path / "large"
    synthetic.ensure("cityscapes", root / "city", train=1, val=20, size=(1024, 2048), seed=0)
    predict_badly(root / "city", "val", root / "raw")
    code, out, _ = evaluated(confseg, root)
    assert code == 0 and "val, 20 images" in out and "28 IoU figures, and the pixel counts, are equal" in out
    check_equal_to_the_evaluator(root, "val", json.loads(Path("found.json").read_text()), evaluator)


def test_perfect_predictions_score_one(confseg, root):
    for path in (root / "raw").rglob("*.png"):
        truth = root / "city/gtFine/val" / path.parent.name / path.name.replace("leftImg8bit", "gtFine_labelIds")
        shutil.copy(truth, path)
    assert evaluated(confseg, root)[0] == 0
    record = json.loads(Path("found.json").read_text())
    assert set(record["iou"].values()) <= {1.0, None}
    assert record["iou"]["mean of classes"] == record["iou"]["mean of categories"] == 1.0


def test_scores_by_hand():
    counts = np.zeros((34, 34), np.int64)
    counts[7, [7, 8, 9]] = 6, 3, 1  # road: taken for sidewalk (same category), and for parking, which is not evaluated
    counts[8, 8] = 2
    counts[26, [26, 29, 24]] = 5, 1, 4  # car: a caravan is not evaluated, so not a vehicle either
    found = official.scores(ConfusionMatrix.from_counts(counts))
    classes = {name: value for name, value in found.classes.items() if not np.isnan(value)}
    assert classes == {"road": 6 / 10, "sidewalk": 2 / 5, "car": 5 / 10, "person": 0.0}
    categories = {name: value for name, value in found.categories.items() if not np.isnan(value)}
    assert categories == {"flat": 11 / 12, "vehicle": 5 / 10, "human": 0.0}
    assert found.mean_class == pytest.approx((0.6 + 0.4 + 0.5) / 4) and found.mean_category == (11 / 12 + 0 + 0.5) / 3


def test_without_the_evaluator_ours_and_how_to_get_it(confseg, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts.evaluation", None)
    code, out, _ = evaluated(confseg, root)
    assert code == 0 and official.INSTALL in out and "official IoU" not in out
    record = json.loads(Path("found.json").read_text())
    assert record["official_iou"] is record["official_iiou"] is None and record["iou"]["class road"] > 0


def test_without_instance_ids_no_iiou(confseg, root):
    next((root / "city/gtFine/val").rglob("*_instanceIds.png")).unlink()
    code, out, _ = evaluated(confseg, root)
    assert code == 0 and "iIoU is left out: 1 of 4 instanceIds are missing" in out and "official iIoU" not in out
    record = json.loads(Path("found.json").read_text())
    assert record["official_iiou"] is None and record["official_iou"] == record["iou"]


def test_truth_in_train_ids_gives_our_figures_only(confseg, root):
    assert evaluated(confseg, root)[0] == 0
    expected = json.loads(Path("found.json").read_text())["iou"]
    for path in (root / "city/gtFine/val").rglob("*_labelIds.png"):
        label = CITYSCAPES.to_train(np.array(Image.open(path)), "truth")
        Image.fromarray(label).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        path.unlink()
    code, out, _ = evaluated(confseg, root)
    assert code == 0 and "labelTrainIds" in out
    record = json.loads(Path("found.json").read_text())
    assert record["iou"] == expected and record["official_iou"] is None


def test_a_difference_is_said_and_fails(confseg, root, monkeypatch):
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    monkeypatch.setattr(evaluator, "getIouScoreForCategory", lambda *_: 0.5)
    code, out, _ = evaluated(confseg, root)
    assert code == 1 and "DIFFER in: category flat, " in out and "pixel counts" not in out


def test_what_makes_the_evaluator_give_up_is_one_line(confseg, root):
    pytest.importorskip("cityscapesscripts")
    path = next((root / "city/gtFine/val").rglob("*_labelIds.png"))
    label = np.array(Image.open(path))
    label[0, 0] = 255  # a licence plate, -1: in our table, not in the evaluator's
    Image.fromarray(label).save(path)
    refused(evaluated(confseg, root), "the official evaluator gave up", "255")


def test_train_ids_are_recognised(confseg, root):
    for path in (root / "raw").rglob("*.png"):
        label = CITYSCAPES.to_train(np.array(Image.open(path)), "raw")
        Image.fromarray(np.where(label == 255, 0, label).astype(np.uint8)).save(path)
    refused(evaluated(confseg, root), root / "raw", "train ids")
    label[0, 0] = 255
    Image.fromarray(label).save(first(root))
    refused(evaluated(confseg, root), first(root), "255", "look like train ids")


def test_no_or_other_or_several_predictions(confseg, root):
    kept = first(root)
    shutil.copy(kept, root / "raw" / "notes.png")
    assert "1 PNGs that belong to no image of cityscapes val were skipped" in evaluated(confseg, root)[1]
    Path("found.json").unlink()
    refused(evaluated(confseg, root, "--split", "train"), root / "raw", "no prediction", "northport_000000_000019*.png")
    shutil.copytree(root / "raw", root / "raw" / "raw")
    refused(evaluated(confseg, root), "4 images", "several predictions", kept, f"did you mean {root / 'raw' / 'raw'}?")
    shutil.rmtree(root / "raw" / "raw")
    kept.unlink()
    refused(
        evaluated(confseg, root), "1 of 4 images", "have no prediction", kept.name[: len("westhaven_000000_000019")]
    )
    shutil.rmtree(root / "raw")
    refused(evaluated(confseg, root), "no folder", root / "raw")
    (root / "raw").mkdir()
    refused(evaluated(confseg, root), root / "raw", "it has no PNG")


def test_bad_prediction_files(confseg, root):
    path = first(root)
    good = path.read_bytes()
    ids = np.array(Image.open(path))
    path.write_bytes(good[:-30])
    refused(evaluated(confseg, root), path, "truncated")
    Image.fromarray(CITYSCAPES.colorize(np.zeros_like(ids))).save(path)
    refused(evaluated(confseg, root), path, "RGB")
    Image.fromarray(ids[:-1]).save(path)
    refused(evaluated(confseg, root), path, "192x95", "192x96")
    ids[3, 5] = 34
    Image.fromarray(ids).save(path)
    refused(evaluated(confseg, root), path, "34 are no official ids", "0..33")


def test_data_set_and_output(confseg, root, monkeypatch, tmp_path):
    refused(confseg("official", root / "raw"), "--data-root", "CITYSCAPES_DATASET")
    refused(evaluated(confseg, root, "--split", "test"), "test")
    refused(evaluated(confseg, root, "--split", "vall"), "vall", "val")
    refused(confseg("official", root / "raw", "--data-root", root / "city", "--output", tmp_path), "is a folder")
    monkeypatch.setenv("CITYSCAPES_DATASET", str(root / "city"))
    assert confseg("official", root / "raw")[0] == 0
    assert not list(tmp_path.glob("*.json"))


def test_needs_neither_mxnet_nor_the_evaluator():
    code = "from gluon_confseg.official import evaluate_official"
    assert run_blocked(code, "mxnet", "gluoncv", "cityscapesscripts") == ""


def test_the_join_is_the_evaluator_s_own(drawn):
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    options = evaluator.CArgs()
    options.predictionPath, options.predictionWalk = str(drawn / "raw"), None
    dataset = Cityscapes(drawn / "city", "val")
    paths, notes = official.find_predictions(drawn / "raw", dataset)
    labels = [str(dataset.label_path(index)) for index in range(len(dataset))]
    assert [evaluator.getPrediction(options, label) for label in labels] == list(map(str, paths)) and not notes
