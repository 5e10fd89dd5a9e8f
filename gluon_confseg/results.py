"""results.json: read, checked and written; and the tables that are printed from it.

Inside, every score is a fraction; printed, it is percent. The paper's numbers (percent) have columns of their own.
A single run's have two decimals; tables over seeds are in seeds.py.
"""

import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Union

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator
from tabulate import tabulate
from typing_extensions import Annotated, Literal

from . import paper
from .config_base import Key, Line
from .confusion import ConfusionMatrix
from .errors import ConfsegError
from .files import read_json, write_text
from .table import NONE, Table

Fraction = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=0, lt=1 << 63)]


class Record(BaseModel):
    """A part of results.json: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Images(Record):
    """Which images: `fingerprint` is SegmentationDataset.fingerprint()."""

    split: Line
    images: int = Field(gt=0)
    fingerprint: Line


class Dataset(Record):
    """`source`: where the root came from; `confusion_images`: the split that the weights and groups were counted on."""

    name: Line
    source: Literal["option", "variable", "built-in"]
    train: Images
    val: Images
    confusion_images: Line


class Group(Record):
    """A confusing group: class names in label order, and why they are together."""

    classes: List[Line]
    reason: Line


class Cell(Record):
    """One cell of the result table. `paper` is in percent, all else in fractions; rows of `confusion` are the truth."""

    key: Key
    title: Line
    role: Literal["baseline", "paper", "control", "variant"]
    paper: Optional[float] = Field(None, ge=0, le=100)
    miou: Fraction
    pixel_accuracy: Fraction
    mean_recall: Fraction
    iou: List[Optional[Fraction]]
    confusion: List[List[Pixels]]


class SubnetScore(Record):
    """Mean IoU over a group's classes: its subnet alone, and the baseline's merged matrix; `group` counts from 1."""

    group: int = Field(ge=1)
    loss: Line
    miou_group: Fraction
    baseline_miou_group: Fraction


class Results(Record):
    """The content of results.json.

    `versions` of the packages; under "stages" those of stages that were made with others. `in_spite_of`: differences
    that stages were kept or continued in spite of (--allow-different), by stage.
    """

    format: Literal[1] = 1
    name: Line
    seed: int
    dataset: Dataset
    classes: List[Line]
    groups: List[Group]
    paper_table: Optional[Line] = None
    cells: List[Cell] = Field(min_length=1)
    subnets: List[SubnetScore]
    seconds: Dict[Line, float]
    versions: Dict[str, Any]
    config: Dict[str, Any]
    in_spite_of: Dict[str, List[str]] = {}

    @model_serializer(mode="wrap")
    def _without_empty_in_spite_of(self, handler: Callable[["Results"], Dict[str, Any]]) -> Dict[str, Any]:
        tree = handler(self)
        if not self.in_spite_of:
            del tree["in_spite_of"]
        return tree

    @model_validator(mode="after")
    def _fits_together(self) -> "Results":
        keys = [cell.key for cell in self.cells]
        if len(set(keys)) != len(keys):
            raise ValueError("cells: two cells have the same key")
        if [cell.role for cell in self.cells].count("baseline") != 1:
            raise ValueError("cells: exactly one cell has the role baseline")
        unknown = [name for group in self.groups for name in group.classes if name not in self.classes]
        if unknown:
            raise ValueError(f"groups: {unknown[0]!r} is not one of the classes")
        for subnet in self.subnets:
            if subnet.group > len(self.groups):
                raise ValueError(f"subnets: there is no group {subnet.group}")
        for cell in self.cells:
            _check_counts(cell, len(self.classes))
            _check_paper(cell, self.paper_table)
            if np.any(np.sum(cell.confusion, axis=1) != np.sum(self.baseline.confusion, axis=1)):
                raise ValueError(f"cell {cell.key}: its truth is not the baseline's; all cells count the same pixels")
        return self

    @property
    def baseline(self) -> Cell:
        """The cell that the others are compared with."""
        return next(cell for cell in self.cells if cell.role == "baseline")

    def cell(self, key: str) -> Cell:
        """A cell by its key; ConfsegError lists the keys."""
        for cell in self.cells:
            if cell.key == key:
                return cell
        raise ConfsegError(f"these results have no cell {key!r}; use one of {', '.join(c.key for c in self.cells)}")


def make_cell(
    confusion: ConfusionMatrix, *, key: str, title: str, role: str, paper_table: Optional[str] = None
) -> Cell:
    """The cell that a confusion matrix gives; the paper's number is looked up in `paper_table` by `key`."""
    return Cell(
        key=key,
        title=title,
        role=role,
        paper=None if paper_table is None else paper.table(paper_table).cells.get(key),
        confusion=confusion.counts.tolist(),
        **_scores(confusion),
    )


def read(path: Union[str, Path]) -> Results:
    """Read and check results.json; ConfsegError names the file and what is wrong with it."""
    return parse(read_json(path), str(path))


def parse(tree: Any, source: str) -> Results:
    """Check a plain tree (read from `source`): types, ranges, and that every cell's scores are those of its counts."""
    try:
        return Results.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        message = problem["msg"].replace("Value error, ", "")
        raise ConfsegError(
            f"{source}: {where + ': ' if where else ''}{message}; make it again with confseg run"
        ) from None


def write(path: Union[str, Path], results: Union[Results, Mapping[str, Any]]) -> None:
    """Check and write results.json, atomically, one row of a matrix per line."""
    checked = results if isinstance(results, Results) else parse(results, str(path))
    text = json.dumps(checked.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False)
    # json.dumps gives every number a line; a JSON string holds no raw line break, so none is touched
    text = re.sub(r'\[\n([^][{}"]*)\]', lambda found: f"[{' '.join(found.group(1).split())}]", text)
    write_text(path, text + "\n")


def run_table(results: Results) -> str:
    """The printed result of one run, plain text: cells, the paper's numbers beside ours, subnets, caveats."""
    parts = [_heading(results), _cell_table(results), *notes_of(results)]
    if results.subnets:
        parts += ["", _subnet_table(results), *_subnet_warnings(results)]
    return "\n".join(parts)


def class_table(results: Results) -> Table:
    """IoU % per class, in label order, for every cell, and the share of each class among the labelled pixels.

    `group` is the number of the class's subnet. A class that is neither in the truth nor predicted has no IoU.
    """
    truth = np.sum(results.baseline.confusion, axis=1)
    group_of = {name: str(i) for i, group in enumerate(results.groups, 1) for name in group.classes}
    rows = [
        ["group", *(group_of.get(name, NONE) for name in results.classes), ""],
        ["pixels %", *(percent(pixels / truth.sum()) for pixels in truth), ""],
    ]
    rows += [[title(cell), *map(percent, cell.iou), percent(cell.miou)] for cell in results.cells]
    headers = ["cell", *results.classes, "mean"]
    return Table(f"IoU per class, %, seed {results.seed}", headers, rows)


def _scores(confusion: ConfusionMatrix) -> Dict[str, Any]:
    iou = confusion.iou()
    return {
        "miou": float(confusion.mean_iou()),
        "pixel_accuracy": float(confusion.pixel_accuracy()),
        "mean_recall": float(confusion.mean_recall()),
        "iou": [None if np.isnan(value) else float(value) for value in iou],
    }


def _check_counts(cell: Cell, num_classes: int) -> None:
    if len(cell.confusion) != num_classes or any(len(row) != num_classes for row in cell.confusion):
        raise ValueError(f"cell {cell.key}: its confusion matrix is not {num_classes}x{num_classes}")
    counts = np.array(cell.confusion, np.int64)
    if not counts.any():
        raise ValueError(f"cell {cell.key}: its confusion matrix has no pixel")
    for name, expected in _scores(ConfusionMatrix.from_counts(counts)).items():
        # None becomes nan; nan equals nan here
        found, wanted = np.array(getattr(cell, name), float), np.array(expected, float)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=1e-9, equal_nan=True):
            raise ValueError(f"cell {cell.key}: {name} is not that of its confusion matrix")


def _check_paper(cell: Cell, table_name: Optional[str]) -> None:
    printed = None if table_name is None else paper.table(table_name).cells.get(cell.key)
    if cell.paper != printed:
        raise ValueError(f"cell {cell.key}: paper is {cell.paper}, but the paper's table ({table_name}) has {printed}")


def percent(fraction: Optional[float], *, sign: bool = False) -> str:
    if fraction is None:
        return NONE
    value = round(100 * fraction, 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{value:+.2f}" if sign and value else f"{value:.2f}"


def title(cell: Cell) -> str:
    """A cell's title; that of a control has a star."""
    return f"{cell.title} *" if cell.role == "control" else cell.title


def images_line(results: Results) -> str:
    data, count = results.dataset, len(results.classes)
    return f"{data.name} {data.val.split}, {data.val.images} images, {count} classes (data root: {data.source})"


def _heading(results: Results) -> str:
    return f"{results.name}, seed {results.seed}: {images_line(results)}"


def paper_columns(results: Results, cell: Cell) -> List[str]:
    if cell.paper is None:
        return [NONE, NONE]
    base = results.baseline.paper
    gain = NONE if base is None or cell.role == "baseline" else f"{cell.paper - base:+.2f}"
    return [f"{cell.paper:.2f}", gain]


def _cell_table(results: Results) -> str:
    headers = ["cell", "role", "mIoU %", "difference", "mean recall %", "pixel acc. %"]
    if results.paper_table:
        headers += ["paper mIoU %", "paper diff."]
    rows = []
    for cell in results.cells:
        difference = NONE if cell.role == "baseline" else percent(cell.miou - results.baseline.miou, sign=True)
        row = [title(cell), cell.role, percent(cell.miou), difference]
        row += [percent(cell.mean_recall), percent(cell.pixel_accuracy)]
        rows.append(row + (paper_columns(results, cell) if results.paper_table else []))
    return Table("", headers, rows, left=2).plain()


def notes_of(results: Results) -> Iterator[str]:
    data = results.dataset
    yield "difference: points of mIoU against the baseline of the same run, taken before rounding"
    if any(cell.role == "control" for cell in results.cells):
        yield "* control: not in the paper; a gain over the baseline counts only as far as it exceeds the controls'"
    if results.paper_table:
        printed = paper.table(results.paper_table)
        yield f"paper: {printed.title}; comparable only with the same network, training and images"
        for slip in printed.slips:
            yield f"slip: {slip}"
    for stage, differences in results.in_spite_of.items():
        yield f"warning: stage {stage} was kept or continued with other settings, data or versions: " + "; ".join(
            differences
        )
    if data.source == "built-in":
        yield "note: these are the built-in synthetic images; the numbers say nothing about photographs"
    counted = f"the confusion matrix for the groups and the loss was counted on {data.confusion_images}"
    if data.confusion_images in ("val", data.val.split):
        yield f"warning: {counted}, the images evaluated here: they leak into the groups and the loss"
    else:
        yield f"note: {counted}"


def _subnet_table(results: Results) -> str:
    headers = ["subnet", "loss", "mIoU %", "baseline %", "difference", "group"]
    rows = []
    for score in results.subnets:
        difference = percent(score.miou_group - score.baseline_miou_group, sign=True)
        numbers = [percent(score.miou_group), percent(score.baseline_miou_group), difference]
        rows.append([str(score.group), score.loss, *numbers, ", ".join(results.groups[score.group - 1].classes)])
    align = ("right", "left", "right", "right", "right", "left")
    title = "Each subnet alone, mIoU over its group's classes (baseline: its matrix with all other classes merged)"
    return f"{title}\n{tabulate(rows, headers, tablefmt='simple', disable_numparse=True, colalign=align)}"


def _subnet_warnings(results: Results) -> Iterator[str]:
    for score in results.subnets:
        loss = score.baseline_miou_group - score.miou_group
        if loss > 0:
            yield (
                f"warning: subnet {score.group} ({score.loss}) is {100 * loss:.2f} points worse than the baseline"
                " in its own group; train it longer, give it more features, or leave it out"
            )
