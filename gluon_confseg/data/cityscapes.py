"""Cityscapes (Cordts et al. 2016): leftImg8bit with gtFine or gtCoarse, labelIds or labelTrainIds."""

import dataclasses
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ..errors import ConfsegError
from ..labels import CITYSCAPES, IGNORE_LABEL
from .base import (
    IMAGE_SUFFIXES,
    UNREADABLE,
    OnProblem,
    PathLike,
    Sample,
    SegmentationDataset,
    files_by_stem,
    join,
    read_label_png,
    refuse,
    require_folders,
    require_split,
)

_LABEL_FOLDERS = {"train": "gtFine", "val": "gtFine", "test": None, "train_extra": "gtCoarse"}
_ENCODINGS = ("labelIds", "labelTrainIds")
_RAW_ONLY = [raw for raw in CITYSCAPES.raw_ids if CITYSCAPES.num_classes <= raw < IGNORE_LABEL]
_LOOKED_AT = 8  # label files whose values are looked at to tell the two encodings apart

_TRAIN_IDS = dataclasses.replace(
    CITYSCAPES, raw_ids={**{index: index for index in range(CITYSCAPES.num_classes)}, IGNORE_LABEL: IGNORE_LABEL}
)


class Cityscapes(SegmentationDataset):
    """One split of Cityscapes, from the folder that holds leftImg8bit and gtFine.

    Splits: "train" and "val" (gtFine), "train_extra" (gtCoarse), "test" (no labels: the released ones are all ignore).
    Files: leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png and gtFine/SPLIT/CITY/ID_gtFine_labelIds.png (or _labelTrainIds).
    Whether the labels hold raw ids or train ids is found by looking at the values of a few files (`encoding`).

    Raises ConfsegError for a missing folder or another split, and as SegmentationDataset does.
    """

    def __init__(self, root: PathLike, split: str, on_problem: OnProblem = refuse):
        root = Path(root)
        require_split("cityscapes", split, _LABEL_FOLDERS)
        images, labels = f"leftImg8bit/{split}", _LABEL_FOLDERS[split]
        require_folders("cityscapes", root, [images] if labels is None else [images, f"{labels}/{split}"])
        found = files_by_stem(root / images, IMAGE_SUFFIXES, "_leftImg8bit", "*/*", on_problem=on_problem)
        named = "labelIds"
        samples = [Sample(id_, path, None) for id_, path in found.items()]
        if labels is not None:
            named, paths = _label_files(root / labels / split, labels, on_problem)
            samples = join("cityscapes", found, paths, f"{labels}/{split}/CITY/ID_{labels}_{named}.png", on_problem)
        super().__init__(CITYSCAPES, split, samples, on_problem)
        paths = [sample.label for sample in self._samples if sample.label is not None]
        self.encoding = _encoding(paths, named, on_problem) if paths else None
        if self.encoding == "labelTrainIds":
            self.stored = _TRAIN_IDS


def _label_files(split_folder: Path, kind: str, on_problem: OnProblem) -> Tuple[str, Dict[str, Path]]:
    """The encoding whose files are more complete (labelIds where both are) and its files."""
    candidates = [
        (encoding, files_by_stem(split_folder, (".png",), f"_{kind}_{encoding}", "*/*", on_problem=on_problem))
        for encoding in _ENCODINGS
    ]
    return max(candidates, key=lambda candidate: len(candidate[1]))


def _encoding(paths: List[Path], named: str, on_problem: OnProblem) -> str:
    """Which encoding the values speak for; `named`, the file names' word, where they say nothing.

    19..33 are raw ids only. 255 without any of them means train ids: in raw ids it is a licence plate (-1), which does
    not come without a car (26).
    """
    has_ignore = False
    for index in np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int)):
        try:
            values = np.unique(read_label_png(paths[index]))
        except ConfsegError as error:
            on_problem(UNREADABLE, [str(paths[index])], str(error))
            continue
        if np.isin(values, _RAW_ONLY).any():
            return "labelIds"
        has_ignore |= IGNORE_LABEL in values
    return "labelTrainIds" if has_ignore else named
