"""`confseg confusion`: what a matrix says, and what changed between two, as printed tables, CSV files and a picture."""

from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np

from . import confusion_files
from .confusion import ConfusionMatrix
from .counting import count
from .files import PathLike
from .labelmaps import Classes, Folder

MATRIX_FILE, BEFORE_FILE = "confusion.npz", "before.npz"
_NONE = "-"  # printed where there is no number


def confusion(
    predictions: PathLike,
    truth: PathLike,
    *,
    classes: str,
    output: PathLike,
    before: Optional[PathLike] = None,
    encodings: Sequence[Optional[str]] = (None, None),
    skip_missing: bool = False,
    pairs: int = 10,
) -> None:
    """Count two folders of label maps (three with `before`), print the tables and write everything to `output`.

    classes: see labelmaps.Classes.load; encodings: of the predictions and of the truth; pairs: how many are printed.
    Raises ConfsegError as counting.count does.
    """
    listed = Classes.load(classes)
    folders = [Folder("predictions", predictions, encodings[0])]
    if before is not None:
        folders.append(Folder("before", before, encodings[0]))
    counted = count(Folder("truth", truth, encodings[1]), folders, listed, skip_missing=skip_missing)
    output, names = Path(output), listed.labels.classes
    for matrix, folder, file in zip(counted.matrices, folders, (MATRIX_FILE, BEFORE_FILE)):
        metadata = {"predictions": str(folder.path), "truth": str(truth), "images": str(counted.images)}
        confusion_files.save(output / file, matrix, names, dataset=listed.labels.name, **metadata)
        confusion_files.write_matrix((output / file).with_suffix(".csv"), matrix.counts, names)
    after, *others = counted.matrices
    old = others[0] if others else None
    confusion_files.write_csv(output / "classes.csv", class_rows(after, names, old))
    confusion_files.write_csv(output / "pairs.csv", pair_rows(after, names, old))
    from . import figures  # late: Matplotlib takes as long to import as all else together

    titles = {"predictions": after} if old is None else {"before": old, "predictions": after}
    figures.heatmaps(output / "confusion.png", {title: m.counts for title, m in titles.items()}, names)
    print("\n".join([*counted.notes, f"{counted.images} images, {after.counts.sum():,} labelled pixels", ""]))
    print(class_table(after, names, old))
    print("\n" + (pair_table(after, names, pairs) if old is None else change_tables(after, old, names, pairs)))
    print(f"\nthe matrix (npz, csv, png), classes.csv and pairs.csv are in {output}")
    print(f"next: confseg groups {output / MATRIX_FILE}")


def class_rows(
    after: ConfusionMatrix, names: Sequence[str], before: Optional[ConfusionMatrix] = None
) -> List[List[Any]]:
    """Rows of classes.csv: per class its true pixels, IoU, recall and precision (fractions; empty where undefined)."""
    header = ["class", "pixels", "iou", "recall", "precision"]
    columns = [names, after.counts.sum(axis=1).tolist(), *map(_cells, (after.iou(), after.recall(), _precision(after)))]
    if before is not None:
        header += ["iou_before", "iou_change"]
        columns += [_cells(before.iou()), _cells(after.iou() - before.iou())]
    return [header, *map(list, zip(*columns))]


def pair_rows(
    after: ConfusionMatrix, names: Sequence[str], before: Optional[ConfusionMatrix] = None
) -> List[List[Any]]:
    """Rows of pairs.csv: every pair (truth, prediction) of different classes that occurs.

    One matrix: the largest share of the truth's pixels first. Two: the largest fall of pixels first, the largest rise
    last.
    """
    if before is None:
        errors = after.most_confused(after.num_classes**2)
        rows = [[names[i], names[j], pixels, share] for i, j, share, pixels in errors]
        return [["truth", "prediction", "pixels", "share_of_truth"], *rows]
    change, old, new = after.counts - before.counts, before.row_normalized(), after.row_normalized()
    found = [(i, j) for i, j in np.argwhere(after.counts + before.counts).tolist() if i != j]
    found.sort(key=lambda pair: (change[pair], pair))
    header = ["truth", "prediction", "pixels_before", "pixels", "change", "share_before", "share_of_truth"]
    return [
        header,
        *(
            [
                names[i],
                names[j],
                *map(int, (before.counts[i, j], after.counts[i, j], change[i, j])),
                old[i, j],
                new[i, j],
            ]
            for i, j in found
        ),
    ]


def class_table(after: ConfusionMatrix, names: Sequence[str], before: Optional[ConfusionMatrix] = None) -> str:
    """Per class and on the whole, in percent: IoU, recall and precision; with `before`, its IoU and the gain."""
    headers = ["class", "pixels %", "IoU %", "recall %", "precision %"]
    shares = after.counts.sum(axis=1) / after.counts.sum()
    scores = [shares, after.iou(), after.recall(), _precision(after)]
    totals = ["", after.mean_iou(), after.mean_recall(), float("nan")]
    if before is not None:
        headers += ["IoU % before", "gain"]
        scores += [before.iou(), after.iou() - before.iou()]
        totals += [before.mean_iou(), after.mean_iou() - before.mean_iou()]
    signs = [""] * 5 + ["+"]
    rows = [[name, *map(_percent, values, signs)] for name, *values in zip(names, *scores)]
    rows.append(["mean", *map(_percent, totals, signs)])
    text = _table(rows, headers, left=1)
    accuracy = f"pixel accuracy {_percent(after.pixel_accuracy())} %"
    return f"{text}\n\n{accuracy}" + (f", before {_percent(before.pixel_accuracy())} %" if before is not None else "")


def pair_table(matrix: ConfusionMatrix, names: Sequence[str], count: int) -> str:
    """The `count` most confused pairs, the largest share of the truth's pixels first."""
    errors = matrix.most_confused(count)
    rows = [[names[i], names[j], f"{pixels:,}", _percent(share)] for i, j, share, pixels in errors]
    if not rows:
        return "no pixel is confused"
    return "most confused pairs\n" + _table(rows, ["truth", "prediction", "pixels", "% of the truth"], left=2)


def change_tables(after: ConfusionMatrix, before: ConfusionMatrix, names: Sequence[str], count: int) -> str:
    """The `count` pairs that lost most pixels, and those that gained most."""
    rows = pair_rows(after, names, before)[1:]
    fewer = [row for row in rows if row[4] < 0][:count]
    more = [row for row in rows[::-1] if row[4] > 0][:count]
    headers = ["truth", "prediction", "pixels before", "pixels", "change", "% of the truth before", "% of the truth"]
    parts = []
    for title, chosen in (("confused less", fewer), ("confused more", more)):
        lines = [[*row[:2], *(f"{v:,}" for v in row[2:4]), f"{row[4]:+,}", *map(_percent, row[5:])] for row in chosen]
        parts.append(f"{title}\n{_table(lines, headers, left=2)}" if lines else f"{title}: no pair")
    return "\n\n".join(parts)


def _precision(matrix: ConfusionMatrix) -> np.ndarray:
    """float64 (K,): the fraction of a class's predicted pixels that is right; NaN for a class never predicted."""
    transposed = ConfusionMatrix.from_counts(matrix.counts.T, matrix.ignore_label)
    return transposed.recall()


def _cells(values: np.ndarray) -> List[Any]:
    return ["" if np.isnan(value) else value for value in values.tolist()]


def _percent(value: Any, sign: str = "") -> str:
    if isinstance(value, str):
        return value
    return _NONE if np.isnan(value) else f"{100 * value:{sign}.2f}"


def _table(rows: List[List[str]], headers: List[str], *, left: int) -> str:
    from tabulate import tabulate  # late: a tenth of the start

    align = ["left"] * left + ["right"] * (len(headers) - left)
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align)
