"""The label map of upsampled scores on a CPU: class by class with a running maximum, never all scores at once."""

from typing import Tuple

import cv2
import numpy as np

_STRIP = 16  # feature rows at a time: the maximum so far stays in the processor's cache


def upsampled_arg_max(scores: np.ndarray, stride: int, inner: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """uint8 (H, W): arg max over classes of scores (C, h, w) float32, C <= 256, upsampled bilinearly by `stride`.

    inner : (height, width) that the upsampled scores are cropped to: that of the network's input
    size : (H, W); where it is not `inner`, the cropped scores are resized to it (half-pixel centres)

    The same as nn.Upsample (and BilinearResize2D without aligned corners) and argmax, but for ties that rounding makes
    or breaks; of equal scores the first class wins, as there.
    """
    if inner != size:
        return _arg_max(scores, stride, slice(0, inner[0]), inner[1], size)
    rows = []
    for start in range(0, -(-size[0] // stride), _STRIP):
        above = min(start, 1)  # pixels are between two feature rows
        part = scores[:, start - above : start + _STRIP + 1]
        end = min((start + _STRIP) * stride, size[0])
        wanted = slice(above * stride, end - (start - above) * stride)
        rows.append(_arg_max(part, stride, wanted, size[1], (end - start * stride, size[1])))
    return np.concatenate(rows)


def _arg_max(scores: np.ndarray, stride: int, rows: slice, width: int, size: Tuple[int, int]) -> np.ndarray:
    """Of the pixel rows `rows` and the first `width` columns of the upsampled scores, resized to `size`."""
    labels, best = np.zeros(size, np.uint8), None
    whole = (scores.shape[2] * stride, scores.shape[1] * stride)
    for number, score in enumerate(scores):
        pixels = cv2.resize(score, whole, interpolation=cv2.INTER_LINEAR)[rows, :width]
        if pixels.shape != size:
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
        if best is None:
            best = np.ascontiguousarray(pixels)
            continue
        better = cv2.compare(pixels, best, cv2.CMP_GT)  # 255 where it is, else 0
        cv2.max(pixels, best, dst=best)
        better &= number
        cv2.max(labels, better, dst=labels)  # a later class has the larger number
    return labels
