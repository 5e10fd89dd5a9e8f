"""The readers of files of any origin: what reads, and of seeds.py what to start from.

`read` may return or raise ConfsegError; anything else is a finding. Used by run.py (coverage-guided, for minutes) and
by tests/test_hostile_files.py (hypothesis, for seconds) and test_hostile_run_files.py, which hold the findings so far.
"""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import seeds

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
from gluon_confseg.mixed_precision import LossScale
from gluon_confseg.tensor_files import read_tensors
from gluon_confseg.workers import ALONE


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


def _read_clip(path: Path) -> None:
    (clip,) = video.find_clips([path])
    for number, _ in video._frames(clip):
        if number > 20:
            break


_HEADS = [SimpleNamespace(name=name, block=SimpleNamespace(subnet=SimpleNamespace(num_outputs=2))) for name in "ab"]


@functools.lru_cache(maxsize=None)
def _trainer() -> mx.gluon.Trainer:
    parameter = mx.gluon.Parameter("weight", shape=(2, 2))
    parameter.initialize()
    return mx.gluon.Trainer([parameter], "sgd", {"momentum": 0.9}, update_on_kvstore=False)


def _read_checkpoint(path: Path) -> None:
    """As a training that continues does; beside the file lies the one before it, which is whole."""
    path.with_name(f"previous-{path.name}").write_bytes(seeds.checkpoint_file(seeds.checkpoint_meta()))
    meta = checkpoint.Kept(path, [_trainer()]).load()
    assert checkpoint.newest_meta(path) == meta
    course = joint.JointCourse(config.Joint(subnet0="ce", subnets="new", plain_epochs=1), [], _HEADS, _HEADS, [], {})
    same = {"heads": _HEADS, "course": course, "scales": [LossScale()], "job": ALONE, "trainers": [_trainer()]}
    training._Checkpoints(SimpleNamespace(**same), path).restore("test")


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


TARGETS: Dict[str, Target] = {
    "config": Target(".yaml", config.load, [seeds.CONFIG, seeds.SCALARS, b"_base_: file.yaml\nname: x\n"]),
    "study": Target(".yaml", study.read, [seeds.STUDY]),
    "classes": Target(".yaml", read_classes, [seeds.CLASSES, b"[a, b]"]),
    "class_list": Target(".txt", read_classes, [b"road\nsky\n"]),
    "dataset": Target(".yaml", lambda path: FolderPairs(path, "train"), [seeds.CLASSES]),
    "groups": Target(".yaml", _read_groups, [b"- {classes: [Road, Pavement], reason: r}\n"]),
    "list": Target(".txt", read_list, [b"a\n\n b \n"]),
    "json": Target(".json", read_json, [b'{"a": [1, 2.5, null, "\\u00e4"]}', b"[[[]]]"]),
    "results": Target(".json", _read_results, [seeds.results()]),
    "labels": Target(".json", run._read_labels, [seeds.label_set()]),
    "manifest": Target(".json", manifests.read, [b'{"made_from": {}, "outputs": {"a": "0"}, "seconds": 1}']),
    "settings": Target(".json", lambda path: config.parse(read_json(path), str(path)), [seeds.settings()]),
    "records": Target(
        ".json", manifests.read_records, [b'{"a.params": {"made_from": {"seed": 0}, "sha256": "0", "seconds": 1.5}}']
    ),
    "begun": Target(
        ".json", manifests.read_begun, [b'{"made_from": {"cells": [{"key": "a"}]}, "versions": {"numpy": "1"}}']
    ),
    "checkpoint": Target(".npz", _read_checkpoint, [seeds.checkpoint_file(seeds.checkpoint_meta())]),
    "checkpoint_meta": Target(
        ".npz", _read_checkpoint, [seeds.checkpoint_meta(), b'{"epoch": 3, "seconds": 1}'], seeds.checkpoint_file
    ),
    "checkpoint_array": Target(
        ".npz",
        _read_checkpoint,
        [seeds.npy(np.eye(2, dtype=np.float32))],
        lambda data: seeds.zipped(
            {"meta.npy": seeds.npy(np.frombuffer(seeds.checkpoint_meta(), np.uint8)), "0.0.value.npy": data}
        ),
    ),
    "state": Target(
        ".npz",
        _read_state,
        [b'{"key": "key", "ids": ["x", "y"]}'],
        lambda text: seeds.arrays_file(meta=np.array(text.decode("utf-8", "replace")), a=np.eye(2, dtype=int)),
    ),
    "label_counts": Target(
        ".json", _read_label_counts, [b'{"train": {"fingerprint": "0", "pixels": [6, 0], "largest": [2, 3]}}']
    ),
    "pulls": Target(".json", _read_pulls, [b"[[1.0, 0.5, 0.25], [1.0, 0.0, 1e-3]]"]),
    "decoded": Target(
        ".npz",
        _read_decoded,
        [seeds.npy(np.zeros((2, 3, 3), np.uint8))],
        lambda image: seeds.zipped({"image.npy": image, "label.npy": seeds.npy(np.zeros((2, 3), np.uint8))}),
    ),
    "counts": Target(
        ".npz", _read_counts, [seeds.npy(np.eye(2, dtype=int))], lambda data: seeds.zipped({"a.npy": data})
    ),
    "samples": Target(".npz", _read_samples, [seeds.samples()]),
    "npz": Target(
        ".npz",
        read_npz,
        [seeds.zipped({"a.npy": seeds.npy(np.eye(3))}), seeds.zipped({"b.npy": seeds.npy(np.array("x"))}, 8)],
    ),
    "npy": Target(
        ".npz", read_npz, [seeds.npy(np.eye(3)), seeds.npy(np.array("x"))], lambda data: seeds.zipped({"a.npy": data})
    ),
    "matrix": Target(".npz", confusion_files.read, [seeds.npy(np.arange(121).reshape(11, 11))], seeds.matrix_file),
    "description": Target(
        ".npz",
        confusion_files.read,
        [b'{"ignore_label": 255, "metadata": {"classes": "[\\"a\\", \\"b\\"]"}}'],
        seeds.description_file,
    ),
    "csv": Target(".csv", confusion_files.read, [b"truth,a,b\na,1,2\nb,3,4\n", b"a;b\n1;2\n3;4e0\n", b"1\t2\n3\t4\n"]),
    "params": Target(".params", read_tensors, [seeds.params()]),
    "safetensors": Target(
        ".safetensors",
        read_tensors,
        [seeds.safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))],
    ),
    "pth": Target(".pth", read_tensors, [seeds.pth(seeds.PICKLE)]),
    "pickle": Target(".pth", read_tensors, [seeds.PICKLE], seeds.pth),
    "image": Target(
        ".png", _read_image, [*seeds.PNGS, seeds.jpeg(), seeds.jpeg("L", progressive=True), seeds.jpeg("CMYK")]
    ),
    "png": Target(".png", _read_image, seeds.PNGS, seeds.with_checksums),
    "label": Target(".png", read_label_png, seeds.PNGS[1:], seeds.with_checksums),
    "label_map": Target(".png", _read_label_map, seeds.PNGS, seeds.with_checksums),
    "mat": Target(".mat", voc._read_mat, [seeds.mat(False), seeds.mat(True), seeds.mat(False, Boundaries=np.eye(2))]),
    "video": Target(".avi", _read_clip, [seeds.clip()]),
}
