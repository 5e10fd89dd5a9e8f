"""Confusion matrices: exact pixel counts, the metrics made from them, groups merged into "others", files."""

import json
import operator
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from .errors import ConfsegError
from .files import PathLike, read_npz, write_npz
from .plain_data import parse_json


class ConfusionMatrix:
    """Pixel counts of (truth, prediction) pairs of `num_classes` classes; truth that is `ignore_label` is left out.

    counts    int64 (K, K), rows = truth, columns = prediction
    metadata  what a loaded file says about its counts, for example the images: str -> str

    Sums of matrices (`+`) are exact: the counts of batches, workers or machines may be added in any order.
    Raises ConfsegError where num_classes < 1 or the ignored label is itself a class.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        if num_classes < 1:
            raise ConfsegError(f"a confusion matrix needs at least 1 class, not {num_classes}")
        if 0 <= ignore_label < num_classes:
            raise ConfsegError(
                f"ignore_label {ignore_label} is one of the {num_classes} classes; choose another, e.g. -1"
            )
        self.ignore_label = int(ignore_label)
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        self.metadata: Dict[str, str] = {}

    @classmethod
    def from_counts(cls, counts: Any, ignore_label: int = 255) -> "ConfusionMatrix":
        """The matrix with these counts: (K, K) whole numbers >= 0, rows = truth; copied. ConfsegError otherwise."""
        array = np.asarray(counts)
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise ConfsegError(f"confusion counts must be a square matrix, not of shape {array.shape}")
        if array.dtype.kind not in "iuf":
            raise ConfsegError(f"confusion counts must be whole numbers, not {array.dtype}")
        if not (np.isfinite(array).all() and (array >= 0).all() and (array == np.floor(array)).all()):
            raise ConfsegError("confusion counts must be whole numbers of pixels >= 0; pass counts, not fractions")
        if array.sum(dtype=float) >= 2.0**63:
            raise ConfsegError("confusion counts add up to 2^63 pixels or more; these are not counts of pixels")
        matrix = cls(array.shape[0], ignore_label)
        matrix.counts = array.astype(np.int64)
        return matrix

    @property
    def num_classes(self) -> int:
        """K."""
        return self.counts.shape[0]

    def update(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Count the pixels of integer arrays of one shape (any number of dimensions), uint8 being fastest.

        A pixel whose truth is ignored is left out whatever its prediction. Raises ConfsegError, and counts nothing,
        where shapes differ, arrays are not integers, or a counted pixel's truth or prediction is not a class.
        """
        label, prediction = np.asarray(label), np.asarray(prediction)
        if label.shape != prediction.shape:
            raise ConfsegError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
        for name, array in (("label", label), ("prediction", prediction)):
            if array.dtype.kind not in "iu":
                raise ConfsegError(f"{name} must hold integer class indices, not {array.dtype}")
        label, prediction = _narrowed(label.ravel()), _narrowed(prediction.ravel())
        count = self._count_uint8 if label.dtype == prediction.dtype == np.uint8 else self._count_integers
        self.counts += count(label, prediction)

    def _count_uint8(self, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        table = _joint_histogram(label, prediction)
        if 0 <= self.ignore_label < 256:
            table[self.ignore_label] = 0
        counts = table[: self.num_classes, : self.num_classes]
        if counts.sum() != table.sum():
            self._check_classes("label", np.flatnonzero(table.any(axis=1)))
            self._check_classes("prediction", np.flatnonzero(table.any(axis=0)))
        return counts

    def _count_integers(self, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        valid = label != self.ignore_label
        label, prediction = label[valid], prediction[valid]
        self._check_classes("label", label)
        self._check_classes("prediction", prediction)
        pair = label.astype(np.intp) * self.num_classes + prediction.astype(np.intp)
        return np.bincount(pair, minlength=self.num_classes**2).reshape(self.counts.shape)

    def _check_classes(self, name: str, values: np.ndarray) -> None:
        wrong = np.unique(values[(values < 0) | (values >= self.num_classes)])
        if wrong.size:
            shown = ", ".join(map(str, wrong[:5])) + (", ..." if wrong.size > 5 else "")
            allowed = f"0..{self.num_classes - 1}" + (f" and {self.ignore_label} (ignored)" if name == "label" else "")
            raise ConfsegError(f"{name} has values that are not classes: {shown}; expected {allowed}")

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise ConfsegError(
                f"cannot add confusion matrices of {self.num_classes} classes (ignore {self.ignore_label}) "
                f"and {other.num_classes} classes (ignore {other.ignore_label})"
            )
        return ConfusionMatrix.from_counts(self.counts + other.counts, self.ignore_label)

    def row_normalized(self) -> np.ndarray:
        """float64 (K, K): c_ij, the fraction of class i's pixels predicted as j; zeros where i has no pixel."""
        rows = self.counts.sum(axis=1, keepdims=True)
        return self.counts / np.maximum(rows, 1)

    def iou(self) -> np.ndarray:
        """float64 (K,): intersection over union, TP / (TP + FP + FN), as cityscapesScripts defines it.

        NaN for a class that is neither in the truth nor predicted; 0 for one that is only predicted.
        """
        intersection = np.diag(self.counts)
        return _ratio(intersection, self.counts.sum(axis=0) + self.counts.sum(axis=1) - intersection)

    def mean_iou(self) -> float:
        """Mean of `iou()` over the classes that have one; NaN for an empty matrix."""
        return mean_score(self.iou())

    def recall(self) -> np.ndarray:
        """float64 (K,): the fraction of a class's pixels that is predicted right; NaN for a class not in the truth."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=1))

    def mean_recall(self) -> float:
        """Mean of `recall()` over the classes in the truth; NaN for an empty matrix."""
        return mean_score(self.recall())

    def pixel_accuracy(self) -> float:
        """The fraction of all counted pixels that is predicted right; NaN for an empty matrix."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def merged(self, group: Any) -> "ConfusionMatrix":
        """The same pixels as a group's subnet sees them: output 0 = others, then the group's classes in label order.

        group: a ClassGroup or a sequence of class indices. Returns a matrix of |group| + 1 classes.
        """
        return self.collapsed(group_mapping(group, self.num_classes))

    def focused(self, group: Any) -> "ConfusionMatrix":
        """The same pixels with the errors among classes outside a group taken as right: what concerns the group alone.

        group: a ClassGroup or a sequence of class indices. Returns a matrix of K classes; `merged(group)` of it is
        `merged(group)` of this one.
        """
        outside = group_mapping(group, self.num_classes) == 0
        counts = self.counts.copy()
        block = counts[np.ix_(outside, outside)]
        counts[np.ix_(outside, outside)] = np.diag(block.sum(axis=1))
        return ConfusionMatrix.from_counts(counts, self.ignore_label)

    def collapsed(self, outputs: Sequence[int]) -> "ConfusionMatrix":
        """The same pixels with classes merged: class k becomes class outputs[k] of max(outputs) + 1.

        With `LabelSet.category_indices()`, its `iou()` and `mean_iou()` are Cityscapes' category IoU.
        Raises ConfsegError where `outputs` does not hold one index >= 0 per class.
        """
        mapping = np.asarray(outputs)
        if mapping.shape != (self.num_classes,) or mapping.dtype.kind not in "iu" or mapping.min() < 0:
            raise ConfsegError(f"collapsing {self.num_classes} classes needs one index >= 0 for each, not {outputs}")
        member = (mapping == np.arange(mapping.max() + 1)[:, None]).astype(np.int64)  # (outputs, K), one-hot columns
        return ConfusionMatrix.from_counts(member @ self.counts @ member.T, self.ignore_label)

    def most_confused(self, n: int = 10) -> List[Tuple[int, int, float, int]]:
        """The n largest errors: (truth, prediction, fraction of the truth's pixels, pixels), largest fraction first."""
        fraction = self.row_normalized()
        errors = [
            (int(i), int(j), float(fraction[i, j]), int(self.counts[i, j]))
            for i, j in np.argwhere(self.counts)
            if i != j
        ]
        return sorted(errors, key=lambda error: (-error[2], -error[3], error[0], error[1]))[:n]

    def save(self, path: PathLike, **metadata: str) -> None:
        """Write an .npz (no pickle, the same bytes for the same content) with any number of string fields beside it."""
        for key, value in metadata.items():
            if not isinstance(value, str):
                raise ConfsegError(f"metadata of a confusion matrix must be strings; {key} is {type(value).__name__}")
        text = json.dumps({"ignore_label": self.ignore_label, "metadata": metadata}, sort_keys=True)
        write_npz(path, {"counts": self.counts, "description": np.array(text)})

    @classmethod
    def load(cls, path: PathLike) -> "ConfusionMatrix":
        """Read what `save` wrote, its string fields as `.metadata`. ConfsegError: a missing or damaged file."""
        arrays = read_npz(path)
        try:
            description = parse_json(str(arrays["description"][()]))
            matrix = cls.from_counts(arrays["counts"], description["ignore_label"])
            matrix.metadata = dict(description["metadata"])
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ConfsegError(f"{path} is not a confusion matrix file; delete it and count again") from error
        return matrix


def group_mapping(group: Union[Sequence[int], Any], num_classes: int) -> np.ndarray:
    """int64 (K,): the output of a group's subnet for each class; 0 = others, then the group's classes in label order.

    group: a ClassGroup or class indices in any order. ConfsegError: no class, one twice, or one that does not exist.
    """
    classes = sorted(operator.index(index) for index in getattr(group, "classes", group))
    if not classes or len(set(classes)) < len(classes) or classes[0] < 0 or classes[-1] >= num_classes:
        raise ConfsegError(f"group {classes} must hold one or more different class indices in 0..{num_classes - 1}")
    mapping = np.zeros(num_classes, np.int64)
    mapping[classes] = np.arange(1, len(classes) + 1)
    return mapping


def _narrowed(array: np.ndarray) -> np.ndarray:
    fits = array.dtype != np.uint8 and array.size and array.min() >= 0 and array.max() <= 255
    return array.astype(np.uint8) if fits else array


def _joint_histogram(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """int64 (256, 256): how often each pair of values occurs in two flat uint8 arrays."""
    change = label[1:] != label[:-1]
    change |= prediction[1:] != prediction[:-1]
    if np.count_nonzero(change) * 8 < label.size:
        # label maps are long runs of one pair: count the runs, weighted by their lengths (exact in float64 to 2^53)
        last = np.append(np.flatnonzero(change), label.size - 1)
        pair, weights = _pairs(label[last], prediction[last]), np.diff(last, prepend=-1)
    else:
        pair, weights = _pairs(label, prediction), None
    return np.bincount(pair, weights, minlength=1 << 16).astype(np.int64, copy=False).reshape(256, 256)


def _pairs(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    pair = label.astype(np.uint16)
    pair <<= 8
    pair |= prediction
    return pair


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def mean_score(scores: np.ndarray) -> float:
    """Mean of float64 (K,) scores over those that are not NaN; NaN where all are."""
    valid = scores[~np.isnan(scores)]
    # summed one after another, as cityscapesScripts does: np.mean adds in pairs and may differ in the last bit
    return float(np.cumsum(valid)[-1] / valid.size) if valid.size else float("nan")
