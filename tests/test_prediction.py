"""confseg predict: what is written and where, skipped, refused; the official evaluator agrees."""

import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gluon_confseg import figures, prediction
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CAMVID, CITYSCAPES, LabelSet

KINDS = ("labels", "raw", "overlays")


@pytest.fixture
def images(root, tmp_path):
    """Two images in folders, for a test to add to."""
    for number, source in enumerate(sorted((root / "leftImg8bit" / "val").rglob("*.png"))):
        target = tmp_path / "images" / f"part{number}" / f"street.{number}.png"
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    return tmp_path / "images"


def refused(answer, *parts):
    code, _, errors = answer
    lines = [line for line in errors.splitlines() if line.startswith("confseg: error:")]
    assert code == 2 and len(lines) == 1, errors
    for part in parts:
        assert str(part) in lines[0]


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(path):
    return np.array(Image.open(path))


def test_the_official_evaluator_reads_raw_and_finds_our_numbers(confseg, run, root, monkeypatch, tmp_path):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    monkeypatch.setattr(official, "CSUPPORT", False)
    for name, value in (("evalInstLevelScore", False), ("JSONOutput", False), ("quiet", True)):
        monkeypatch.setattr(official.args, name, value)
    monkeypatch.setattr(official.args, "predictionPath", str(tmp_path / "out" / "raw"))
    monkeypatch.setattr(official.args, "predictionWalk", None)
    done = confseg("predict", run, root / "leftImg8bit" / "val", "--output", "out", "--cell", "subnets_ce")
    assert done[0] == 0 and "2 images written" in done[1]
    truth = sorted(map(str, (root / "gtFine" / "val").rglob("*_labelIds.png")))
    found = official.evaluateImgLists(
        [official.getPrediction(official.args, path) for path in truth], truth, official.args
    )

    assert confseg("evaluate", run, "--cell", "subnets_ce", "--output", "counts.json")[0] == 0
    record = json.loads(Path("counts.json").read_text())
    assert record["cells"].keys() == {"subnets_ce"} and record["dataset"]["images"] == 2
    ours = ConfusionMatrix.from_counts(record["cells"]["subnets_ce"]["counts"])
    assert np.count_nonzero(ours.counts.sum(axis=0)) > 2  # classes predicted
    expected = [found["classScores"][name] for name in CITYSCAPES.classes]
    np.testing.assert_array_equal(ours.iou(), expected)
    assert record["cells"]["subnets_ce"]["miou"] == pytest.approx(found["averageScoreClasses"], rel=1e-15)


def test_what_is_written_per_image(confseg, run, images):
    code, _, _ = confseg("predict", run, images, "--output", "out")
    names = ("part0/street.0.png", "part1/street.1.png")
    assert code == 0
    assert written(Path("out")) == sorted(f"{kind}/{name}" for kind in KINDS for name in names)
    for name in names:
        label = Image.open(f"out/labels/{name}")
        assert label.mode == "P" and Image.open(f"out/raw/{name}").mode == "L"
        image, ids = read(images / name), np.array(label)
        assert ids.shape == image.shape[:2]
        np.testing.assert_array_equal(np.array(label.convert("RGB")), CITYSCAPES.colorize(ids))
        np.testing.assert_array_equal(CITYSCAPES.to_train(read(f"out/raw/{name}"), "raw"), ids)
        np.testing.assert_array_equal(read(f"out/overlays/{name}"), figures.overlay(image, ids, CITYSCAPES))


def test_the_default_cell_and_folder_are_the_paper_s_and_the_run_s(confseg, run, images):
    assert confseg("predict", run, images / "part0" / "street.0.png")[0] == 0
    assert written(run / "predictions") == [f"subnets_new/{kind}/street.0.png" for kind in sorted(KINDS)]
    shutil.rmtree(run / "predictions")


def test_run_again_only_writes_what_is_missing_or_would_differ(confseg, run, images):
    def again(*options):
        code, out, errors = confseg("predict", run, images, "--output", "out", *options)
        assert code == 0
        skipped = [line.split()[0] for line in errors.splitlines() if "skipped" in line]
        return int(skipped[0]) if skipped else 0, int(out.split()[0]) if out else 0

    assert again() == (0, 2)
    assert again() == (2, 0)
    Path("out/overlays/part0/street.0.png").unlink()
    assert again() == (1, 1)
    Path("out/labels/part1/street.1.png").write_bytes(b"half")
    assert again() == (1, 1)
    os.utime(images / "part0" / "street.0.png", (1, 1))
    assert again() == (1, 1)
    before = read("out/labels/part0/street.0.png")
    assert again("--cell", "subnet0_ce") == (0, 2)
    assert (before != read("out/labels/part0/street.0.png")).any()
    assert again("--cell", "subnet0_ce", "--flip") == (0, 2)
    assert again("--cell", "subnet0_ce", "--flip", "--scales", "0.5,1") == (0, 2)
    assert again("--cell", "subnet0_ce", "--flip", "--scales", "0.5,1") == (2, 0)
    assert again("--cell", "subnet0_ce", "--flip", "--scales", "0.5,1", "--window", "32x48") == (0, 2)
    assert again("--cell", "subnet0_ce", "--flip", "--scales", "0.5,1", "--window", "32x48") == (2, 0)


def test_every_picture_gets_a_map_of_its_size_and_the_others_are_named(confseg, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = {"dot": (1, 1, 3), "grey": (33, 50), "alpha": (41, 19, 4), "long": (3, 200, 3), "palette": (30, 37)}
    for name, shape in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, shape, np.uint8))
    palette = Image.fromarray(rng.integers(0, 8, (30, 37), np.uint8))
    palette.putpalette(rng.integers(0, 256, 24, np.uint8).tolist())
    palette.save(folder / "palette.png")
    palette.convert("RGB").save(folder / "colours.png")
    cv2.imwrite(str(folder / "deep.png"), np.zeros((20, 20), np.uint16))
    cv2.imwrite(str(folder / "colour16.png"), np.zeros((20, 20, 3), np.uint16))
    (folder / "half.png").write_bytes((folder / "grey.png").read_bytes()[:-20])
    (folder / "text.JPG").write_text("no picture")
    code, out, errors = confseg("predict", run, folder, "--output", "out", "--scales", "0.1,1", "--flip")
    assert code == 1
    assert "6 images written" in out and "4 of 10 images could not be read" in errors
    assert all(f"{folder}/{name}" in errors for name in ("deep.png", "colour16.png", "half.png", "text.JPG"))
    assert errors.count("of 16 bits, not 8 bits a channel; convert it") == 2
    assert (read("out/labels/palette.png") == read("out/labels/colours.png")).all()
    for name, shape in pictures.items():
        assert read(f"out/labels/{name}.png").shape == shape[:2]
    assert len(written(Path("out"))) == 18


@pytest.mark.slow
def test_4096x8192(confseg, run, images):
    """About a minute: whole, and in windows."""
    scene = cv2.imread(str(images / "part0" / "street.0.png"))
    cv2.imwrite("large.png", cv2.resize(scene, (8192, 4096)))
    for options in ((), ("--window", "1024x2048")):
        code, out, _ = confseg("predict", run, "large.png", "--output", "out", "--cell", "subnet0_ce", *options)
        assert code == 0 and "1 images written" in out
        label = read("out/labels/large.png")
        assert label.shape == (4096, 8192) and set(np.unique(label)) <= set(range(19))


def test_user_mistakes(confseg, run, images, tmp_path):
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("in the way")
    (tmp_path / "raw").mkdir()
    shutil.copy(images / "part0" / "street.0.png", tmp_path / "raw" / "a.png")
    refused(confseg("predict", images, images), images, "not a finished run")
    refused(confseg("predict", run, images, "--cell", "subnets"), "'subnets'", "subnet0_ce, subnets_ce")
    refused(confseg("predict", run, empty), empty, "no image found")
    refused(confseg("predict", run, empty / "none.png"), "none.png")
    refused(confseg("predict", run, images, "--output", file / "out"), file)
    refused(confseg("predict", run, images, "--scales", "1,x"), "--scales", "0.75,1,1.25")
    refused(confseg("predict", run, images, "--window", "64"), "--window 64", "--window 512x1024")
    refused(confseg("predict", run, "raw/a.png", "--output", "."), "raw/a.png is where results go")
    refused(confseg("evaluate", tmp_path), "not a finished run")
    refused(confseg("evaluate", run, "--cell", "none"), "'none'", "subnet0_ce")
    refused(confseg("evaluate", run, "--scales", "0"), "--scales 0")
    refused(confseg("evaluate", run, "--split", "middle"), "middle", "val")
    refused(confseg("evaluate", run, "--data-root", empty), empty)
    refused(confseg("evaluate", run, "--output", empty), empty)
    refused(confseg("evaluate", run, "--output", file / "counts.json"), file)
    assert not (run / "predictions").exists()


def test_full_disk(confseg, run, images, monkeypatch):
    def full(picture, path, **options):
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    refused(confseg("predict", run, images, "--output", "out"), "street", "No space left on device")
    assert written(Path("out")) == []


def test_results_never_leave_the_output_folder(confseg, run, images, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for link in ("labels", "raw/part1"):
        path = tmp_path / "out" / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(outside)
        refused(confseg("predict", run, images, "--output", "out"), link, "leads out of out")
        path.unlink()
    target = tmp_path / "out" / "labels" / "part0" / "street.0.png"
    target.parent.mkdir(parents=True)
    target.symlink_to(outside / "victim")
    assert confseg("predict", run, images, "--output", "out")[0] == 0
    assert not list(outside.iterdir()) and not target.is_symlink()
    assert confseg("predict", run, "images/../images/part0/../part1", "--output", "deep/../deep")[0] == 0
    assert written(tmp_path / "deep") == [f"{kind}/street.1.png" for kind in sorted(KINDS)]


def test_images_are_found_sorted_and_under_names_of_their_own(tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.x.jpg", ".hidden.png", "notes.txt", "out/labels/a.png", "out/else/c.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "folder.png").mkdir()
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "nothing")
    found = prediction.find_images([tmp_path / "in"], skip=[tmp_path / "in" / "out" / "labels"])
    assert [source.name for source in found] == ["a.x", "b/1", "b/2", "out/else/c"]
    assert prediction.find_images([tmp_path / "in" / "b" / "2.PNG"])[0].name == "2"
    (tmp_path / "in" / "b" / "1.png").touch()
    with pytest.raises(ConfsegError, match=r"b/1\.jpeg and .*b/1\.png would both be written as b/1\.png"):
        prediction.find_images([tmp_path / "in"])
    with pytest.raises(ConfsegError, match=r"would both be written as 2\.png"):
        prediction.find_images([tmp_path / "in" / "b" / "2.PNG"] * 2)
    (tmp_path / "in" / "folder.jpg").touch()
    (tmp_path / "in" / "folder.png" / "d.png").touch()
    (tmp_path / "in" / "b" / "1.png").unlink()
    with pytest.raises(
        ConfsegError, match=r"folder\.png would be the result of an image and the folder of folder\.png/d"
    ):
        prediction.find_images([tmp_path / "in"])


def test_raw_ids_are_the_data_set_s():
    table = prediction.raw_table(CITYSCAPES)
    assert table[:19].tolist() == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert set(table[19:]) == {255}
    assert prediction.raw_table(CAMVID)[:12].tolist() == [*range(11), 255]
    several = LabelSet("own", ("a", "b", "c"), ((1, 1, 1),) * 3, {9: 0, 4: 0, 7: 1, 255: 255})
    assert prediction.raw_table(several)[:4].tolist() == [4, 7, 255, 255]
