"""Small whole files to start from, and what puts changed bytes where a checksum would stand in front of the reader."""

import io
import json
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict

import numpy as np
import scipy.io
from PIL import Image

from gluon_confseg import config
from gluon_confseg.places import CONFIGS


def npy(array: np.ndarray) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def zipped(members: Dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return body.getvalue()


def matrix_file(counts: bytes) -> bytes:
    """A confusion.npz whose member of counts has these bytes."""
    description = json.dumps({"ignore_label": 255, "metadata": {"dataset": "camvid"}})
    return zipped({"counts.npy": counts, "description.npy": npy(np.array(description))})


def description_file(text: bytes) -> bytes:
    """A confusion.npz with this description."""
    counts = np.arange(4).reshape(2, 2)
    return zipped({"counts.npy": npy(counts), "description.npy": npy(np.array(text.decode("utf-8", "replace")))})


def png(mode: str = "RGB", size: int = 5, **options: Any) -> bytes:
    image = Image.new(mode, (size, size), 1 if mode in "LP1" else None)
    body = io.BytesIO()
    image.save(body, "PNG", **options)
    return body.getvalue()


def with_checksums(data: bytes) -> bytes:
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


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    body = io.BytesIO()
    Image.effect_noise((16, 24), 50).convert(mode).save(body, "JPEG", **options)
    return body.getvalue()


def mat(compress: bool, **fields: Any) -> bytes:
    body = io.BytesIO()
    scipy.io.savemat(body, {"GTcls": fields or {"Segmentation": np.eye(4, dtype=np.uint8)}}, do_compression=compress)
    return body.getvalue()


def safetensors(header: Dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def params() -> bytes:
    array = struct.pack("<IiI", 0xF993FAC9, 0, 2) + struct.pack("<2q2ii", 2, 3, 1, 0, 0) + bytes(24)
    return struct.pack("<3Q", 0x112, 0, 1) + array + struct.pack("<2Q", 1, 1) + b"a"


PICKLE = (
    b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x00K\x02K\x03\x86q\x08"
    b"K\x03K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
)


def pth(pickled: bytes) -> bytes:
    return zipped({"archive/data.pkl": pickled, "archive/data/0": bytes(24)})


CONFIG = b"""name: x
data: {name: camvid, scale: 0.5}
augment: {crop: [64, 96], mean: [0.4, 0.4, 0.4]}
encoder: {name: small}
groups: {source: [[Road, Pavement], [Car, Fence]]}
losses: &l {ce: {kind: cross_entropy}, new: {kind: confusion, lam: 5, diagonal: one}}
cells:
  - {key: a, title: A, role: baseline}
  - {key: b, title: B, subnet0: ce, subnets: new, adjustment: 1e-1}
comparisons: {b: [a]}
"""
SCALARS = b"""name: 2001-12-14t21:59:43.10-05:00
seed: 0x1F
data: !!map {name: !!str camvid, scale: .inf, workers: 1_000, other: 190:20:30}
<<: {a: !!binary aGVsbG8=, b: !!set {x}, c: !!omap [{y: 1}], d: ~, e: 0b1, f: !!float 1}
"""
STUDY = b"seeds: [0, 1]\nlosses: {ce: {kind: focal, gamma: 2}}\ncells: [{key: a, title: A, role: baseline}]\n"
CLASSES = b"""name: harbour
images: {train: photos/train}
labels: {train: masks/train}
classes:
  - water
  - {name: quay, color: [128, 64, 128], ids: [1, 7]}
ignore: [254]
ignore_colors: [[1, 2, 3]]
"""


def results() -> bytes:
    cell = {"key": "a", "title": "A", "role": "baseline", "paper": None, "miou": 1.0, "pixel_accuracy": 1.0}
    cell.update(mean_recall=1.0, iou=[1.0, 1.0], confusion=[[3, 0], [0, 4]])
    images = {"split": "val", "images": 1, "fingerprint": "0"}
    dataset = {"name": "camvid", "source": "option", "train": images, "val": images, "confusion_images": "train"}
    group = {"classes": ["road", "sky"], "reason": "r"}
    subnet = {"group": 1, "loss": "new", "miou_group": 0.5, "baseline_miou_group": 0.6}
    tree = {"format": 1, "name": "x", "seed": 0, "dataset": dataset, "classes": ["road", "sky"], "groups": [group]}
    tree.update(cells=[cell], subnets=[subnet], seconds={"a": 1.5}, versions={"v": "1"}, config={"b": [1, {}]})
    return json.dumps(tree).encode()


def label_set() -> bytes:
    tree = {"name": "x", "classes": ["a", "b"], "colors": [[0, 1, 2], [3, 4, 5]], "raw_ids": {"0": 0, "7": 255}}
    return json.dumps(tree).encode()


def clip() -> bytes:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (16, 16))
        for value in (0, 200):
            writer.write(np.full((16, 16, 3), value, np.uint8))
        writer.release()
        return Path(path).read_bytes()


VALUES = {"0.0.value": np.eye(2, dtype=np.float32), "0.0.momentum": np.ones((2, 2), np.float32)}


def checkpoint_meta() -> bytes:
    """What a checkpoint within an epoch of a joint training says."""
    metrics = {"losses": {"a": 1.5, "b": 0.0}, "counts": {"a": [[1, 2], [0, 4]], "b": [[0, 0], [0, 0]]}}
    metrics.update(norms={"a": 0.5, "b": 0.25}, samples=6)
    tree = {"epoch": 1, "update": 2, "seconds": 3.5, "loss_scales": [{"value": 65536.0, "steady": 3, "patience": 2000}]}
    tree.update(metrics=metrics, course={"confusion": [[1.5, 0.0], [0.0, 2.5]], "pulls": [[1.0, 0.5]]})
    return json.dumps(tree).encode()


def checkpoint_file(meta: bytes) -> bytes:
    return arrays_file(meta=np.frombuffer(meta, np.uint8), **VALUES)


def arrays_file(**arrays: np.ndarray) -> bytes:
    return zipped({f"{name}.npy": npy(array) for name, array in arrays.items()})


def samples() -> bytes:
    image, label = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    return arrays_file(**{"0/image": image, "0/label": label, "0/a": label, "0/id": np.array("x")})


def settings() -> bytes:
    return json.dumps(config.to_tree(config.load(CONFIGS / "camvid.yaml"))).encode()


PNGS = [png(), png("L"), png("P"), png("1"), png("RGBA"), png("I;16"), png(interlace=1, icc_profile=b"x" * 9)]
