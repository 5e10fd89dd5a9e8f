"""The images of a run: its two splits, or, with `data.held_out`, two parts of the training split."""

import copy
from pathlib import Path
from typing import Tuple

from ..config_data import Data
from ..errors import ConfsegError
from . import open_dataset
from .base import SegmentationDataset


def open_training_split(settings: Data, root: Path) -> SegmentationDataset:
    """The training split, without the part that is held out. Raises ConfsegError as `open_dataset` does."""
    whole = open_dataset(settings.name, root, settings.train_split)
    return cut(whole, settings.held_out)[0] if settings.held_out else whole


def open_validation_split(settings: Data, root: Path) -> SegmentationDataset:
    """The validation split, or the part of the training split that is held out. Raises as `open_dataset` does."""
    if settings.held_out:
        return cut(open_dataset(settings.name, root, settings.train_split), settings.held_out)[1]
    return open_dataset(settings.name, root, settings.val_split)


def cut(dataset: SegmentationDataset, share: float) -> Tuple[SegmentationDataset, SegmentationDataset]:
    """The images up to a point of the sorted ids, and the rest, `share` of all (rounded): "train[:80]", "train[80:]".

    There is one cut, so that of a video only two neighbouring frames are on different sides of it. Raises ConfsegError
    where a part would be empty.
    """
    at = len(dataset) - round(share * len(dataset))
    if not 0 < at < len(dataset):
        raise ConfsegError(
            f"data.held_out: {share} of the {len(dataset)} images of {dataset.name} {dataset.split} leaves one side of "
            "the cut empty; choose another share"
        )
    return _part(dataset, slice(None, at), f"[:{at}]"), _part(dataset, slice(at, None), f"[{at}:]")


def _part(dataset: SegmentationDataset, chosen: slice, suffix: str) -> SegmentationDataset:
    part = copy.copy(dataset)
    part.split = dataset.split + suffix
    part._samples, part.ids = dataset._samples[chosen], dataset.ids[chosen]
    return part
