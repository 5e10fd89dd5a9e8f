"""The readers of files of any origin: what reads, and small whole files to start from.

`read` may return or raise ConfsegError; anything else is a finding. Used by run.py (coverage-guided, for minutes) and
by tests/test_hostile_files.py (hypothesis, for seconds, and the findings so far).
"""

import functools
import io
import json
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import scipy.io
from PIL import Image

from gluon_confseg import (
    checkpoint,
    config,
    confusion_files,
    evaluation,
    joint,
    labelmaps,
    labels,
    manifests,
    preflight,
    reporting,
    results,
    run,
    study,
    training,
    video,
)
from gluon_confseg.backend import mx
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.data import voc
from gluon_confseg.data.base import image_size, read_image, read_label_png, read_list
from gluon_confseg.data.decoded import DecodedFiles
from gluon_confseg.data.folders import FolderPairs, read_classes
from gluon_confseg.errors import ConfsegError, one_line
from gluon_confseg.files import read_json, read_npz
from gluon_confseg.places import CONFIGS
from gluon_confseg.tensor_files import read_tensors


class Target(NamedTuple):
    """`wrap` puts the fuzzed bytes where a checksum would otherwise stand in front of the reader."""

    suffix: str
    read: Callable[[Path], Any]
    seeds: List[bytes]
    wrap: Callable[[bytes], bytes] = bytes


def attempt(target: Target, data: bytes, folder: Path) -> None:
    """Write `data` to a file and read it; raises whatever is a finding."""
    path = folder / f"file{target.suffix}"
    path.write_bytes(target.wrap(data))
    try:
        target.read(path)
    except ConfsegError as error:
        assert str(error).strip() and len(one_line(str(error))) < 4000, "one line says what is wrong"


def _npy(array: np.ndarray) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def _zip(members: Dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return body.getvalue()


def _matrix_file(counts: bytes) -> bytes:
    """A confusion.npz whose member of counts has these bytes."""
    description = json.dumps({"ignore_label": 255, "metadata": {"dataset": "camvid"}})
    return _zip({"counts.npy": counts, "description.npy": _npy(np.array(description))})


def _description_file(text: bytes) -> bytes:
    """A confusion.npz with this description."""
    counts = np.arange(4).reshape(2, 2)
    return _zip({"counts.npy": _npy(counts), "description.npy": _npy(np.array(text.decode("utf-8", "replace")))})


def _png(mode: str = "RGB", size: int = 5, **options: Any) -> bytes:
    image = Image.new(mode, (size, size), 1 if mode in "LP1" else None)
    body = io.BytesIO()
    image.save(body, "PNG", **options)
    return body.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the right checksums, so that changes get past them."""
    result, position = bytearray(data), 8
    while position + 12 <= len(result):
        (length,) = struct.unpack(">I", result[position : position + 4])
        end = position + 8 + length
        if end + 4 > len(result):
            break
        result[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(result[position + 4 : end])))
        position = end + 4
    return bytes(result)


def _jpeg(mode: str = "RGB", **options: Any) -> bytes:
    body = io.BytesIO()
    Image.effect_noise((16, 24), 50).convert(mode).save(body, "JPEG", **options)
    return body.getvalue()


def _mat(compress: bool, **fields: Any) -> bytes:
    body = io.BytesIO()
    scipy.io.savemat(body, {"GTcls": fields or {"Segmentation": np.eye(4, dtype=np.uint8)}}, do_compression=compress)
    return body.getvalue()


def _safetensors(header: Dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _params() -> bytes:
    array = struct.pack("<Ii2q2ii", 0xF993FAC9, 0, 0, 0, 0, 0, 0)
    array = struct.pack("<IiI", 0xF993FAC9, 0, 2) + struct.pack("<2q2ii", 2, 3, 1, 0, 0) + bytes(24)
    return struct.pack("<3Q", 0x112, 0, 1) + array + struct.pack("<2Q", 1, 1) + b"a"


_PICKLE = (
    b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x00K\x02K\x03\x86q\x08"
    b"K\x03K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
)


def _pth(pickled: bytes) -> bytes:
    return _zip({"archive/data.pkl": pickled, "archive/data/0": bytes(24)})


_CONFIG = b"""name: x
data: {name: camvid, scale: 0.5}
augment: {crop: [64, 96], mean: [0.4, 0.4, 0.4]}
encoder: {name: small}
groups: {source: [[Road, Pavement], [Car, Fence]]}
losses: &l {ce: {kind: cross_entropy}, new: {kind: confusion, lam: 5, diagonal: one}}
cells:
  - {key: a, title: A, role: baseline}
  - {key: b, title: B, subnet0: ce, subnets: new, adjustment: 1e-1}
comparisons: [[a, b]]
"""
_SCALARS = b"""name: 2001-12-14t21:59:43.10-05:00
seed: 0x1F
data: !!map {name: !!str camvid, scale: .inf, workers: 1_000, other: 190:20:30}
<<: {a: !!binary aGVsbG8=, b: !!set {x}, c: !!omap [{y: 1}], d: ~, e: 0b1, f: !!float 1}
"""
_STUDY = b"seeds: [0, 1]\nlosses: {ce: {kind: focal, gamma: 2}}\ncells: [{key: a, title: A, role: baseline}]\n"
_CLASSES = b"""name: harbour
images: {train: photos/train}
labels: {train: masks/train}
classes:
  - water
  - {name: quay, color: [128, 64, 128], ids: [1, 7]}
ignore: [254]
ignore_colors: [[1, 2, 3]]
"""


def _results() -> bytes:
    cell = {"key": "a", "title": "A", "role": "baseline", "paper": None, "miou": 1.0, "pixel_accuracy": 1.0}
    cell.update(mean_recall=1.0, iou=[1.0, 1.0], confusion=[[3, 0], [0, 4]])
    images = {"split": "val", "images": 1, "fingerprint": "0"}
    dataset = {"name": "camvid", "source": "option", "train": images, "val": images, "confusion_images": "train"}
    group = {"classes": ["road", "sky"], "reason": "r"}
    subnet = {"group": 1, "loss": "new", "miou_group": 0.5, "baseline_miou_group": 0.6}
    tree = {"format": 1, "name": "x", "seed": 0, "dataset": dataset, "classes": ["road", "sky"], "groups": [group]}
    tree.update(cells=[cell], subnets=[subnet], seconds={"a": 1.5}, versions={"v": "1"}, config={"b": [1, {}]})
    return json.dumps(tree).encode()


def _labels() -> bytes:
    tree = {"name": "x", "classes": ["a", "b"], "colors": [[0, 1, 2], [3, 4, 5]], "raw_ids": {"0": 0, "7": 255}}
    return json.dumps(tree).encode()


def _read_results(path: Path) -> None:
    found = results.read(path)
    results.run_table(found), results.class_table(found).markdown()


def _read_groups(path: Path) -> None:
    class Run:
        folder, labels = path.parent, labels.CAMVID

    (path.parent / run.GROUPS_FILE).write_bytes(path.read_bytes())
    run.read_groups(Run)


def _read_label_map(path: Path) -> None:
    folder = labelmaps.Folder("truth", path.parent)
    labelmaps.Reader(folder, [path], labelmaps.Classes(labels.CAMVID, True))(path)


def _read_image(path: Path) -> None:
    image_size(path)
    read_image(path)


def _clip() -> bytes:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (16, 16))
        for value in (0, 200):
            writer.write(np.full((16, 16, 3), value, np.uint8))
        writer.release()
        return Path(path).read_bytes()


def _read_clip(path: Path) -> None:
    (clip,) = video.find_clips([path])
    for number, _ in video._frames(clip):
        if number > 20:
            break


_HEADS = [SimpleNamespace(name=name, block=SimpleNamespace(subnet=SimpleNamespace(num_outputs=2))) for name in "ab"]
_VALUES = {"0.0.value": np.eye(2, dtype=np.float32), "0.0.momentum": np.ones((2, 2), np.float32)}


def _meta() -> bytes:
    """What a checkpoint within an epoch of a joint training says."""
    metrics = {"losses": {"a": 1.5, "b": 0.0}, "counts": {"a": [[1, 2], [0, 4]], "b": [[0, 0], [0, 0]]}}
    metrics.update(norms={"a": 0.5, "b": 0.25}, samples=6)
    tree = {"epoch": 1, "update": 2, "seconds": 3.5, "loss_scales": [{"value": 65536.0, "steady": 3, "patience": 2000}]}
    tree.update(metrics=metrics, course={"confusion": [[1.5, 0.0], [0.0, 2.5]], "pulls": [[1.0, 0.5]]})
    return json.dumps(tree).encode()


def _checkpoint_file(meta: bytes) -> bytes:
    return _arrays_file(meta=np.frombuffer(meta, np.uint8), **_VALUES)


def _arrays_file(**arrays: np.ndarray) -> bytes:
    return _zip({f"{name}.npy": _npy(array) for name, array in arrays.items()})


@functools.lru_cache(maxsize=None)
def _trainer() -> mx.gluon.Trainer:
    parameter = mx.gluon.Parameter("weight", shape=(2, 2))
    parameter.initialize()
    return mx.gluon.Trainer([parameter], "sgd", {"momentum": 0.9}, update_on_kvstore=False)


def _read_checkpoint(path: Path) -> None:
    """As a training that continues does; beside the file lies the one before it, which is whole."""
    path.with_name(f"previous-{path.name}").write_bytes(_checkpoint_file(_meta()))
    meta = checkpoint.Kept(path, [_trainer()]).load()
    assert checkpoint.newest_meta(path) == meta
    settings = config.Joint(subnet0="ce", subnets="new", plain_epochs=1)
    training._restore_epoch(meta, _HEADS, joint.JointCourse(settings, [], _HEADS, _HEADS, [], {}), path)


def _read_state(path: Path) -> None:
    empty = {"a": ConfusionMatrix(2)}
    evaluation.State(path, "key").load(evaluation.Counted(empty))


def _read_label_counts(path: Path) -> None:
    found = preflight._counted_before(read_json(path), "train", "0", classes=2)
    assert found is None or found.pixels.shape == (2,)


def _read_pulls(path: Path) -> None:
    joint._read_pulls(path, epochs=2, heads=3)


def _read_decoded(path: Path) -> None:
    files = DecodedFiles([], path.parent, 0)
    files._paths = [path]
    files.read(0)


class _Report(NamedTuple):
    folder: Path
    num_classes: int = 2
    config: Any = SimpleNamespace(cells=[SimpleNamespace(key="a")])
    labels: Any = labels.CAMVID


def _read_counts(path: Path) -> None:
    (path.parent / run.COUNTS_FILE).write_bytes(path.read_bytes())
    reporting._counted(_Report(path.parent))


def _read_samples(path: Path) -> None:
    (path.parent / run.SAMPLES_FILE).write_bytes(path.read_bytes())
    found = SimpleNamespace(cells=[SimpleNamespace(key="a", role="baseline", title="A")])
    reporting._overlay_rows(_Report(path.parent), found)


def _samples() -> bytes:
    image, label = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    return _arrays_file(**{"0/image": image, "0/label": label, "0/a": label, "0/id": np.array("x")})


def _settings() -> bytes:
    return json.dumps(config.to_tree(config.load(CONFIGS / "camvid.yaml"))).encode()


_PNGS = [_png(), _png("L"), _png("P"), _png("1"), _png("RGBA"), _png("I;16"), _png(interlace=1, icc_profile=b"x" * 9)]

TARGETS: Dict[str, Target] = {
    "config": Target(".yaml", config.load, [_CONFIG, _SCALARS, b"_base_: file.yaml\nname: x\n"]),
    "study": Target(".yaml", study.read, [_STUDY]),
    "classes": Target(".yaml", read_classes, [_CLASSES, b"[a, b]"]),
    "class_list": Target(".txt", read_classes, [b"road\nsky\n"]),
    "dataset": Target(".yaml", lambda path: FolderPairs(path, "train"), [_CLASSES]),
    "groups": Target(".yaml", _read_groups, [b"- {classes: [Road, Pavement], reason: r}\n"]),
    "list": Target(".txt", read_list, [b"a\n\n b \n"]),
    "json": Target(".json", read_json, [b'{"a": [1, 2.5, null, "\\u00e4"]}', b"[[[]]]"]),
    "results": Target(".json", _read_results, [_results()]),
    "labels": Target(".json", run._read_labels, [_labels()]),
    "manifest": Target(".json", manifests.read, [b'{"made_from": {}, "outputs": {"a": "0"}, "seconds": 1}']),
    "settings": Target(".json", lambda path: config.parse(read_json(path), str(path)), [_settings()]),
    "records": Target(
        ".json", manifests.read_records, [b'{"a.params": {"made_from": {"seed": 0}, "sha256": "0", "seconds": 1.5}}']
    ),
    "begun": Target(
        ".json", manifests.read_begun, [b'{"made_from": {"cells": [{"key": "a"}]}, "versions": {"numpy": "1"}}']
    ),
    "checkpoint": Target(".npz", _read_checkpoint, [_checkpoint_file(_meta())]),
    "checkpoint_meta": Target(".npz", _read_checkpoint, [_meta(), b'{"epoch": 3, "seconds": 1}'], _checkpoint_file),
    "checkpoint_array": Target(
        ".npz",
        _read_checkpoint,
        [_npy(np.eye(2, dtype=np.float32))],
        lambda data: _zip({"meta.npy": _npy(np.frombuffer(_meta(), np.uint8)), "0.0.value.npy": data}),
    ),
    "state": Target(
        ".npz",
        _read_state,
        [b'{"key": "key", "ids": ["x", "y"]}'],
        lambda text: _arrays_file(meta=np.array(text.decode("utf-8", "replace")), a=np.eye(2, dtype=int)),
    ),
    "label_counts": Target(
        ".json", _read_label_counts, [b'{"train": {"fingerprint": "0", "pixels": [6, 0], "largest": [2, 3]}}']
    ),
    "pulls": Target(".json", _read_pulls, [b"[[1.0, 0.5, 0.25], [1.0, 0.0, 1e-3]]"]),
    "decoded": Target(
        ".npz",
        _read_decoded,
        [_npy(np.zeros((2, 3, 3), np.uint8))],
        lambda image: _zip({"image.npy": image, "label.npy": _npy(np.zeros((2, 3), np.uint8))}),
    ),
    "counts": Target(".npz", _read_counts, [_npy(np.eye(2, dtype=int))], lambda data: _zip({"a.npy": data})),
    "samples": Target(".npz", _read_samples, [_samples()]),
    "npz": Target(".npz", read_npz, [_zip({"a.npy": _npy(np.eye(3))}), _zip({"b.npy": _npy(np.array("x"))}, 8)]),
    "npy": Target(".npz", read_npz, [_npy(np.eye(3)), _npy(np.array("x"))], lambda data: _zip({"a.npy": data})),
    "matrix": Target(".npz", confusion_files.read, [_npy(np.arange(121).reshape(11, 11))], _matrix_file),
    "description": Target(
        ".npz",
        confusion_files.read,
        [b'{"ignore_label": 255, "metadata": {"classes": "[\\"a\\", \\"b\\"]"}}'],
        _description_file,
    ),
    "csv": Target(".csv", confusion_files.read, [b"truth,a,b\na,1,2\nb,3,4\n", b"a;b\n1;2\n3;4e0\n", b"1\t2\n3\t4\n"]),
    "params": Target(".params", read_tensors, [_params()]),
    "safetensors": Target(
        ".safetensors",
        read_tensors,
        [_safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))],
    ),
    "pth": Target(".pth", read_tensors, [_pth(_PICKLE)]),
    "pickle": Target(".pth", read_tensors, [_PICKLE], _pth),
    "image": Target(".png", _read_image, [*_PNGS, _jpeg(), _jpeg("L", progressive=True), _jpeg("CMYK")]),
    "png": Target(".png", _read_image, _PNGS, _with_checksums),
    "label": Target(".png", read_label_png, _PNGS[1:], _with_checksums),
    "label_map": Target(".png", _read_label_map, _PNGS, _with_checksums),
    "mat": Target(".mat", voc._read_mat, [_mat(False), _mat(True), _mat(False, Boundaries=np.eye(2))]),
    "video": Target(".avi", _read_clip, [_clip()]),
}
