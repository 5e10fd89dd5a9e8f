"""Data sets and loaders: RGB uint8 images, uint8 train ids with 255 = ignore."""

import os
from pathlib import Path
from typing import Optional, Tuple

from ..errors import ConfsegError
from ..places import ROOT_VARIABLES
from .base import SHARED, OnProblem, PathLike, SegmentationDataset, refuse
from .camvid import CamVid
from .cityscapes import Cityscapes
from .voc import PascalVOC

__all__ = [
    "CamVid",
    "Cityscapes",
    "PascalVOC",
    "SegmentationDataset",
    "check_disjoint",
    "find_root",
    "open_dataset",
]

_DATASETS = {"cityscapes": Cityscapes, "voc": PascalVOC, "camvid": CamVid}


def open_dataset(name: str, root: PathLike, split: str, on_problem: OnProblem = refuse) -> SegmentationDataset:
    """Open a split of "cityscapes", "voc", "camvid" or "folders".

    `root` is the data set's folder; for "folders" its YAML file, or the folder of dataset.yaml.
    `on_problem`: see SegmentationDataset. Raises ConfsegError for another name, and what the data set's class raises.
    """
    if name == "folders":
        from .folders import FolderPairs  # late: pydantic would be a third of the start of `confseg confusion`

        return FolderPairs(root, split, on_problem)
    if name not in _DATASETS:
        raise ConfsegError(f"no data set {name!r}; there are {', '.join(_DATASETS)}, folders")
    return _DATASETS[name](root, split, on_problem)


def find_root(name: str, option: Optional[PathLike] = None) -> Tuple[Optional[Path], str]:
    """(root, where it came from): the option, else the environment variable, else (None, "built-in").

    The source is "option", "variable" or "built-in". Whether the folder exists is for `open_dataset` to say.
    Raises ConfsegError for "folders" without an option: it has no variable and no built-in data.
    """
    if option is not None:
        return Path(option).expanduser(), "option"
    if name not in ROOT_VARIABLES:
        raise ConfsegError(
            f"the data set {name!r} needs --data-root: its YAML file, or the folder that holds dataset.yaml"
        )
    variable = os.environ.get(ROOT_VARIABLES[name])
    return (Path(variable).expanduser(), "variable") if variable else (None, "built-in")


def check_disjoint(train: SegmentationDataset, val: SegmentationDataset, on_problem: OnProblem = refuse) -> None:
    """Tell `on_problem` where an image is in both splits (count, first ids); by default that raises ConfsegError."""
    shared = sorted(set(train.ids) & set(val.ids))
    if shared:
        message = (
            f"{train.name}: {len(shared)} images of the training split {train.split!r} are in the validation split "
            f"{val.split!r} too (first: {', '.join(shared[:3])}); choose splits that do not overlap"
        )
        on_problem(SHARED, shared, message)
