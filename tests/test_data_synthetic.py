"""The built-in data: real layouts, known ids, same bytes for the same arguments, and never a half-written data set."""

import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gluon_confseg.data.camvid import CamVid
from gluon_confseg.data.cityscapes import Cityscapes
from gluon_confseg.data.synthetic import camera, canvas, dataset, ensure, layout, objects, streets
from gluon_confseg.data.voc import PascalVOC
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CAMVID, CITYSCAPES, VOC

SIZE = (48, 96)
READERS = {"cityscapes": Cityscapes, "voc": PascalVOC, "camvid": CamVid}


def digests(root: Path):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def scenes(draw, count, size=(96, 192), seed=0):
    textures = canvas.Textures(*size, seed)
    return [draw(*size, textures, np.random.default_rng([seed, index]))[:2] for index in range(count)]


@pytest.mark.parametrize("kind", READERS)
def test_reader_takes_the_layout(kind, tmp_path):
    root = ensure(kind, tmp_path / "data", train=5, val=2, size=SIZE, seed=1)
    train = READERS[kind](root, "trainaug" if kind == "voc" else "train")
    val = READERS[kind](root, "val")
    assert (len(train), len(val)) == (5, 2)
    assert not set(train.ids) & set(val.ids)
    for split in (train, val):
        for index in range(len(split)):
            assert split.image(index).shape == SIZE + (3,)
            label = split.label(index)
            assert label.shape == SIZE
            assert set(np.unique(label)) <= {*range(split.labels.num_classes), 255}
            assert len(np.unique(label)) >= 2


def test_cityscapes_file_names_and_raw_ids(tmp_path):
    root = ensure("cityscapes", tmp_path / "data", train=3, val=1, size=SIZE, seed=0)
    image = root / "leftImg8bit/train/northport/northport_000000_000019_leftImg8bit.png"
    label = root / "gtFine/train/northport/northport_000000_000019_gtFine_labelIds.png"
    assert cv2.imread(str(image), cv2.IMREAD_UNCHANGED).shape == SIZE + (3,)
    raw = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint8 and raw.shape == SIZE
    assert {7, 23, layout.RECTIFICATION_BORDER} <= set(np.unique(raw))  # road, sky and the unlabelled border
    assert Cityscapes(root, "train").encoding == "labelIds"
    instances = cv2.imread(str(label).replace("labelIds", "instanceIds"), cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16
    np.testing.assert_array_equal(np.where(instances >= 1000, instances // 1000, instances), raw)


def test_instance_ids_number_the_visible_objects_of_a_class():
    raw = np.array([[26, 26, 26, 7], [25, 33, 26, 29]], np.uint8)
    objects = np.array([[2, 9, 5, 9], [4, 4, 2, 7]], np.uint16)  # 4: a bicycle and its rider
    assert streets.instance_ids(raw, objects).tolist() == [[26000, 26002, 26001, 7], [25000, 33000, 26000, 29000]]


def test_every_object_of_a_street_is_an_instance_of_its_own():
    textures = canvas.Textures(96, 192, 0)
    drawn = [streets.street(96, 192, textures, np.random.default_rng([0, index])) for index in range(20)]
    for _, raw, instances in drawn:
        counted = np.isin(raw, layout.COUNTED)
        assert (instances[~counted] == raw[~counted]).all() and (instances[counted] // 1000 == raw[counted]).all()
        for each in np.unique(raw[counted]):
            numbers = np.unique(instances[raw == each]) % 1000
            assert numbers.tolist() == list(range(len(numbers)))
    several = {each // 1000 for _, _, instances in drawn for each in np.unique(instances) if each % 1000}
    assert {layout.ID[name] for name in ("person", "rider", "car", "motorcycle", "bicycle")} <= several


def test_what_covers_an_object_takes_its_number():
    picture = canvas.Canvas(40, 80, 9)
    for number, left in ((1, 0.5), (2, 1.0)):
        picture.object = number
        picture.polygon(canvas.rectangle(left, 0.25, left + 0.75, 0.5), (10, 20, 30), 26)
        picture.polygon(canvas.rectangle(0, 0.75, 2, 1), (10, 20, 30))  # without a label, no object
    picture.object = 0
    picture.stroke(np.array([(0.0, 0.4), (2.0, 0.4)]), 0.05, (1, 2, 3), 17)
    assert picture.objects[12, [10, 30, 50, 75]].tolist() == [0, 1, 2, 0]
    assert not picture.objects[16].any() and not picture.objects[30:].any()


def test_voc_lists_and_palette(tmp_path):
    root = ensure("voc", tmp_path / "data", train=4, val=2, size=SIZE, seed=0)
    home = root / "VOCdevkit/VOC2012"
    lists = {path.stem: path.read_text().split() for path in (home / "ImageSets/Segmentation").glob("*.txt")}
    assert [len(lists[name]) for name in ("train", "trainaug", "val")] == [2, 4, 2]
    assert set(lists["train"]) < set(lists["trainaug"])
    for folder, names in (
        ("SegmentationClass", lists["train"] + lists["val"]),
        ("SegmentationClassAug", lists["trainaug"]),
    ):
        assert {path.stem for path in (home / folder).iterdir()} == set(names)
    with Image.open(home / "SegmentationClass" / f"{lists['val'][0]}.png") as label:
        assert label.mode == "P"
        assert label.getpalette()[3:6] == list(VOC.colors[1])
        assert 255 in np.asarray(label)


def test_camvid_lists_and_unlabelled(tmp_path):
    root = ensure("camvid", tmp_path / "data", train=2, val=1, size=SIZE, seed=0)
    assert (root / "val.txt").read_text() == (
        "/SegNet/CamVid/val/0016E5_000000.png /SegNet/CamVid/valannot/0016E5_000000.png\n"
    )
    raw = cv2.imread(str(root / "trainannot/0001TP_000000.png"), cv2.IMREAD_UNCHANGED)
    assert {CAMVID.index("Sky"), CAMVID.index("Road"), 11} <= set(np.unique(raw)) <= set(CAMVID.raw_ids)


def test_camvid_merges_every_cityscapes_class_once():
    sources = [source for merged in dataset._CAMVID_CLASSES.values() for source in merged]
    assert sorted(sources) == sorted(CITYSCAPES.classes)
    assert set(dataset._CAMVID_CLASSES) == set(CAMVID.classes)


def test_ids_are_the_official_ones():
    assert (layout.ID["road"], layout.ID["building"], layout.ID["train"], layout.ID["bicycle"]) == (7, 11, 31, 33)
    unlabelled = (
        layout.EGO_VEHICLE,
        layout.RECTIFICATION_BORDER,
        layout.STATIC,
        layout.PARKING,
        layout.RAIL_TRACK,
        layout.CARAVAN,
    )
    assert all(CITYSCAPES.raw_ids[raw] == 255 for raw in unlabelled)


@pytest.mark.parametrize("kind", READERS)
def test_same_arguments_same_bytes_other_seed_other_bytes(kind, tmp_path):
    arguments = {"train": 3, "val": 2, "size": SIZE}
    first = digests(ensure(kind, tmp_path / "a", seed=7, **arguments))
    assert first == digests(ensure(kind, tmp_path / "b", seed=7, **arguments))
    other = digests(ensure(kind, tmp_path / "c", seed=8, **arguments))
    assert set(first) == set(other)
    pictures = [name for name in first if not name.endswith((".txt", ".json"))]
    assert sum(first[name] == other[name] for name in pictures) == 0


def test_validation_scenes_are_not_training_scenes(tmp_path):
    root = ensure("camvid", tmp_path / "data", train=4, val=4, size=SIZE, seed=0)
    found = digests(root)
    pictures = [value for name, value in found.items() if name.startswith(("train/", "val/"))]
    assert len(set(pictures)) == 8


def test_complete_data_is_reused(tmp_path):
    arguments = {"train": 2, "val": 1, "size": SIZE, "seed": 0}
    root = ensure("voc", tmp_path / "data", **arguments)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert ensure("voc", root, **arguments) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_list_size_is_as_good_as_a_tuple(tmp_path):
    root = ensure("voc", tmp_path / "data", train=1, val=1, size=list(SIZE), seed=0)
    assert ensure("voc", root, train=1, val=1, size=SIZE, seed=0) == root


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 3}, {"val": 2}, {"size": (64, 96)}, {"kind": "camvid"}])
def test_other_data_in_the_same_place_is_refused(change, tmp_path):
    arguments = {"kind": "voc", "train": 2, "val": 1, "size": SIZE, "seed": 0}
    root = ensure(root=tmp_path / "data", **arguments)
    before = digests(root)
    with pytest.raises(ConfsegError, match=f"another built-in data set .different: {next(iter(change))}") as error:
        ensure(root=root, **{**arguments, **change})
    assert str(root) in str(error.value) and "\n" not in str(error.value)
    assert digests(root) == before


def test_older_generator_is_refused(tmp_path):
    root = ensure("voc", tmp_path / "data", train=1, val=1, size=SIZE, seed=0)
    manifest = json.loads((root / dataset.MANIFEST).read_text())
    (root / dataset.MANIFEST).write_text(json.dumps({**manifest, "generator": 0}))
    with pytest.raises(ConfsegError, match="different: generator"):
        ensure("voc", root, train=1, val=1, size=SIZE, seed=0)


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfsegError, match="not a built-in data set"):
        ensure("voc", tmp_path / "data", train=1, val=1, size=SIZE, seed=0)
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "data").mkdir()
    root = ensure("voc", tmp_path / "data", train=1, val=1, size=SIZE, seed=0)
    assert len(PascalVOC(root, "val")) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_leaves_nothing(failure, tmp_path, monkeypatch):
    write, calls = dataset._write_image, itertools.count()

    def stop_at_the_third(path, image):
        if next(calls) >= 2:
            raise failure
        write(path, image)

    monkeypatch.setattr(dataset, "_write_image", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else ConfsegError):
        ensure("voc", tmp_path / "data", train=4, val=1, size=SIZE, seed=0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(PascalVOC(ensure("voc", tmp_path / "data", train=4, val=1, size=SIZE, seed=0), "trainaug")) == 4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "kitti"}, "no built-in data set 'kitti'; there are cityscapes, voc, camvid"),
        ({"train": 0}, "at least 1 of each"),
        ({"val": 0}, "at least 1 of each"),
        ({"size": (16, 96)}, "16x96 is too small"),
        ({"seed": -1}, "seed -1 is negative"),
    ],
)
def test_bad_arguments(change, message, tmp_path):
    arguments = {"kind": "voc", "train": 1, "val": 1, "size": SIZE, "seed": 0, **change}
    with pytest.raises(ConfsegError, match=message):
        ensure(root=tmp_path / "data", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_every_street_class_is_common_enough():
    labels = [CITYSCAPES.to_train(raw, "scene") for _, raw in scenes(streets.street, 60)]
    share = {
        name: np.mean([(label == train).mean() > 0.001 for label in labels])
        for train, name in enumerate(CITYSCAPES.classes)
    }
    assert min(share.values()) >= 0.25, share
    ignored = np.mean([(label == 255).mean() for label in labels])
    assert 0.01 < ignored < 0.15


def test_every_object_occurs_with_a_void_border():
    labels = [VOC.to_train(raw, "scene") for _, raw in scenes(objects.scene, 150)]
    counts = np.sum([np.bincount(np.unique(label), minlength=256) > 0 for label in labels], axis=0)
    assert counts[:21].min() >= 3
    assert counts[0] == counts[255] == 150
    for label in labels[:20]:  # a background pixel never touches an object: the border is between them
        objects_only = (label > 0) & (label < 255)
        grown = cv2.dilate(objects_only.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert not (grown & (label == 0)).any()


@pytest.mark.parametrize("draw", [streets.street, objects.scene])
def test_scene_is_the_same_at_another_resolution(draw):
    (small_image, small), (large_image, large) = (scenes(draw, 1, size)[0] for size in ((96, 192), (192, 384)))
    assert small_image.shape == (96, 192, 3) and large_image.shape == (192, 384, 3)
    reduced = cv2.resize(large, (192, 96), interpolation=cv2.INTER_NEAREST)
    assert (reduced == small).mean() > 0.9


def test_camera_projects_by_similar_triangles():
    pinhole = camera.Camera(focal=1.2, horizon=0.4, center=1.0, eye=1.5)
    np.testing.assert_allclose(pinhole.project(2.0, 0.0, 6.0), (1.0 + 1.2 * 2 / 6, 0.4 + 1.2 * 1.5 / 6))
    np.testing.assert_allclose(pinhole.project([0, 0], 1.5, [3, 30]), [(1.0, 0.4), (1.0, 0.4)])  # eye height: horizon


def test_polygon_covers_its_pixels():
    picture = canvas.Canvas(40, 80, 9)
    picture.polygon(canvas.rectangle(0.5, 0.25, 1.0, 0.5), (10, 20, 30), 3, canvas.GRAIN)
    # 40 pixels a unit: columns 20..39, rows 10..19; OpenCV rounds half-covered pixels at an edge inwards or outwards
    assert (picture.label[11:19, 21:39] == 3).all()
    assert (picture.label[:9] == 9).all() and (picture.label[:, 42:] == 9).all()
    np.testing.assert_array_equal(picture.image[15, 30], (10, 20, 30))
    assert picture.texture[15, 30] == canvas.GRAIN


def test_darken_changes_only_the_picture_inside():
    picture = canvas.Canvas(40, 80, 9)
    picture.image[:] = 100
    picture.darken(canvas.rectangle(0.5, 0.25, 1.0, 0.5), 0.5)
    assert (picture.image[12:18, 22:38] == 50).all()
    assert (picture.image[:9] == 100).all() and (picture.label == 9).all()
    picture.darken(canvas.rectangle(5, 5, 6, 6), 0.5)  # outside of the picture: nothing happens
    assert (picture.image[22:] == 100).all()
