"""Upsampled scores, their probabilities and label map on a CPU: by NumPy and OpenCV, many times as fast as MXNet."""

import operator
from functools import reduce
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

import cv2
import numpy as np

from .phases import phase

STRIP = 16  # feature rows that are upsampled at a time: their scores stay in the processor's cache

Size = Tuple[int, int]  # height, width
Scores = Tuple[np.ndarray, Size]  # (1 or 2, C, h, w) float32; the network input's size, at most `stride` times (h, w)


class OnHost:
    """What `scores_on_device.OnDevice` does, on arrays in the CPU's memory.

    Not NDArrays again: making one waits for an operator of the next image's network.
    """

    def __init__(self, stride: int):
        self._stride = stride

    def labels(self, passes: Sequence[Tuple[Any, Any]], size: Size) -> np.ndarray:
        """uint8 (H, W)."""
        found = _in_memory(passes)
        with phase("arg max"):
            (scores, inner), *others = found
            if not others and len(scores) == 1:
                return upsampled_arg_max(scores[0], self._stride, inner, size)
            return np.concatenate([arg_max(part) for part in added_probabilities(found, self._stride, size)])

    def probabilities(self, passes: Sequence[Tuple[Any, Any]], size: Size) -> np.ndarray:
        """float32 (C, H, W)."""
        return np.concatenate(list(added_probabilities(_in_memory(passes), self._stride, size)), axis=1)

    @staticmethod
    def arg_max(scores: np.ndarray) -> np.ndarray:
        return arg_max(scores)

    @staticmethod
    def concat(parts: List[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(parts, axis=axis)


def strips(height: int, stride: int) -> Iterator[Tuple[slice, slice]]:
    """Parts of an image of so many rows: feature rows, and which pixel rows of those upsampled belong to the part.

    A pixel lies between two feature rows, so a part has one more above and below.
    """
    for start in range(0, -(-height // stride), STRIP):
        above = min(start, 1)
        end = min((start + STRIP) * stride, height)
        yield slice(start - above, start + STRIP + 1), slice(above * stride, end - (start - above) * stride)


def upsampled_arg_max(scores: np.ndarray, stride: int, inner: Size, size: Size) -> np.ndarray:
    """uint8 (H, W): arg max over classes of scores (C, h, w) float32, C <= 256, upsampled bilinearly by `stride`.

    inner : what the upsampled scores are cropped to: the size of the network's input
    size : (H, W); where it is not `inner`, the cropped scores are resized to it (half-pixel centres)

    The same as nn.Upsample (and BilinearResize2D without aligned corners) and argmax, but for ties that rounding makes
    or breaks; of equal scores the first class wins, as there. Never are all scores there at once.
    """
    if inner != size:
        planes = _upsampled(scores, stride, slice(0, inner[0]), inner[1])
        return arg_max(_resized(planes, size))
    parts = strips(size[0], stride)
    return np.concatenate([arg_max(_upsampled(scores[:, part], stride, rows, size[1])) for part, rows in parts])


def added_probabilities(passes: Sequence[Scores], stride: int, size: Size) -> Iterator[np.ndarray]:
    """float32 (C, rows, W) from the top: softmax of the upsampled scores, added over passes; in strips of some rows.

    The second of two scores in a pass is the flipped image's. `size` is (H, W); where an input had another, the
    probabilities are resized to it, and come all at once.
    """
    if all(inner == size for _, inner in passes):
        for part, rows in strips(size[0], stride):
            yield _total(_probabilities(scores[:, :, part], stride, rows, size[1]) for scores, _ in passes)
        return
    whole = ((_probabilities(scores, stride, slice(0, inner[0]), inner[1]), inner) for scores, inner in passes)
    yield _total(found if inner == size else np.stack(list(_resized(found, size))) for found, inner in whole)


def arg_max(planes: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 (H, W): which of at most 256 planes (H, W) float32 is the largest, the first of equal ones."""
    labels = best = None
    for number, plane in enumerate(planes):
        if best is None:
            labels, best = np.zeros(plane.shape, np.uint8), np.array(plane)
            continue
        plane = np.ascontiguousarray(plane)
        better = cv2.compare(plane, best, cv2.CMP_GT)  # 255 where it is, else 0
        cv2.max(plane, best, dst=best)
        better &= number
        cv2.max(labels, better, dst=labels)  # a later class has the larger number
    return labels


def _in_memory(passes: Sequence[Tuple[Any, Any]]) -> List[Scores]:
    return [(scores.asnumpy(), x.shape[2:]) for scores, x in passes]


def _upsampled(scores: np.ndarray, stride: int, rows: slice, width: int) -> Iterator[np.ndarray]:
    """Plane by plane the pixel rows `rows` and the first `width` columns of the scores (C, h, w)."""
    whole = (scores.shape[2] * stride, scores.shape[1] * stride)
    for score in scores:
        yield cv2.resize(score, whole, interpolation=cv2.INTER_LINEAR)[rows, :width]


def _resized(planes: Iterable[np.ndarray], size: Size) -> Iterator[np.ndarray]:
    for plane in planes:
        yield cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)


def _probabilities(scores: np.ndarray, stride: int, rows: slice, width: int) -> np.ndarray:
    """(C, rows, width): of scores (1 or 2, C, h, w), those of the flipped image turned and added."""
    total, *flipped = (_softmax(np.stack(list(_upsampled(each, stride, rows, width)))) for each in scores)
    for each in flipped:
        total += each[:, :, ::-1]
    return total


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Over the first axis, in place."""
    scores -= scores.max(axis=0)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=0)
    return scores


def _total(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The first part holds it."""
    return reduce(operator.iadd, parts)
