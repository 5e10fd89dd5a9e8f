"""`confseg confusion` and `confseg groups` as typed, without MXNet; and the numbers of a comparison, by hand."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluon_confseg import comparing
from gluon_confseg.confusion import ConfusionMatrix

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = "import sys\nfor name in ('mxnet', 'gluoncv', 'torch', 'cv2'): sys.modules[name] = None\n"
TRUTH = [[0, 0, 0, 0, 1, 1, 2, 255], [0, 0, 0, 0, 1, 1, 2, 2]]
BEFORE = [[0, 0, 0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1, 1, 2]]
AFTER = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 2]]


@pytest.fixture
def folders(tmp_path):
    """Two images, in a folder each of truth, first and second predictions, and a class list."""
    for folder, rows in (("truth", TRUTH), ("first", BEFORE), ("second", AFTER)):
        (tmp_path / folder).mkdir()
        for number, row in enumerate(rows):
            Image.fromarray(np.array([row], np.uint8)).save(tmp_path / folder / f"street {number}.png")
    (tmp_path / "classes.txt").write_text("road\nside, walk\nsky\n")
    return tmp_path


def confseg(folder, *arguments, code=0):
    program = BLOCKED + "from gluon_confseg.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr.splitlines()[-1]


def class_lines(printed):
    """The cells of the printed table of classes, by class."""
    lines = printed.split("most confused")[0].split("confused less")[0].splitlines()
    return {line.split("  ")[0]: line.split() for line in lines}


def table(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


def test_confusion_and_groups(folders):
    printed = confseg(folders, "confusion", "first", "truth", "--classes", "classes.txt", "--output", "out")
    assert "2 images, 15 labelled pixels" in printed
    lines = class_lines(printed)
    assert lines["road"][1:] == ["53.33", "60.00", "75.00", "75.00"]  # 6 of 8; 6 / (8 + 2)
    assert lines["side, walk"][2:] == ["26.67", "28.57", "50.00", "40.00"]  # 2 of 4; 2 / (4 + 5 - 2)
    assert lines["mean"][1:3] == ["51.75", "63.89"]  # the third: 2 of 3; 2 / 3
    assert "pixel accuracy 66.67 %" in printed
    assert table(folders / "out/confusion.csv") == [
        ["truth", "road", "side, walk", "sky"],
        ["road", "6", "2", "0"],
        ["side, walk", "2", "2", "0"],
        ["sky", "0", "1", "2"],
    ]
    assert ConfusionMatrix.load(folders / "out/confusion.npz").counts.tolist() == [[6, 2, 0], [2, 2, 0], [0, 1, 2]]
    assert [row[:3] for row in table(folders / "out/pairs.csv")] == [
        ["truth", "prediction", "pixels"],
        ["side, walk", "road", "2"],
        ["sky", "side, walk", "1"],
        ["road", "side, walk", "2"],
    ]
    assert [float(row[2]) for row in table(folders / "out/classes.csv")[1:]] == pytest.approx([6 / 10, 2 / 7, 2 / 3])
    with Image.open(folders / "out/confusion.png") as picture:
        assert picture.width > 300
    for matrix in ("confusion.npz", "confusion.csv"):
        printed = confseg(folders, "groups", f"out/{matrix}", "--max-group-size", "2")
        assert "group 1: road, side, walk\n" in printed and "side, walk -> road 50.0 %" in printed
    assert (folders / "out/groups/groups.yaml").is_file() and (folders / "out/groups/weights.npz").is_file()


def test_before_and_after(folders):
    arguments = ["second", "truth", "--classes", "classes.txt", "--output", "out", "--before", "first"]
    printed = confseg(folders, "confusion", *arguments)
    assert table(folders / "out/pairs.csv")[1:] == [
        ["road", "side, walk", "2", "0", "-2", "0.25", "0.0"],
        ["side, walk", "road", "2", "1", "-1", "0.5", "0.25"],
        ["sky", "side, walk", "1", "1", "0", repr(1 / 3), repr(1 / 3)],
        ["sky", "road", "0", "1", "1", "0.0", repr(1 / 3)],
    ]
    less, more = printed.split("confused less")[1].split("confused more")
    assert "side, walk" in less and "-2" in less and "sky" not in less
    assert "+1" in more and "sky" in more and "side, walk" not in more
    # road: 8 / 10 after, 6 / 10 before; sky: 1 / 3 after, 2 / 3 before
    lines = class_lines(printed)
    assert lines["road"][-2:] == ["60.00", "+20.00"] and lines["sky"][-2:] == ["66.67", "-33.33"]
    assert "pixel accuracy 80.00 %, before 66.67 %" in printed
    header, road, *_ = table(folders / "out/classes.csv")
    assert header[-2:] == ["iou_before", "iou_change"] and float(road[-1]) == pytest.approx(0.2)
    assert table(folders / "out/before.csv")[1] == ["road", "6", "2", "0"]
    assert ConfusionMatrix.load(folders / "out/before.npz").counts.sum() == 15


def test_swapping_before_and_after_turns_the_signs(folders):
    one, two = (ConfusionMatrix.from_counts(np.random.default_rng(seed).integers(0, 50, (4, 4))) for seed in (0, 1))
    there, back = (comparing.pair_rows(*pair) for pair in ((one, "abcd", two), (two, "abcd", one)))
    assert sorted((row[:2], row[4]) for row in there[1:]) == sorted((row[:2], -row[4]) for row in back[1:])
    assert [row[4] for row in there[1:]] == sorted(row[4] for row in there[1:])


def test_classes_that_do_not_occur(folders):
    (folders / "classes.txt").write_text("road\nwalk\nsky\nmoon\n")
    printed = confseg(folders, "confusion", "first", "truth", "--classes", "classes.txt", "--output", "out")
    moon = next(line for line in printed.splitlines() if line.startswith("moon"))
    assert moon.split() == ["moon", "0.00", "-", "-", "-"]
    assert table(folders / "out/classes.csv")[4] == ["moon", "0", "", "", ""]


def test_perfect_predictions(folders):
    printed = confseg(folders, "confusion", "truth", "truth", "--classes", "classes.txt", "--output", "out")
    assert "no pixel is confused" in printed and "pixel accuracy 100.00 %" in printed
    assert "no group" in confseg(folders, "groups", "out/confusion.npz")


def test_mistakes_are_one_line(folders):
    def refused(*arguments):
        return confseg(folders, "confusion", *arguments, "--output", "out", code=2)

    assert "no folder nowhere" in refused("nowhere", "truth", "--classes", "classes.txt")
    assert "--classes vox" in refused("first", "truth", "--classes", "vox")
    (folders / "first" / "street 1.png").unlink()
    assert "1 of 2" in refused("first", "truth", "--classes", "classes.txt")
    Image.fromarray(np.array([[9] * 8], np.uint8)).save(folders / "first" / "street 1.png")
    assert "street 1.png" in refused("first", "truth", "--classes", "classes.txt")
    (folders / "first" / "street 1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "street 1.png" in refused("first", "truth", "--classes", "classes.txt")
    assert not (folders / "out").exists()
    assert "cannot read none.csv" in confseg(folders, "groups", "none.csv", code=2)


def test_starting_is_light():
    code = "import sys\nfrom gluon_confseg import comparing\n"
    code += "assert not {'mxnet', 'cv2', 'matplotlib', 'scipy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
