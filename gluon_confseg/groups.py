"""Discriminative confusing groups (paper section 3.1, Table 1): found in a confusion matrix, or given by name."""

import difflib
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy.sparse.csgraph import connected_components

from .confusion import ConfusionMatrix, group_mapping
from .errors import ConfsegError

_UNIT = 10**9  # confusion is summed in whole billionths: exact, so the order of the classes cannot matter


@dataclass(frozen=True)
class ClassGroup:
    """Two or more classes that one subnet tells apart. ConfsegError: fewer than two, or one twice.

    classes  class indices, ascending
    reason   one line, for people
    """

    classes: Tuple[int, ...]
    reason: str = ""

    def __post_init__(self) -> None:
        classes = tuple(sorted(int(index) for index in self.classes))
        if len(set(classes)) < max(2, len(classes)):
            raise ConfsegError(f"group {list(classes)} must hold at least two different classes")
        object.__setattr__(self, "classes", classes)

    def mapping(self, num_classes: int) -> np.ndarray:
        """int64 (K,): this group's subnet output for each class; 0 = others (see confusion.group_mapping)."""
        return group_mapping(self, num_classes)


OutputSpace = Optional[ClassGroup]  # what a subnet tells apart: a group's classes and "others", or, None, all classes
OutputSpaces = Dict[str, List[OutputSpace]]  # subnets 1..M, for each kind of a cell's `spaces`


def output_spaces(found: List[ClassGroup], num_classes: int, seed: int) -> OutputSpaces:
    """The confusing groups, and their controls: random groups of the same sizes, and as many times all classes.

    The random groups are drawn from `seed`; like the confusing ones they have no class in common. Heads that are
    "focused" on a group tell all classes apart; what differs is their loss (`ConfusionMatrix.focused`).
    """
    order = np.random.default_rng(seed).permutation(num_classes)
    ends = np.cumsum([len(group.classes) for group in found])[:-1]
    drawn = np.split(order[: sum(len(group.classes) for group in found)], ends) if found else []
    random = [ClassGroup(tuple(classes.tolist()), "drawn at random") for classes in drawn]
    everything: List[OutputSpace] = [None] * len(found)
    return {"groups": list(found), "random": list(random), "all": everything, "focused": everything}


def partition(
    confusion_matrix: ConfusionMatrix,
    class_names: Optional[Sequence[str]] = None,
    *,
    threshold: float = 0.02,
    max_group_size: int = 6,
    max_groups: Optional[int] = 3,
) -> List[ClassGroup]:
    """The confusing groups of a confusion matrix, most confusing first, each with its reason.

    c_ij is the fraction of class i's pixels predicted as j; the confusion of a pair is c_ij + c_ji. So a rare class
    weighs as much as a large one.

    1. Average linkage: starting from single classes, the two groups with the largest mean confusion over their cross
       pairs are merged, as long as that mean is larger than the mean over all pairs of classes and the union holds at
       most `max_group_size` classes (and not every class).
    2. A class stays in its group if, with another class of it, c_ij or c_ji is larger than `threshold`.
    3. Groups are ordered by their summed confusion, then by their confused pixels; the first `max_groups` are returned.

    Why so: a fixed level of linkage, and connected components, collapse on real matrices, since large classes are
    where every rare class's errors go; the mean of the matrix at hand is a level that moves with the network's quality,
    and the cap on the size ends what still chains.

    Threshold: raising it never adds a class to a group and never makes more groups, since step 1 does not depend on it:
    groups lose classes or vanish; at 1 there is none. That is said of `max_groups=None`: a cut list may also let a
    group move up from behind the cut. `max_groups` is 3 by default because the paper's Cityscapes has three groups.

    Order of the classes: renumbering them renumbers the result. Equal values are never settled by index: equally
    linked groups are merged all at once, or, where their union is too large, not at all; equal groups across the cut
    of `max_groups` are all left out. Only the sequence of exactly equal groups, and which of several equal errors a
    reason quotes, follow the indices.

    class_names is used in the reasons. ConfsegError: settings out of range, or a wrong number of names.
    """
    _check_settings(confusion_matrix, class_names, threshold, max_group_size, max_groups)
    fraction = confusion_matrix.row_normalized()
    np.fill_diagonal(fraction, 0)
    confusion = np.rint(fraction * _UNIT).astype(np.int64)
    confusion += confusion.T
    strong = np.maximum(fraction, fraction.T) > threshold

    found = []
    for member in _average_linkage(confusion, min(max_group_size, len(confusion) - 1)):
        classes = np.flatnonzero(member & strong[:, member].any(axis=1))
        if classes.size:
            inside = np.ix_(classes, classes)
            pixels = confusion_matrix.counts[inside].sum() - confusion_matrix.counts[classes, classes].sum()
            found.append(((int(confusion[inside].sum()), int(pixels)), classes.tolist()))
    found.sort(key=lambda item: ((-item[0][0], -item[0][1]), item[1]))
    if max_groups is not None and len(found) > max_groups:
        found = [item for item in found[:max_groups] if item[0] > found[max_groups][0]]
    return [ClassGroup(tuple(classes), _reason(confusion_matrix, classes, class_names)) for _, classes in found]


def _check_settings(
    matrix: ConfusionMatrix,
    class_names: Optional[Sequence[str]],
    threshold: float,
    max_group_size: int,
    max_groups: Optional[int],
) -> None:
    if class_names is not None and len(class_names) != matrix.num_classes:
        raise ConfsegError(f"{len(class_names)} class names for a confusion matrix of {matrix.num_classes} classes")
    if not 0 <= threshold <= 1:
        raise ConfsegError(f"threshold of the groups must be a fraction in 0..1, not {threshold}")
    if max_group_size < 2:
        raise ConfsegError(f"max_group_size must be at least 2, not {max_group_size}")
    if max_groups is not None and max_groups < 1:
        raise ConfsegError(f"max_groups must be at least 1 (or None for no limit), not {max_groups}")


def _average_linkage(confusion: np.ndarray, max_size: int) -> np.ndarray:
    """bool (groups, K): step 1 of `partition`. SciPy's linkage has neither the cap nor an order-free rule for ties."""
    num_classes = len(confusion)
    level = confusion.sum() / max(num_classes * (num_classes - 1), 1)
    groups = np.eye(num_classes, dtype=np.int64)  # (G, K)
    between = confusion.copy()  # (G, G): summed confusion
    while True:
        size = groups.sum(axis=1)
        link = between / np.outer(size, size)
        link[(size[:, None] + size > max_size) | np.eye(len(size), dtype=bool)] = 0
        best = link == link.max()
        if link.max() <= level:
            return groups[size > 1].astype(bool)
        number, union = connected_components(best, directed=False)
        too_large = np.bincount(union, size)[union] > max_size
        between[best & too_large[:, None]] = 0  # these ties are not merged, now or later
        union[too_large] = number + np.flatnonzero(too_large)
        merge = (union == np.unique(union)[:, None]).astype(np.int64)
        groups, between = merge @ groups, merge @ between @ merge.T


def _reason(matrix: ConfusionMatrix, classes: List[int], class_names: Optional[Sequence[str]]) -> str:
    def quote(errors: List[Tuple[int, int, float, int]]) -> str:
        return ", ".join(f"{names[i]} -> {names[j]} {100 * share:.1f} %" for i, j, share, _ in errors)

    names = class_names or [f"class {index}" for index in range(matrix.num_classes)]
    errors = [error for error in matrix.most_confused(matrix.num_classes**2) if error[0] in classes]
    inside = [error for error in errors if error[1] in classes]
    outside = [error for error in errors if error[1] not in classes]
    kept = sum(error[2] for error in inside) / sum(error[2] for error in errors)
    leaving = f"largest error out of it: {quote(outside[:1])}" if outside else "none leave it"
    return f"{quote(inside[:3])}; {100 * kept:.0f} % of its classes' errors stay inside, {leaving}"


def named(labels: Any, groups: Sequence[Sequence[str]]) -> List[ClassGroup]:
    """Groups given by class names, in the given order.

    labels: a LabelSet, or the sequence of all class names. ConfsegError: an unknown name (with close matches), a class
    in two groups or twice in one, a group of fewer than two classes or of all of them.
    """
    names = list(getattr(labels, "classes", labels))
    owner = {}
    result = []
    for number, group in enumerate(groups, 1):
        if isinstance(group, str):
            raise ConfsegError(f"group {number} must be a list of class names, not the text {group!r}")
        for name in group:
            if name not in names:
                raise ConfsegError(f"group {number}: unknown class {name!r}{_suggestion(name, names)}")
            if name in owner:
                raise ConfsegError(f"class {name!r} is in group {owner[name]} and again in group {number}; keep one")
            owner[name] = number
        if not 2 <= len(group) < len(names):
            allowed = f"a group needs at least 2 and fewer than all {len(names)} classes"
            raise ConfsegError(f"group {number} has {len(group)} of the {len(names)} classes; {allowed}")
        result.append(ClassGroup(tuple(names.index(name) for name in group), "chosen by name"))
    return result


def _suggestion(name: Any, names: List[str]) -> str:
    close: Sequence[str] = difflib.get_close_matches(str(name), names)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; the classes are {', '.join(names)}"
