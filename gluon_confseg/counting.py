"""Two folders of label maps, joined by name and counted into a confusion matrix. Works without MXNet.

Joined by name: a file's name without its folders and without endings such as _leftImg8bit, _gtFine_labelIds, _color or
_pred (labelmaps.Folder); where names repeat in a folder, with the folders below the one given.

Ids are raw ids (as in the data set's PNGs) or train ids (0..K-1). Pairs of stored values are counted first; then, as
all values of a folder are known, only one reading is possible, or both mean the same, or the user must say which.
"""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from . import labels as label_sets
from .confusion import ConfusionMatrix
from .data.ordered import in_order, usable_cores
from .errors import ConfsegError
from .labelmaps import COLORS, RAW_IDS, TRAIN_IDS, Classes, Folder, Reader
from .labels import IGNORE_LABEL, LabelSet
from .progress import bar

_NAMED = {"labelIds": RAW_IDS, "labelTrainIds": TRAIN_IDS}  # what files of this ending hold
_UNKNOWN = -1
_NONE = np.iinfo(np.int32).max  # no image


class Counts(NamedTuple):
    """Counted folders: one matrix per folder of predictions; `images`; `notes`: lines on what was read and left out."""

    matrices: List[ConfusionMatrix]
    images: int
    notes: List[str]


def count(truth: Folder, predictions: Sequence[Folder], classes: Classes, *, skip_missing: bool = False) -> Counts:
    """The confusion matrix of each folder of predictions against the truth.

    A prediction without a truth is left out, with a note; so is, with `skip_missing`, a truth without a prediction.
    Raises ConfsegError, naming the files: a truth without a prediction, sizes that differ, values or colours that are
    no class's, predictions of no class where the truth is one, ids that could be raw ids as well as train ids.
    """
    folders = [truth, *predictions]
    rows, notes = _join(folders, skip_missing)
    readers = [Reader(folder, [row[i] for row in rows], classes) for i, folder in enumerate(folders)]

    def work(index: int) -> List[np.ndarray]:
        label, *maps = (reader(path) for reader, path in zip(readers, rows[index]))
        for path, prediction in zip(rows[index][1:], maps):
            if prediction.shape != label.shape:
                sizes = [f"{width}x{height}" for height, width in (prediction.shape, label.shape)]
                raise ConfsegError(
                    f"{path} is {sizes[0]} but its truth {rows[index][0]} is {sizes[1]}; give label maps of one size"
                )
        return [_histogram(label, prediction) for prediction in maps]

    tables = [_Table() for _ in predictions]
    workers = usable_cores()
    with bar(len(rows), "counting", "image") as progress:
        for index, histograms in enumerate(in_order(work, range(len(rows)), workers, 2 * workers)):
            for table, histogram in zip(tables, histograms):
                table.add(histogram, index)
            progress.update()
    first = np.min([table.first for table in tables], axis=(0, 2))
    label_map = _resolve_truth(readers[0], first, classes.labels, notes)
    matrices = [_matrix(reader, table, label_map, classes.labels, notes) for reader, table in zip(readers[1:], tables)]
    if not matrices[0].counts.any():
        raise ConfsegError(f"no pixel to count: all of the truth in {truth.path} is ignored; check its encoding")
    return Counts(matrices, len(rows), notes)


def _join(folders: Sequence[Folder], skip_missing: bool) -> Tuple[List[List[Path]], List[str]]:
    """Per image, its file in each folder (truth first); and notes on what was left out."""
    keys = [folder.names() for folder in folders]
    if any(len(set(names)) < len(names) for names in keys):
        keys = [folder.paths() for folder in folders]
    by_key = [_by_key(names, folder) for names, folder in zip(keys, folders)]
    truth, notes = by_key[0], []
    common = sorted(set(truth).intersection(*by_key[1:]))
    for folder, files in zip(folders[1:], by_key[1:]):
        missing, extra = sorted(set(truth) - set(files)), sorted(set(files) - set(truth))
        if not set(truth) & set(files):
            raise ConfsegError(
                f"no name of {folder.path} ({folder.role}, {extra[0]}, ...) is a name of {folders[0].path} "
                f"(truth, {missing[0]}, ...); give a prediction the name of its truth"
            )
        if missing and not skip_missing:
            raise ConfsegError(
                f"{len(missing)} of {len(truth)} label maps in {folders[0].path} have no prediction in {folder.path} "
                f"(first: {', '.join(missing[:3])}); make them, or leave these out with --skip-missing"
            )
        for what, names in (("truths without a prediction", missing), ("predictions without a truth", extra)):
            if names:
                notes.append(f"left out: {len(names)} {what} (first: {', '.join(names[:3])}), {folder.path}")
    if not common:
        raise ConfsegError(f"{' and '.join(str(folder.path) for folder in folders[1:])} have no image in common")
    return [[files[key] for files in by_key] for key in common], notes


def _by_key(keys: Sequence[str], folder: Folder) -> Dict[str, Path]:
    found: Dict[str, Path] = {}
    for key, path in zip(keys, folder.files):
        if key in found:
            raise ConfsegError(f"{found[key]} and {path} stand for the same image {key}; remove one of them")
        found[key] = path
    return found


def _histogram(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """int64 (256, 256): how often each pair of values occurs in two uint8 arrays."""
    matrix = ConfusionMatrix(256, ignore_label=-1)
    matrix.update(label, prediction)
    return matrix.counts


class _Table:
    """The summed histogram of a folder, and for each pair of values the first image that has it."""

    def __init__(self) -> None:
        self.counts = np.zeros((256, 256), np.int64)
        self.first = np.full((256, 256), _NONE, np.int32)

    def add(self, histogram: np.ndarray, index: int) -> None:
        np.minimum(self.first, index, out=self.first, where=histogram > 0)
        self.counts += histogram


def _maps(reader: Reader, labels: LabelSet) -> Dict[str, np.ndarray]:
    """The readings that are possible: encoding -> int64 (256,), a value's train id, IGNORE_LABEL or _UNKNOWN."""
    train = np.full(256, _UNKNOWN)
    train[: labels.num_classes] = np.arange(labels.num_classes)
    train[IGNORE_LABEL] = IGNORE_LABEL
    if reader.colors:
        return {COLORS: train}
    raw = np.full(256, _UNKNOWN)
    raw[list(labels.raw_ids)] = list(labels.raw_ids.values())
    maps = {RAW_IDS: raw, TRAIN_IDS: train}
    return {reader.folder.encoding: maps[reader.folder.encoding]} if reader.folder.encoding else maps


def _resolve_truth(reader: Reader, first: np.ndarray, labels: LabelSet, notes: List[str]) -> np.ndarray:
    """int64 (256,): the train id of each value of the truth. first: per value, the first image that has it."""
    values = np.flatnonzero(first < _NONE).tolist()
    maps = _maps(reader, labels)
    possible = {name: table for name, table in maps.items() if (table[values] != _UNKNOWN).all()}
    if not possible:
        wrong = [v for v in values if all(table[v] == _UNKNOWN for table in maps.values())]
        wrong = wrong or [v for v in values if any(table[v] == _UNKNOWN for table in maps.values())]
        _refuse_values(reader, wrong, int(first[wrong[0]]), maps, labels, "")
    chosen = _choose(reader, possible, values, labels)
    notes.append(f"truth: {reader.folder.path}, read as {chosen}")
    return maps[chosen]


def _matrix(
    reader: Reader, table: _Table, label_map: np.ndarray, labels: LabelSet, notes: List[str]
) -> ConfusionMatrix:
    """The counts of a folder of predictions, mapped to train ids. Only pixels whose truth is a class are looked at."""
    counted = (label_map != IGNORE_LABEL) & (label_map != _UNKNOWN)
    first = np.where(counted[:, None], table.first, _NONE).min(axis=0)
    values = np.flatnonzero(first < _NONE).tolist()
    maps = _maps(reader, labels)
    wrong_of = {name: [v for v in values if t[v] in (_UNKNOWN, IGNORE_LABEL)] for name, t in maps.items()}
    possible = {name: maps[name] for name, wrong in wrong_of.items() if not wrong}
    if not possible:
        wrong = min(wrong_of.values(), key=len)
        _refuse_values(reader, wrong, int(first[wrong[0]]), maps, labels, ", where the truth is one")
    chosen = _choose(reader, possible, values, labels)
    notes.append(f"{reader.folder.role}: {reader.folder.path}, read as {chosen}")
    classes = np.arange(labels.num_classes)[:, None]
    rows, columns = label_map == classes, maps[chosen] == classes  # (K, 256)
    counts = rows.astype(np.int64) @ table.counts @ columns.T.astype(np.int64)
    return ConfusionMatrix.from_counts(counts, labels.ignore_label)


def _choose(reader: Reader, possible: Dict[str, np.ndarray], values: List[int], labels: LabelSet) -> str:
    """The one reading of a folder's values; ConfsegError where two are possible and differ."""
    name, *others = possible
    if all((possible[other][values] == possible[name][values]).all() for other in others):
        return name
    named = _NAMED.get(reader.folder.kind)
    if named in possible:
        return named
    # in Cityscapes' raw ids 255 is a licence plate, which does not come without a car (26)
    if reader.folder.role == "truth" and labels is label_sets.CITYSCAPES and IGNORE_LABEL in values:
        return TRAIN_IDS
    option = "--truth-encoding" if reader.folder.role == "truth" else "--prediction-encoding"
    raise ConfsegError(
        f"{reader.folder.role}: the values in {reader.folder.path} ({_shown(values)}) can be raw ids or train ids of "
        f"{labels.name}; say which with {option}"
    )


def _refuse_values(
    reader: Reader, wrong: List[int], index: int, maps: Dict[str, np.ndarray], labels: LabelSet, where: str
) -> None:
    raise ConfsegError(
        f"{reader.files[index]}: {reader.folder.role}: values {_shown(wrong)} are no classes of {labels.name} "
        f"(as {' or '.join(maps)}){where}; correct the class list or the label maps"
    )


def _shown(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
