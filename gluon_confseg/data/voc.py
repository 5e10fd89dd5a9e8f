"""PASCAL VOC 2012 segmentation (Everingham et al.) with the extra labels of SBD (Hariharan et al. 2011)."""

import struct
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from ..errors import ConfsegError
from ..labels import IGNORE_LABEL, VOC
from .base import (
    NO_LABEL,
    SHARED,
    OnProblem,
    PathLike,
    Sample,
    SegmentationDataset,
    files_by_stem,
    read_label_png,
    read_list,
    refuse,
    report_missing,
    require_split,
)
from .mat_file import read_field

SPLITS = ("train", "trainaug", "val", "test")
_LISTS = "ImageSets/Segmentation"
_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "VOCaug/dataset")  # as released; as GluonCV's download script names it


class PascalVOC(SegmentationDataset):
    """One split of PASCAL VOC 2012.

    `root` is .../VOCdevkit/VOC2012, .../VOCdevkit or the folder above. Splits:

    - "train" (1,464 images) and "val" (1,449): ImageSets/Segmentation lists, SegmentationClass labels.
    - "trainaug" (10,582): ImageSets/Segmentation/trainaug.txt, or (SBD train + SBD val + VOC train) - VOC val. Labels:
      VOC's own where the image is in VOC's train list, else SegmentationClassAug/ID.png, else SBD's cls/ID.mat.
      SBD is looked for as benchmark_RELEASE in the root and in the two folders above VOC2012.
    - "test": no labels.

    A training list that holds validation images is a problem too. Raises ConfsegError for missing folders or lists, and
    as SegmentationDataset does.
    """

    def __init__(self, root: PathLike, split: str, on_problem: OnProblem = refuse):
        require_split("voc", split, SPLITS)
        home = _find_home(Path(root))
        sbd = _find_sbd(Path(root), home)
        ids = _trainaug_ids(home, sbd) if split == "trainaug" else _ids(home / _LISTS / f"{split}.txt")
        if split in ("train", "trainaug"):
            _report_validation_images(home, split, ids, on_problem)
        images = files_by_stem(home / "JPEGImages", (".jpg", ".jpeg", ".png"), on_problem=on_problem)
        where = str(home / "JPEGImages")
        report_missing(f"voc {split}", [id_ for id_ in ids if id_ not in images], len(ids), where, on_problem)
        labels = {} if split == "test" else _labels(home, sbd, split, ids, on_problem)
        samples = [Sample(id_, images[id_], labels.get(id_)) for id_ in ids if id_ in images]
        super().__init__(VOC, split, samples, on_problem)

    def read_raw_label(self, path: Path) -> np.ndarray:
        return _read_mat(path) if path.suffix == ".mat" else read_label_png(path)


def _find_home(root: Path) -> Path:
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    for home in candidates:
        if (home / "JPEGImages").is_dir() and (home / _LISTS).is_dir():
            return home
    looked = ", ".join(map(str, candidates)) if root.is_dir() else f"{root}, which is no folder"
    raise ConfsegError(f"voc: no VOC2012 (JPEGImages and {_LISTS}) in {looked}; give the folder that holds VOCdevkit")


def _find_sbd(root: Path, home: Path) -> Optional[Path]:
    for folder in (root, home, home.parent, home.parent.parent):
        for name in _SBD_FOLDERS:
            if (folder / name / "cls").is_dir():
                return folder / name
    return None


def _ids(path: Path) -> List[str]:
    """Image ids of a list; "/JPEGImages/ID.jpg /SegmentationClass/ID.png" lines count as ID."""
    return [Path(line.split()[0]).stem for line in read_list(path)]


def _trainaug_ids(home: Path, sbd: Optional[Path]) -> List[str]:
    path = home / _LISTS / "trainaug.txt"
    if path.is_file():
        return _ids(path)
    if sbd is None:
        raise ConfsegError(
            f"voc: trainaug needs {path} with SegmentationClassAug, or SBD's {_SBD_FOLDERS[0]} beside VOCdevkit; "
            "neither is there: add one, or use the split 'train'"
        )
    union = {*_ids(sbd / "train.txt"), *_ids(sbd / "val.txt"), *_ids(home / _LISTS / "train.txt")}
    return sorted(union - set(_ids(home / _LISTS / "val.txt")))


def _report_validation_images(home: Path, split: str, ids: List[str], on_problem: OnProblem) -> None:
    path = home / _LISTS / "val.txt"
    shared = sorted(set(ids) & set(_ids(path))) if path.is_file() else []
    if shared:
        message = (
            f"voc: {len(shared)} of {len(ids)} images of {home / _LISTS / split}.txt are in {path.name} too "
            f"(first: {', '.join(shared[:3])}); take them out of the training list"
        )
        on_problem(SHARED, shared, message)


def _labels(home: Path, sbd: Optional[Path], split: str, ids: List[str], on_problem: OnProblem) -> Dict[str, Path]:
    own, augmented = home / "SegmentationClass", home / "SegmentationClassAug"
    folder, labels = own, files_by_stem(own, (".png",), on_problem=on_problem)
    if split == "trainaug":
        # VOC's labels are finer than SBD's, so they win where VOC released one for training
        fine = {id_: labels[id_] for id_ in _ids(home / _LISTS / "train.txt") if id_ in labels}
        extra = files_by_stem(sbd / "cls", (".mat",), on_problem=on_problem) if sbd is not None else {}
        labels = {**extra, **files_by_stem(augmented, (".png",), on_problem=on_problem), **fine}
        folder = augmented if sbd is None else sbd / "cls"
    missing = [id_ for id_ in ids if id_ not in labels]
    report_missing(f"voc {split}", missing, len(ids), str(folder), on_problem, NO_LABEL)
    return labels


def _read_mat(path: Path) -> np.ndarray:
    """SBD's class labels: GTcls.Segmentation of a .mat file, uint8 HxW."""
    try:
        ids = read_field(path, "GTcls", "Segmentation")
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}; check the data set") from error
    except (ValueError, struct.error) as error:
        raise ConfsegError(f"{path}: cannot read GTcls.Segmentation ({error}); get SBD's file again") from error
    if not ((ids >= 0) & (ids <= IGNORE_LABEL) & (ids == np.floor(ids))).all():
        raise ConfsegError(f"{path}: GTcls.Segmentation holds values that are no class ids; get SBD's file again")
    return np.ascontiguousarray(ids, dtype=np.uint8)
