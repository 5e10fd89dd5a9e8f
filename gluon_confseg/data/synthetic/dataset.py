"""Write a built-in data set once, in the real layout; reuse it when it is complete."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

import cv2
import numpy as np
from PIL import Image

from ... import files
from ...errors import ConfsegError
from ...labels import CAMVID, VOC
from .canvas import Textures
from .objects import scene
from .streets import ID, street

GENERATOR_VERSION = 2  # raise it with any change of what is drawn or written
MANIFEST = "manifest.json"
_SMALLEST = 32  # pixels: a smaller picture shows nothing
_WORKERS = 2

# CamVid's 11 classes (train ids of labels.CAMVID) as SegNet merges CamVid's 32; all else is unlabelled (11).
_CAMVID_UNLABELLED = CAMVID.num_classes
_CAMVID_CLASSES = {
    "Sky": ("sky",),
    "Building": ("building", "wall"),
    "Pole": ("pole",),
    "Road": ("road",),
    "Pavement": ("sidewalk",),
    "Tree": ("vegetation", "terrain"),
    "SignSymbol": ("traffic sign", "traffic light"),
    "Fence": ("fence",),
    "Car": ("car", "truck", "bus", "train"),
    "Pedestrian": ("person",),
    "Bicyclist": ("rider", "bicycle", "motorcycle"),
}

# picture uint8 RGB (H, W, 3), raw ids uint8 (H, W); of streets also instance ids uint16 (H, W)
Drawn = Tuple[np.ndarray, ...]
Draw = Callable[[int, int, Textures, np.random.Generator], Drawn]


class Places(NamedTuple):
    """The files of one picture."""

    image: Path
    labels: List[Path]  # all the same
    instances: Tuple[Path, ...] = ()  # none or one


def _city_paths(root: Path, split: str, index: int) -> Places:
    cities = ("northport", "oakfield", "quayside") if split == "train" else ("westhaven",)
    city = cities[index % len(cities)]
    stem = f"{city}_{index // len(cities):06d}_000019"
    image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    labels, instances = (
        root / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds")
    )
    return Places(image, [labels], (instances,))


def _voc_id(split: str, index: int) -> str:
    return f"{2007 + index % 5}_{(index if split == 'train' else 500000 + index):06d}"


def _voc_paths(root: Path, split: str, index: int) -> Places:
    home, name = root / "VOCdevkit" / "VOC2012", _voc_id(split, index)
    folders = ["SegmentationClassAug"] if split == "train" else []
    if split == "val" or _in_voc_train(index):
        folders.append("SegmentationClass")
    return Places(home / "JPEGImages" / f"{name}.jpg", [home / folder / f"{name}.png" for folder in folders])


def _in_voc_train(index: int) -> bool:
    """VOC's own train list is a part of SBD's larger trainaug list: here, every second picture."""
    return index % 2 == 0


def _camvid_paths(root: Path, split: str, index: int) -> Places:
    name = f"{'0001TP' if split == 'train' else '0016E5'}_{index:06d}.png"
    return Places(root / split / name, [root / f"{split}annot" / name])


def _camvid_street(height: int, width: int, textures: Textures, rng: np.random.Generator) -> Drawn:
    image, raw, _ = street(height, width, textures, rng)
    return image, _CAMVID_TABLE[raw]


def _camvid_table() -> np.ndarray:
    table = np.full(256, _CAMVID_UNLABELLED, np.uint8)
    for name, sources in _CAMVID_CLASSES.items():
        table[[ID[source] for source in sources]] = CAMVID.index(name)
    return table


_CAMVID_TABLE = _camvid_table()

KINDS: Dict[str, Tuple[Draw, Callable[[Path, str, int], Places]]] = {
    "cityscapes": (street, _city_paths),
    "voc": (scene, _voc_paths),
    "camvid": (_camvid_street, _camvid_paths),
}


def ensure(kind: str, root: files.PathLike, *, train: int, val: int, size: Tuple[int, int], seed: int) -> Path:
    """Draw the data set `kind` ("cityscapes", "voc" or "camvid") into the folder `root`, unless it is already there.

    `train` and `val` count images, `size` is (height, width) in pixels, `seed` chooses the scenes; the validation
    scenes come from a stream of their own. The same arguments give the same bytes. Returns `root`, which the readers
    Cityscapes, PascalVOC (train list: every second image; trainaug: all `train` images) and CamVid take.
    The folder is written beside `root` and renamed when it is complete; a complete one with equal arguments is reused.

    Raises ConfsegError for an unknown kind or bad numbers, for a `root` that holds anything else, and where it cannot
    write.
    """
    root = Path(root)
    manifest = {
        "kind": kind,
        "train": train,
        "val": val,
        "size": list(size),
        "seed": seed,
        "generator": GENERATOR_VERSION,
    }
    _check(kind, train, val, size, seed)
    if _is_complete(root, manifest):
        return root
    try:
        with files.atomic_folder(root, "the built-in data") as temporary:
            _write(kind, temporary, manifest)
    except ConfsegError:
        if not _is_complete(root, manifest):  # another process may have been faster
            raise
    return root


def _check(kind: str, train: int, val: int, size: Tuple[int, int], seed: int) -> None:
    if kind not in KINDS:
        raise ConfsegError(f"no built-in data set {kind!r}; there are {', '.join(KINDS)}")
    if train < 1 or val < 1:
        raise ConfsegError(f"built-in {kind}: {train} training and {val} validation images; ask for at least 1 of each")
    if min(size) < _SMALLEST:
        raise ConfsegError(
            f"built-in {kind}: size {size[0]}x{size[1]} is too small; use at least {_SMALLEST} pixels a side"
        )
    if seed < 0:
        raise ConfsegError(f"built-in {kind}: seed {seed} is negative; use 0 or more")


def _is_complete(root: Path, manifest: dict) -> bool:
    """True where `root` holds this data set, False where it is free; ConfsegError where it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / MANIFEST).is_file():
        raise ConfsegError(
            f"{root} is not a built-in data set (it has no {MANIFEST}); delete it or choose another folder"
        )
    found = files.read_json(root / MANIFEST)
    if found != manifest:
        keys = [key for key in manifest if not isinstance(found, dict) or found.get(key) != manifest[key]]
        raise ConfsegError(
            f"{root} holds another built-in data set (different: {', '.join(keys)}); delete it or choose another folder"
        )
    return True


def _write(kind: str, root: Path, manifest: dict) -> None:
    draw, paths = KINDS[kind]
    height, width = manifest["size"]
    textures = Textures(height, width, manifest["seed"])
    jobs = [(split, index) for split in ("train", "val") for index in range(manifest[split])]

    def make(job: Tuple[str, int]) -> None:
        split, index = job
        stream = [manifest["seed"], list(KINDS).index(kind), ("train", "val").index(split), index]
        image, label, *instances = draw(height, width, textures, np.random.default_rng(stream))
        places = paths(root, split, index)
        for folder in {path.parent for path in [places.image, *places.labels]}:
            folder.mkdir(parents=True, exist_ok=True)
        _write_image(places.image, image)
        for path in places.labels:
            _write_label(path, label, palette=kind == "voc")
        for path, ids in zip(places.instances, instances):
            _write_label(path, ids, palette=False)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(make, jobs):
            pass
    _write_lists(kind, root, manifest)
    files.write_json(root / MANIFEST, manifest)


def _write_image(path: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    path.write_bytes(encoded.tobytes())


def _write_label(path: Path, label: np.ndarray, *, palette: bool) -> None:
    if not palette:
        path.write_bytes(cv2.imencode(".png", label)[1].tobytes())
        return
    image = Image.fromarray(label)
    colors = np.zeros((256, 3), np.uint8)
    colors[: VOC.num_classes] = VOC.colors
    colors[VOC.ignore_label] = (224, 224, 192)  # as in VOC's own files
    image.putpalette(colors.ravel().tolist())
    image.save(path)


def _write_lists(kind: str, root: Path, manifest: dict) -> None:
    if kind == "voc":
        train = range(manifest["train"])
        lists = {
            "train": [_voc_id("train", index) for index in train if _in_voc_train(index)],
            "trainaug": [_voc_id("train", index) for index in train],
            "val": [_voc_id("val", index) for index in range(manifest["val"])],
        }
        for name, ids in lists.items():
            files.write_text(
                root / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt", "".join(f"{id_}\n" for id_ in ids)
            )
    elif kind == "camvid":
        for split in ("train", "val"):
            names = [_camvid_paths(root, split, index)[0].name for index in range(manifest[split])]
            lines = [f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n" for name in names]
            files.write_text(root / f"{split}.txt", "".join(lines))
