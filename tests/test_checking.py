"""confseg check-data: every planted defect is found, once, and named; a clean data set is called clean."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gluon_confseg import checking
from gluon_confseg.data import base
from gluon_confseg.places import CONFIGS

CLASSES = ("a", "b", "c")
SIZE = (6, 8)


def write_image(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_label(path, values=(0, 1, 2, 255), size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)


@pytest.fixture
def data(tmp_path):
    """A clean data set of two folders per split, 4 + 2 images, and its config."""
    root = tmp_path / "data"
    for split, count, first in (("train", 4, 0), ("val", 2, 100)):
        for index in range(count):
            write_image(root / "images" / split / f"{split}{index}.png", first + index)
            write_label(root / "labels" / split / f"{split}{index}.png")
    folders = {kind: f"{{train: {kind}/train, val: {kind}/val}}" for kind in ("images", "labels")}
    (root / "dataset.yaml").write_text(
        f"name: own\nimages: {folders['images']}\nlabels: {folders['labels']}\nclasses: [{', '.join(CLASSES)}]\n"
    )
    base_file = CONFIGS.resolve() / "camvid.yaml"
    (tmp_path / "own.yaml").write_text(f"_base_: {base_file}\ndata: {{name: folders}}\n")
    return root


@pytest.fixture
def check(command_line, monkeypatch, tmp_path):
    """Run the command in this process: (exit code, output, errors, problems by kind: (split, text))."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        path = tmp_path / "found.json"
        code, output, errors = command_line("check-data", "--output", path, *arguments)
        tree = json.loads(path.read_text()) if path.is_file() else {"problems": {}}
        found = {kind: [(p["split"], p["text"]) for p in each] for kind, each in tree["problems"].items()}
        return code, output, errors, found

    return call


@pytest.fixture
def check_own(check, data):
    return lambda *arguments: check("own.yaml", "--data-root", data, *arguments)


def test_clean(check_own, tmp_path):
    code, output, errors, found = check_own("--workers", 1)
    assert code == 0 and found == {} and "no problems found" in output
    assert "checking train" in errors and "checking val" in errors
    tree = json.loads((tmp_path / "found.json").read_text())
    assert tree["clean"] and tree["dataset"]["name"] == "own"
    train = tree["splits"]["train"]
    assert (train["images"], train["labels_read"], train["sizes"]) == (4, 4, {"8x6": 4})
    assert train["classes"]["c"] == {"pixels": 4 * 12, "images": 4}
    assert train["classes"]["(ignore)"] == {"pixels": 4 * 12, "images": 4}
    (row,) = [line.split() for line in output.splitlines() if line.startswith("c ")]
    assert row == ["c", "48", "25.00", "4", "24", "25.00", "2"]


@pytest.mark.parametrize("workers", [1, 3])
def test_all_defects_at_once(check_own, data, workers):
    images, labels = data / "images", data / "labels"
    (labels / "train/train0.png").unlink()
    write_label(labels / "train/stray.png")
    (images / "train/train1.png").write_bytes((images / "train/train1.png").read_bytes()[:-20])
    write_label(labels / "train/train2.png", (0, 1, 7, 9))
    write_label(labels / "train/train3.png", (255,))
    write_image(images / "train/train4.png", 4)
    write_label(labels / "train/train4.png", size=(8, 6))
    write_image(images / "train/train5.png", 5)
    (labels / "train/train5.png").write_bytes(b"")
    write_image(images / "train/train6.png", 100)  # val0's
    write_image(images / "val/val2.png", 101)  # val1's
    for path in ("train/train6.png", "val/val2.png"):
        write_label(labels / path)
    code, output, _, found = check_own("--workers", workers)
    assert code == 1 and "9 problems found" in output
    unreadable = found.pop(base.UNREADABLE)
    assert [(split, text.split(":")[0]) for split, text in unreadable] == [
        ("train", str(images / "train/train1.png")),
        ("train", str(labels / "train/train5.png")),
    ]
    assert "truncated" in unreadable[0][1]
    assert found == {
        base.NO_LABEL: [("train", str(images / "train/train0.png"))],
        base.NO_IMAGE: [("train", str(labels / "train/stray.png"))],
        checking.UNKNOWN_IDS: [("train", f"{labels / 'train/train2.png'}: 7, 9")],
        checking.ALL_IGNORE: [("train", str(labels / "train/train3.png"))],
        checking.OTHER_SIZE: [
            ("train", f"{labels / 'train/train4.png'} is 6x8, {images / 'train/train4.png'} 8x6"),
        ],
        checking.BETWEEN: [("train and val", f"{images / 'train/train6.png'} = {images / 'val/val0.png'}")],
        checking.WITHIN: [("val", f"{images / 'val/val1.png'} = {images / 'val/val2.png'}")],
    }


def test_counts_go_on_past_bad_files(check_own, data, tmp_path):
    write_label(data / "labels/train/train2.png", (0, 1, 7, 7))
    (data / "labels/train/train3.png").write_bytes(b"")
    assert check_own()[0] == 1
    train = json.loads((tmp_path / "found.json").read_text())["splits"]["train"]
    assert (train["images"], train["labels_read"]) == (4, 3)
    assert train["classes"]["c"] == {"pixels": 2 * 12, "images": 2}
    assert train["classes"]["(unknown ids)"] == {"pixels": 24, "images": 1}


def test_classes_that_never_occur(check_own, data):
    for index in range(2):
        write_label(data / f"labels/val/val{index}.png", (0, 255))
    assert check_own()[3] == {checking.ABSENT: [("val", "b"), ("val", "c")]}
    assert check_own("--split", "train")[0] == 0


def test_a_label_set_that_is_all_ignore(check_own, data):
    for index in range(2):
        write_label(data / f"labels/val/val{index}.png", (255,))
    found = check_own()[3]
    assert found[checking.ABSENT] == [("val", "all 3")] and len(found[checking.ALL_IGNORE]) == 2


def test_every_label_missing(check_own, data):
    shutil.rmtree(data / "labels/val")
    (data / "labels/val").mkdir()
    code, _, _, found = check_own()
    assert code == 1 and len(found[base.NO_LABEL]) == 2 and list(found) == [base.NO_LABEL]


def test_a_split_without_labels(check_own, data):
    text = (data / "dataset.yaml").read_text()
    (data / "dataset.yaml").write_text(text.replace("val: labels/val", ""))
    code, output, _, found = check_own("--split", "train", "--split", "val", "--split", "val")
    assert code == 0 and found == {}
    assert ["val", "2", "0", "8x6", "(2)"] in [line.split() for line in output.splitlines()]


def test_ids_in_both_splits_are_refused_as_a_run_would(check_own, data):
    write_image(data / "images/val/train0.png", 500)
    write_label(data / "labels/val/train0.png")
    assert check_own()[3] == {base.SHARED: [("train", "train0")]}
    assert check_own("--split", "val")[0] == 0


def test_files_of_one_name(check_own, data):
    write_image(data / "images/train/train0.jpg", 600)
    found = check_own()[3]
    images = data / "images/train"
    assert found == {base.SAME_NAME: [("train", f"{images / 'train0.jpg'} and {images / 'train0.png'}")]}


def test_the_first_20_of_a_kind_are_printed(check_own, data):
    for index in range(23):
        write_label(data / f"labels/train/stray{index:02}.png")
    _, output, _, found = check_own()
    assert len(found[base.NO_IMAGE]) == 23 and f"{base.NO_IMAGE}: 23" in output
    assert "stray19.png" in output and "stray20.png" not in output and "and 3 more" in output


def test_a_file_name_that_is_no_text(check_own, data):
    write_label(data / "labels/train/stray\udcff.png")
    code, output, _, _ = check_own()
    assert code == 1 and r"stray\udcff.png" in output


def test_three_copies_are_one_problem(check_own, data):
    for index in (1, 2):
        shutil.copy(data / "images/train/train0.png", data / f"images/train/train{index}.png")
    ((split, text),) = check_own()[3][checking.WITHIN]
    assert split == "train" and text.count(" = ") == 2


def test_cityscapes_whose_looked_at_labels_are_damaged(check, tmp_path):
    root = tmp_path / "cityscapes"
    for split in ("train", "val"):
        for index in range(3):
            stem = f"{split}/x/x_{split}_{index}"
            # every class, by its train id; 200 is in neither encoding
            write_label(root / f"gtFine/{stem}_gtFine_labelTrainIds.png", (*range(19), 255), (4, 5))
            write_image(root / f"leftImg8bit/{stem}_leftImg8bit.png", index + 10 * len(split), (4, 5))
    labels = root / "gtFine/train/x"
    (labels / "x_train_0_gtFine_labelTrainIds.png").write_bytes(b"no image")
    write_label(labels / "x_train_1_gtFine_labelTrainIds.png", (*range(19), 200), (4, 5))
    code, _, _, found = check("cityscapes", "--data-root", root)
    assert code == 1
    ((_, unreadable),), ((_, unknown),) = found.pop(base.UNREADABLE), found.pop(checking.UNKNOWN_IDS)
    assert "x_train_0" in unreadable and unknown.endswith("x_train_1_gtFine_labelTrainIds.png: 200")
    assert found == {}  # not read as raw ids, of which 7 of 19 would be ignored


def test_camvid_lists(check, tmp_path):
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        for index in range(3):
            write_image(root / f"{split}/{split}{index}.png", index + 10 * len(split), (3, 4))
            write_label(root / f"{split}annot/{split}{index}.png", range(12), (3, 4))
        numbers = (0, 1, 2, 2, 3) if split == "train" else (0, 1, 2)
        lines = [f"/x/{split}/{split}{i}.png /x/{split}annot/{split}{i}.png\n" for i in numbers]
        (root / f"{split}.txt").write_text("".join(lines))
    (root / "trainannot/train1.png").unlink()
    code, _, _, found = check("camvid", "--data-root", root)
    assert code == 1
    assert found == {
        base.MISSING: [("train", name) for name in ("trainannot/train1", "train/train3", "trainannot/train3")],
        base.SAME_NAME: [("train", f"{root / 'train/train2.png'} and {root / 'train/train2.png'}")],
    }


def test_voc_with_validation_images_in_training(check, tmp_path):
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name in ("t0", "t1", "t2", "v0", "v1"):
        write_image(root / f"JPEGImages/{name}.png", 10 * ord(name[0]) + int(name[1]), (4, 6))
        write_label(root / f"SegmentationClass/{name}.png", (*range(21), 255), (4, 6))
    (lists / "train.txt").write_text("t0\nv0\n")
    (lists / "trainaug.txt").write_text("t0\nt1\nt2\nt3\nv0\n")
    (lists / "val.txt").write_text("v0\nv1\n")
    sbd = root / "benchmark_RELEASE/dataset/cls"
    sbd.mkdir(parents=True)
    savemat(sbd / "t1.mat", {"GTcls": {"Segmentation": np.resize(np.arange(22, dtype=np.uint8), (4, 6))}})
    (sbd / "t2.mat").write_bytes(b"no matrix")
    code, _, _, found = check("voc", "--data-root", root)
    assert code == 1
    assert found.pop(base.SHARED) == [("trainaug", "v0")]
    assert found.pop(base.MISSING) == [("trainaug", "t3")]
    assert found.pop(base.NO_LABEL) == [("trainaug", "t3")]
    assert found.pop(checking.UNKNOWN_IDS) == [("trainaug", f"{sbd / 't1.mat'}: 21")]
    ((_, unreadable),) = found.pop(base.UNREADABLE)
    assert unreadable.startswith(str(sbd / "t2.mat"))
    image = root / "JPEGImages/v0.png"
    assert found == {checking.BETWEEN: [("trainaug and val", f"{image} = {image}")]}


def test_built_in_images(check, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change = "data: {built_in: {train: 12, val: 8, size: [64, 128]}}"
    (tmp_path / "small.yaml").write_text(f"_base_: {CONFIGS.resolve()}/cityscapes_builtin.yaml\n{change}\n")
    (tmp_path / "city.yaml").write_text(f"_base_: {CONFIGS.resolve()}/cityscapes.yaml\nwithout_data: small.yaml\n")
    code, output, errors, found = check("city.yaml")
    assert code == (1 if found else 0) and set(found) <= {checking.ABSENT}
    assert "built-in data" in errors and "128x64 (12)" in output


def test_mistakes_of_the_user(check, check_own, data, tmp_path):
    for arguments, message in (
        (("nothing",), "there is no config 'nothing'"),
        (("camvid", "--data-root", tmp_path / "none"), "none; give the data set's root folder"),
        (("own.yaml",), "needs --data-root"),
        (("own.yaml", "--data-root", data, "--split", "x"), "has no split 'x'"),
        (("own.yaml", "--data-root", data, "--output", data), "is a folder; give the name of a JSON file"),
    ):
        code, output, errors, _ = check(*arguments)
        assert code == 2 and output == "" and message in errors
    assert check_own("--workers", 0)[0] == 2


def test_memory_does_not_grow_with_the_images(data, capsys):
    side = 100
    for name in ("images/train", "labels/train"):
        shutil.rmtree(data / name)

    def peak(count):
        for index in range(count):
            write_image(data / f"images/train/{index}.png", index, (side, side))
            write_label(data / f"labels/train/{index}.png", size=(side, side))
        tracemalloc.start()
        try:
            assert checking.check_data(data.parent / "own.yaml", data_root=data, workers=1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is imported and cached once
    few, many = peak(10), peak(110)
    assert many - few < 100 * side * side  # a record is 1.2 to 2.6 kB (Python 3.13); an image alone would be 30 kB
