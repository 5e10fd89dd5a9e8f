"""Label maps with official ids, of any network, against Cityscapes' truth: our counts beside the official evaluator's.

Instance-level IoU (iIoU) is what cityscapesScripts computes; class and category IoU are counted here too, and compared.
"""

import contextlib
import copy
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from . import progress
from .confusion import ConfusionMatrix, mean_score
from .data import SegmentationDataset, find_root, open_dataset
from .data.base import PathLike, image_size, read_label_png
from .data.cityscapes import Cityscapes
from .errors import ConfsegError
from .files import write_json
from .labels import CITYSCAPES, IGNORE_LABEL

NUM_IDS = 34  # official ids are 0..33
INSTALL = "pip install cityscapesScripts"
_EVALUATED = sorted((train, id_) for id_, train in CITYSCAPES.raw_ids.items() if train != IGNORE_LABEL)
_IDS = np.array([id_ for _, id_ in _EVALUATED], np.uint8)  # official id of each train id
_FIRST = 3  # files that are named in a message


@dataclass(frozen=True)
class Scores:
    """IoU of classes and categories by name, their means, and iIoU where there is one; NaN where not defined."""

    classes: Dict[str, float]
    categories: Dict[str, float]
    mean_class: float
    mean_category: float

    def figures(self) -> Dict[str, float]:
        """All of them, by a name that is theirs alone."""
        named = {f"class {name}": score for name, score in self.classes.items()}
        named.update({f"category {name}": score for name, score in self.categories.items()})
        return {**named, "mean of classes": self.mean_class, "mean of categories": self.mean_category}


@dataclass(frozen=True)
class Official:
    """What cityscapesScripts found: its IoU, its iIoU (None without instanceIds), its counts int64 (34, 34)."""

    iou: Scores
    iiou: Optional[Scores]
    counts: np.ndarray


def evaluate_official(
    predictions: PathLike,
    *,
    data_root: Optional[PathLike] = None,
    split: str = "val",
    output: Optional[PathLike] = None,
) -> bool:
    """Print class and category IoU and iIoU of the official-id PNGs below `predictions`; False where ours differ.

    A prediction's name begins with CITY_SEQUENCE_FRAME of its image, anywhere below the folder, as the official
    evaluator wants it. `output` is a JSON file. Raises ConfsegError for the user's mistakes.
    """
    if output is not None and Path(output).is_dir():
        raise ConfsegError(f"--output {output} is a folder; give the name of a JSON file")
    root, _ = find_root("cityscapes", data_root)
    if root is None:
        raise ConfsegError("say where Cityscapes is: --data-root, or the variable CITYSCAPES_DATASET")
    dataset = open_dataset("cityscapes", root, split)
    if not dataset.has_labels:
        raise ConfsegError(f"cityscapes: the split {split!r} has no labels; choose another one")
    paths, notes = find_predictions(Path(predictions), dataset)
    matrix = count(paths, dataset)
    ours = scores(matrix)
    evaluator, missing = load_evaluator(dataset)
    found, differ = None, []
    if evaluator is None:
        notes.append(f"the official evaluator's figures are left out: {missing}")
    else:
        instances, missing = _instances(dataset)
        if not instances:
            notes.append(f"iIoU is left out: {missing}")
        found = run_evaluator(evaluator, paths, dataset, instances=instances)
        differ = _differences(matrix, ours, found)
        notes.append(
            f"ours and the official evaluator's DIFFER in: {', '.join(differ)}; please report it"
            if differ
            else f"ours and the official evaluator's {len(ours.figures())} IoU figures, and the pixel counts, are equal"
        )
    print(f"{dataset.name} {split}, {len(dataset)} images\n\n{_table(ours, found)}\n")
    print("\n".join(notes))
    if output is not None:
        write_json(output, _record(dataset, matrix, ours, found))
    return not differ


def find_predictions(folder: Path, dataset: SegmentationDataset) -> Tuple[List[Path], List[str]]:
    """The prediction of each image, in order, and remarks on what else is there.

    Raises ConfsegError where the folder is missing or has none, an image has no prediction or several.
    """
    if not folder.is_dir():
        raise ConfsegError(f"no folder {folder}; give the folder of the predictions (PNGs with official ids)")
    ids, lengths = set(dataset.ids), sorted({len(id_) for id_ in dataset.ids})
    found: Dict[str, List[Path]] = {}
    others = []
    for path in sorted(folder.rglob("*.png")):
        matching = [path.name[:length] for length in lengths if path.name[:length] in ids]
        for id_ in matching:
            found.setdefault(id_, []).append(path)
        if not matching:
            others.append(path)
    what = f"{dataset.name} {dataset.split}"
    if not found:
        seen = f"its {len(others)} PNGs have other names, first {others[0].name}" if others else "it has no PNG"
        raise ConfsegError(
            f"{folder} has no prediction of {what}: {seen}; a name begins with its image's, as in {dataset.ids[0]}*.png"
        )
    several = [id_ for id_ in dataset.ids if len(found.get(id_, ())) > 1]
    if several:
        named = " and ".join(map(str, found[several[0]][:_FIRST]))
        hint = f"did you mean {folder / 'raw'}?" if (folder / "raw").is_dir() else "give a folder with one of each"
        raise ConfsegError(f"{len(several)} images of {what} have several predictions (first: {named}); {hint}")
    missing = [id_ for id_ in dataset.ids if id_ not in found]
    if missing:
        raise ConfsegError(
            f"{len(missing)} of {len(ids)} images of {what} have no prediction in {folder} (first: "
            f"{', '.join(missing[:_FIRST])}); predict the whole split, its figures are defined on all images"
        )
    notes = (
        [f"{len(others)} PNGs that belong to no image of {what} were skipped (first: {others[0]})"] if others else []
    )
    return [found[id_][0] for id_ in dataset.ids], notes


def count(paths: Sequence[Path], dataset: SegmentationDataset) -> ConfusionMatrix:
    """Pixels by official ids, int64 (34, 34), rows = truth; rows of ids that Cityscapes does not evaluate stay 0.

    Raises ConfsegError, naming the file, for a prediction that is damaged, no label map, of another size than its image
    or of unknown ids; and where the predictions hold train ids.
    """
    matrix = ConfusionMatrix(NUM_IDS)
    official = np.full(256, IGNORE_LABEL, np.uint8)
    official[: len(_IDS)] = _IDS
    with progress.bar(len(dataset), "count", "image") as bar:
        for index, path in enumerate(paths):
            matrix.update(official[dataset.label(index)], _read_prediction(path, dataset.image_path(index)))
            bar.update()
    if not matrix.counts.any():
        raise ConfsegError(f"{dataset.name} {dataset.split}: no pixel is labelled; choose another --split")
    train_ids = np.arange(CITYSCAPES.num_classes)
    right, right_as_train_ids = (int(matrix.counts[_IDS, ids].sum()) for ids in (_IDS, train_ids))
    if not matrix.counts[:, CITYSCAPES.num_classes :].any() and right_as_train_ids > right:
        raise ConfsegError(
            f"{paths[0]} and others: no id is above {CITYSCAPES.num_classes - 1}, and more pixels are right if they "
            "are read as train ids, so these are train ids; give official ids (confseg predict writes them into raw/)"
        )
    return matrix


def _read_prediction(path: Path, image: Path) -> np.ndarray:
    ids = read_label_png(path)
    width, height = image_size(image)
    if ids.shape != (height, width):
        raise ConfsegError(
            f"{path}: the prediction is {ids.shape[1]}x{ids.shape[0]} but its image {image} is {width}x{height}; "
            "write it at the image's size"
        )
    values = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    unknown = values[values >= NUM_IDS]
    if unknown.size:
        train_ids = unknown.tolist() == [IGNORE_LABEL] and values[values < NUM_IDS].max(initial=0) < len(_IDS)
        hint = "these look like train ids, convert them" if train_ids else "write ids, not colours or instances"
        named = ", ".join(map(str, unknown[:_FIRST])) + (", ..." if unknown.size > _FIRST else "")
        raise ConfsegError(f"{path}: {named} are no official ids, which are 0..{NUM_IDS - 1}; {hint}")
    return ids


def scores(matrix: ConfusionMatrix) -> Scores:
    """Class and category IoU of counts by official ids, (34, 34); predicted ids that are not evaluated are wrong."""
    to_class = np.full(NUM_IDS, CITYSCAPES.num_classes)  # the last one is void: predicted, never true
    to_class[_IDS] = np.arange(CITYSCAPES.num_classes)
    to_category = np.append(CITYSCAPES.category_indices(), len(CITYSCAPES.categories))[to_class]
    by_class, by_category = (matrix.collapsed(table).iou()[: table.max()] for table in (to_class, to_category))
    return Scores(
        dict(zip(CITYSCAPES.classes, by_class.tolist())),
        dict(zip(CITYSCAPES.categories, by_category.tolist())),
        mean_score(by_class),
        mean_score(by_category),
    )


def load_evaluator(dataset: Cityscapes) -> Tuple[Any, str]:
    """(cityscapesScripts' module, "") where it can judge these labels, else (None, why not and what to do)."""
    files = [dataset.label_path(index) for index in range(len(dataset))]
    if dataset.encoding != "labelIds" or not all(path.stem.endswith("_labelIds") for path in files):
        return None, f"it reads *_labelIds.png, and {files[0].parent} has labelTrainIds"
    try:
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator
    except ImportError as error:
        return None, f"{INSTALL} ({error})"
    except ValueError as error:  # of a variable that it reads at import
        return None, str(error)
    return evaluator, ""


def _instances(dataset: SegmentationDataset) -> Tuple[bool, str]:
    """Whether all instanceIds are there, at the place where the evaluator looks; else why not."""
    paths = [Path(str(dataset.label_path(index)).replace("labelIds", "instanceIds")) for index in range(len(dataset))]
    missing = [path for path in paths if not path.is_file()]
    return (
        not missing,
        f"{len(missing)} of {len(paths)} instanceIds are missing (first: {missing[0]})" if missing else "",
    )


class _Watched(List[str]):
    """A list that moves the bar when the evaluator, which goes through it once, takes an item."""

    def __init__(self, paths: Sequence[str], bar: tqdm) -> None:
        super().__init__(paths)
        self._bar = bar

    def __getitem__(self, index: Any) -> Any:
        self._bar.update()
        return super().__getitem__(index)


def run_evaluator(evaluator: Any, paths: Sequence[Path], dataset: SegmentationDataset, *, instances: bool) -> Official:
    """The official evaluation of these files, by the evaluator's own code; its module's settings are left alone."""
    options = copy.copy(evaluator.args)
    options.evalInstLevelScore, options.evalPixelAccuracy = instances, False
    options.JSONOutput, options.quiet = False, True
    truth = [str(dataset.label_path(index)) for index in range(len(dataset))]
    printed = io.StringIO()
    try:
        with progress.bar(len(truth), "official", "image") as bar, contextlib.redirect_stdout(printed):
            found = evaluator.evaluateImgLists(_Watched(list(map(str, paths)), bar), truth, options)
    except SystemExit as error:  # how it reports errors
        raise ConfsegError(f"the official evaluator gave up: {' '.join(printed.getvalue().split())}") from error
    iou = _official_scores(found, "")
    counts = np.array(found["confMatrix"], np.int64)
    return Official(iou, _official_scores(found, "Inst") if instances else None, counts)


def _official_scores(found: Dict[str, Any], kind: str) -> Scores:
    classes, categories = found[f"class{kind}Scores"], found[f"category{kind}Scores"]
    return Scores(
        {name: classes[name] for name in CITYSCAPES.classes},
        {name: categories[name] for name in CITYSCAPES.categories},
        found[f"averageScore{kind}Classes"],
        found[f"averageScore{kind}Categories"],
    )


def _differences(matrix: ConfusionMatrix, ours: Scores, found: Official) -> List[str]:
    """Names of the figures that differ: all that both have, each exactly, and the counts."""
    official = found.iou.figures()
    named = [
        name for name, value in ours.figures().items() if not np.array_equal(value, official[name], equal_nan=True)
    ]
    return named + ([] if np.array_equal(matrix.counts[_IDS], found.counts[_IDS]) else ["pixel counts"])


def _table(ours: Scores, found: Optional[Official]) -> str:
    columns = {"IoU %": ours}
    if found is not None:
        columns["official IoU %"] = found.iou
        if found.iiou is not None:
            columns["official iIoU %"] = found.iiou
    rows = [
        [name, *("-" if math.isnan(value) else f"{100 * value:.2f}" for value in values)]
        for name, *values in zip(ours.figures(), *(column.figures().values() for column in columns.values()))
    ]
    align = ["left"] + ["right"] * len(columns)
    return tabulate(rows, ["", *columns], tablefmt="pipe", disable_numparse=True, colalign=align)


def _record(
    dataset: SegmentationDataset, matrix: ConfusionMatrix, ours: Scores, found: Optional[Official]
) -> Dict[str, Any]:
    def known(kept: Optional[Scores]) -> Optional[Dict[str, Any]]:
        if kept is None:
            return None
        return {name: None if math.isnan(value) else value for name, value in kept.figures().items()}

    images = {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
    return {
        "format": 1,
        "dataset": {"name": dataset.name, **images},
        "iou": known(ours),
        "official_iou": known(found and found.iou),
        "official_iiou": known(found and found.iiou),
        "counts": matrix.counts.tolist(),  # by official ids, rows = truth
    }
