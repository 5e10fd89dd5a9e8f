"""Confusion matrices with class names in files: CSV for spreadsheets and other programs, .npz for this one."""

import csv
import io
import json
from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from . import labels
from .confusion import ConfusionMatrix
from .errors import ConfsegError
from .files import PathLike, write_text
from .plain_data import parse_json

_MAX_BYTES = 1 << 24  # 254 classes with counts of 18 digits are 1.2 MB
_CORNER = "truth"


def write_csv(path: PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV (comma, LF), atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_matrix(path: PathLike, values: np.ndarray, names: Sequence[str]) -> None:
    """Write a square array with a header of class names; rows are the truth and start with its name."""
    write_csv(path, [[_CORNER, *names], *([name, *row] for name, row in zip(names, values.tolist()))])


def save(path: PathLike, matrix: ConfusionMatrix, names: Sequence[str], **metadata: str) -> None:
    """Write an .npz that ConfusionMatrix.load and `read` read; the class names are in its metadata."""
    matrix.save(path, classes=json.dumps(list(names)), **metadata)


def read(path: PathLike, names: Optional[Sequence[str]] = None) -> Tuple[ConfusionMatrix, List[str]]:
    """A confusion matrix of pixel counts and its class names, from an .npz or a CSV; rows are the truth.

    CSV: separated by comma, semicolon or tab; a header of the class names, which the rows may start with as well; or
    numbers alone. names: the class names, where the file has none; where it has some, they must be the same.
    Raises ConfsegError for a file of another form, ragged rows, counts that are not whole numbers >= 0, and names that
    are missing, repeated or not those of the file.
    """
    if Path(path).suffix.lower() == ".npz":
        matrix = ConfusionMatrix.load(path)
        found = _metadata_names(path, matrix)
    else:
        matrix, found = _read_csv(Path(path))
    if found is not None and names is not None and list(found) != list(names):
        raise ConfsegError(f"{path}: its classes ({_first(found)}) are not those of --classes ({_first(names)})")
    chosen = found if names is None else list(names)
    if chosen is None:
        raise ConfsegError(f"{path} does not name its {matrix.num_classes} classes; give --classes")
    _check_names(path, chosen, matrix.num_classes)
    return matrix, chosen


def _metadata_names(path: PathLike, matrix: ConfusionMatrix) -> Optional[List[str]]:
    if "classes" not in matrix.metadata:
        # confusion.npz of a run
        names = [name for name in labels.NAMES if name == matrix.metadata.get("dataset")]
        found = labels.get(names[0]).classes if names else ()
        return list(found) if len(found) == matrix.num_classes else None
    try:
        found = parse_json(matrix.metadata["classes"])
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfsegError(f"{path}: the names of its classes are damaged; count again")
    return found


def _read_csv(path: Path) -> Tuple[ConfusionMatrix, Optional[List[str]]]:
    lines = _lines(path)
    header = lines[0][1]
    if len(lines) == len(header) and all(_is_number(cell) for cell in header):
        return _matrix(path, lines), None
    rows = lines[1:]
    corner = len(header) == len(rows) + 1
    named = bool(rows) and (corner or len(rows[0][1]) == len(rows) + 1)  # rows that start with a name
    header = header[corner:]
    if named:
        for (number, row), name in zip(rows, header):
            if row[0] != name:
                raise ConfsegError(f"{path}, line {number}: the row of {row[0]!r} stands where the header has {name!r}")
        rows = [(number, row[1:]) for number, row in rows]
    if len(header) != len(rows):
        raise ConfsegError(
            f"{path}: {len(header)} names in the header but {len(rows)} rows; a confusion matrix is square, with a "
            "header of class names"
        )
    return _matrix(path, rows), header


def _lines(path: Path) -> List[Tuple[int, List[str]]]:
    """(line number, cells) of the lines that are not empty."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfsegError(f"{path}: {path.stat().st_size} bytes are too many for a confusion matrix")
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfsegError(f"{path} is no CSV text ({error}); give a confusion matrix as .csv or .npz") from error
    if not lines:
        raise ConfsegError(f"{path} is empty; give a header of class names and a row of counts for each")
    return lines


def _matrix(path: Path, rows: List[Tuple[int, List[str]]]) -> ConfusionMatrix:
    for number, row in rows:
        if len(row) != len(rows):
            raise ConfsegError(f"{path}, line {number}: {len(row)} counts for {len(rows)} classes")
    counts = [[_count(path, number, cell) for cell in row] for number, row in rows]
    if sum(map(sum, counts)) >= 1 << 63:
        raise ConfsegError(f"{path}: the counts add up to 2^63 pixels or more; these are not counts of pixels")
    return ConfusionMatrix.from_counts(np.array(counts, np.int64))


def _count(path: Path, number: int, cell: str) -> int:
    try:
        value = int(cell) if cell.lstrip("+-").isdecimal() else float(cell)
        whole = int(value)
    except (ValueError, OverflowError):
        whole, value = -1, -1
    if value < 0 or whole != value:
        hint = "; a normalised matrix will not do" if "." in cell else ""
        raise ConfsegError(f"{path}, line {number}: {cell[:40]!r} is not a number of pixels (0, 1, 2, ...){hint}")
    return whole


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_names(path: PathLike, names: Sequence[str], num_classes: int) -> None:
    if len(names) != num_classes:
        raise ConfsegError(f"{path}: {num_classes} classes, but {len(names)} names of classes")
    wrong = [name for name in names if not name or not name.isprintable()]
    if wrong or len(set(names)) < len(names):
        shown = wrong[0] if wrong else next(name for name in names if list(names).count(name) > 1)
        raise ConfsegError(f"{path}: class name {shown!r} is {'not printable text' if wrong else 'there twice'}")


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
