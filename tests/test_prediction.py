"""A finished run on images and splits: what is written and where, resumed, refused; the official evaluator agrees."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_end_to_end import command

from gluon_confseg import cli, figures, prediction, results
from gluon_confseg.backend import mx
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import open_dataset
from gluon_confseg.data.transforms import normalize
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup
from gluon_confseg.inference import Manner, Predictor, View
from gluon_confseg.labels import CAMVID, CITYSCAPES, LabelSet
from gluon_confseg.nn import Fusion, Subnet, Upsample, get_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ("labels", "raw", "overlays")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """A tiny finished run on the built-in street scenes."""
    folder = tmp_path_factory.mktemp("cityscapes") / "run"
    kept = {k: v for k, v in os.environ.items() if k != "CITYSCAPES_DATASET"}
    made = subprocess.run(
        command("cityscapes", folder, "--cpu"),
        env={**kept, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def root(run, cache):
    (found,) = (cache / "gluon_confseg").iterdir()
    return found


@pytest.fixture
def confseg(monkeypatch, capfd, cache, tmp_path):
    """Run the command in this process: (exit code, standard output, standard error)."""
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["confseg", *map(str, arguments), "--cpu"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return stop.value.code or 0, printed.out, printed.err

    return call


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


def test_every_picture_gets_a_map_of_its_size_and_the_others_are_named(confseg, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = {"dot": (1, 1, 3), "grey": (33, 50), "alpha": (41, 19, 4), "long": (3, 200, 3)}
    for name, shape in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, shape, np.uint8))
    cv2.imwrite(str(folder / "deep.png"), np.zeros((20, 20), np.uint16))
    (folder / "half.png").write_bytes((folder / "grey.png").read_bytes()[:-20])
    (folder / "text.JPG").write_text("no picture")
    code, out, errors = confseg("predict", run, folder, "--output", "out", "--scales", "0.1,1", "--flip")
    assert code == 1
    assert "4 images written" in out and "3 of 7 images could not be read" in errors
    assert all(f"{folder}/{name}" in errors for name in ("deep.png", "half.png", "text.JPG"))
    for name, shape in pictures.items():
        assert read(f"out/labels/{name}.png").shape == shape[:2]
    assert len(written(Path("out"))) == 12


def test_user_mistakes(confseg, run, images, tmp_path):
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("in the way")
    refused(confseg("predict", images, images), images, "not a finished run")
    refused(confseg("predict", run, images, "--cell", "subnets"), "'subnets'", "subnet0_ce, subnets_ce")
    refused(confseg("predict", run, empty), empty, "no image found")
    refused(confseg("predict", run, empty / "none.png"), "none.png")
    refused(confseg("predict", run, images, "--output", file / "out"), file)
    for scales in ("", "0", "1,x", "nan", "inf", "-1", "1,1.0", "1e9", "1,"):
        refused(confseg("predict", run, images, "--scales", scales), "--scales", "0.75,1,1.25")
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


def test_evaluate_gives_the_run_s_own_numbers_and_writes_nothing(confseg, run):
    before = written(run)
    code, out, errors = confseg("evaluate", run)
    found = results.read(run / "results.json")
    assert code == 0 and "built-in data" in errors
    assert "cityscapes val, 2 images (data root: built-in), scales 1, without flip" in out
    for cell in found.cells:
        row = next(line for line in out.splitlines() if line.startswith(f"| {cell.key} "))
        assert [part.strip() for part in row.split("|")[2:4]] == [cell.title, f"{100 * cell.miou:.2f}"]
    road = next(line for line in out.splitlines() if line.startswith("| road "))
    assert [part.strip() for part in road.split("|")[3:-1]] == [f"{100 * cell.iou[0]:.2f}" for cell in found.cells]
    assert written(run) == before and not list(Path().iterdir())


def test_evaluate_another_split_at_several_scales(confseg, run, root):
    options = ("--split", "train", "--data-root", root, "--cell", "subnets_new", "--cell", "subnet0_ce")
    assert confseg("evaluate", run, *options, "--output", "one.json")[0] == 0
    code, out, _ = confseg("evaluate", run, *options, "--scales", "0.5,1.5", "--flip", "--output", "several.json")
    assert code == 0 and "train, 6 images (data root: option), scales 0.5, 1.5, with flip" in out
    one, several = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "several"))
    assert (
        several["scales"] == [0.5, 1.5] and several["flip"] and list(several["cells"]) == ["subnets_new", "subnet0_ce"]
    )
    assert one["dataset"] == several["dataset"]
    assert one["dataset"]["fingerprint"] == open_dataset("cityscapes", root, "train").fingerprint()
    truth = {str(np.sum(cell["counts"], axis=1)) for each in (one, several) for cell in each["cells"].values()}
    assert len(truth) == 1
    assert one["cells"] != several["cells"]


def test_built_in_images_do_not_stand_in_for_the_user_s(confseg, run, root, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    record = json.loads((run / "results.json").read_text())
    record["dataset"]["source"] = "variable"
    (tmp_path / "copy" / "results.json").write_text(json.dumps(record))
    refused(confseg("evaluate", "copy"), "copy", "--data-root")
    assert confseg("evaluate", "copy", "--data-root", root, "--cell", "subnet0_ce")[0] == 0
    classes = json.loads((run / "labels.json").read_text())
    classes["classes"][0] = "street"
    (tmp_path / "copy" / "labels.json").write_text(json.dumps(classes))
    refused(confseg("evaluate", "copy", "--data-root", root), "classes are not those")


def _without_a_favourite(encoder, subnet):
    """A random head prefers one class everywhere: take each class's mean score off."""
    logits = subnet(*subnet.inputs(encoder(mx.nd.array(normalize(colourful(), MEAN, STD)[None]))))
    bias = [value for name, value in subnet.collect_params().items() if name.endswith("bias")][-1]
    bias.set_data(-logits.mean(axis=(0, 2, 3)))


@pytest.fixture(scope="module")
def network():
    mx.random.seed(2)
    encoder = get_encoder("small", ctx=[mx.cpu()])
    subnets = [Subnet(outputs, channels=8, dilation=2) for outputs in (11, 4)]
    for subnet in subnets:
        subnet.initialize(mx.init.Normal(1))
        _without_a_favourite(encoder, subnet)
    fusion = Fusion([ClassGroup((2, 5, 7), "test")], 11)
    fusion.initialize()
    return encoder, subnets, fusion


def predictor(network, scale=1.0, **manner):
    encoder, subnets, fusion = network
    views = {"both": View(("zero", "one"), fusion), "alone": View(("zero",))}
    named = dict(zip(("zero", "one"), subnets))
    options = {"scale": scale, "manner": Manner(**manner), "mean": MEAN, "std": STD, "device": mx.cpu()}
    return Predictor(encoder, named, views, **options)


def colourful():
    """Patches of colours, 48x80."""
    patches = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)
    return cv2.resize(patches, (80, 48), interpolation=cv2.INTER_NEAREST)


def test_one_scale_is_a_working_scale_and_multiplies_it(network):
    image = colourful()
    for flip in (False, True):
        plain = predictor(network, scale=0.5, flip=flip)(image)
        for other in (
            predictor(network, scale=1.0, scales=(0.5,), flip=flip),
            predictor(network, scale=0.25, scales=(2,), flip=flip),
        ):
            for key, label in other(image).items():
                np.testing.assert_array_equal(label, plain[key])


@pytest.mark.parametrize("flip", [False, True])
def test_several_scales_add_probabilities_at_the_image_s_size(network, flip):
    image = colourful()
    encoder, subnets, fusion = network
    pictures = [cv2.resize(image, (40, 24), interpolation=cv2.INTER_AREA), image]
    pictures.append(cv2.resize(image, (120, 72), interpolation=cv2.INTER_LINEAR))

    def probabilities(picture, head):
        x = mx.nd.array(normalize(np.ascontiguousarray(picture), MEAN, STD)[None])
        features = encoder(x)
        logits = [subnet(*subnet.inputs(features)) for subnet in subnets]
        scores = fusion(*logits) if head == "both" else logits[0]
        upsample = Upsample(11, encoder.output_stride)
        upsample.initialize()
        found = upsample(scores, x).softmax(axis=1)
        return mx.nd.contrib.BilinearResize2D(found, height=48, width=80, align_corners=False).asnumpy()[0]

    found = predictor(network, scale=1.0, scales=(0.5, 1, 1.5), flip=flip)(image)
    single = predictor(network, scale=1.0, flip=flip)(image)
    for head in ("both", "alone"):
        expected = sum(probabilities(picture, head) for picture in pictures)
        if flip:
            expected = expected + sum(probabilities(picture[:, ::-1], head) for picture in pictures)[:, :, ::-1]
        assert (found[head] == expected.argmax(axis=0)).mean() > 0.999  # the mirrored half is added in another order
        assert (found[head] != single[head]).mean() > 0.05
