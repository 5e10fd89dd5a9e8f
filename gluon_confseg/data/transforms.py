"""From uint8 image and label to network input: scale jitter, crop with padding, flip, normalisation."""

from dataclasses import dataclass
from typing import Sequence, Tuple

import cv2
import numpy as np

from ..labels import IGNORE_LABEL

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_STREAM = 1  # keeps these random numbers apart from the loader's, which also start from (seed, epoch)


def normalize(
    image: np.ndarray, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> np.ndarray:
    """(image / 255 - mean) / std: uint8 RGB HxWx3 -> float32 3xHxW. `mean` and `std` belong to images in [0, 1]."""
    scale = (1 / (255 * np.asarray(std, np.float64))).astype(np.float32)
    shift = (np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32)
    chw = image.transpose(2, 0, 1).astype(np.float32, order="C")
    chw *= scale[:, None, None]
    chw -= shift[:, None, None]
    return chw


def at_scale(image: np.ndarray, scale: float) -> np.ndarray:
    """RGB uint8 (H, W, 3) at the working resolution `scale`, relative to the file's."""
    if scale == 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    area = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=area)


class TrainTransform:
    """Random scale, crop and flip of an image and its label, the same for the same (seed, epoch, sample).

    A window of crop / s pixels, s uniform in `scale` (relative to the file's resolution), is placed uniformly over the
    positions that lie inside the image (along an axis where the window is longer, over those that hold the whole
    image), and resized to `crop`. Only the window is resized: for s = 1 it is a plain crop. Images: INTER_AREA when
    shrinking, which averages instead of skipping pixels, INTER_LINEAR when enlarging; labels: the nearest pixel
    (INTER_NEAREST_EXACT, which has the same pixel centres). What lies outside the image is filled with the mean colour
    (0 after normalisation) and the ignore label. Left-right flip with probability 1/2 where `flip` is on.

    Args:
        seed: together with epoch and sample the seed of the random numbers.
        scale: (lowest, highest).
        crop: (height, width) of the result, in pixels.
        flip: whether to flip.
        mean, std: of images in [0, 1], per RGB channel; std=(1, 1, 1) subtracts the mean only.
    """

    def __init__(
        self,
        seed: int,
        scale: Tuple[float, float],
        crop: Tuple[int, int],
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        self.seed = seed
        self.scale = scale
        self.crop = crop
        self.flip = flip
        self.mean = mean
        self.std = std

    def __call__(
        self, image: np.ndarray, label: np.ndarray, *, epoch: int, sample: int
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Uint8 HxWx3 and HxW -> float32 3 x crop and uint8 crop. The arguments are not modified."""
        return self.cut(image, label, self.window(image.shape[:2], epoch=epoch, sample=sample))

    def window(self, size: Tuple[int, int], *, epoch: int, sample: int) -> "Window":
        """What is drawn at random for an image of `size` (height, width), before its pixels are known."""
        rng = np.random.default_rng((_STREAM, self.seed, epoch, sample))
        scale = float(rng.uniform(*self.scale))
        rows, columns = (_place(side, crop, scale, rng) for side, crop in zip(size, self.crop))
        return Window(rows, columns, self.flip and rng.random() < 0.5)

    def cut(self, image: np.ndarray, label: np.ndarray, window: "Window") -> Tuple[np.ndarray, np.ndarray]:
        """The sample in `window`; of both arrays the first `window.last_row` rows are enough."""
        rows, columns = window.rows, window.columns
        image, label = _resize(image[rows.source, columns.source], label[rows.source, columns.source], rows, columns)
        row, column = rows.target, columns.target
        if window.flip:
            image, label = image[:, ::-1], label[:, ::-1]
            column = slice(self.crop[1] - column.stop, self.crop[1] - column.start)
        out_image = np.zeros((3, *self.crop), np.float32)
        out_label = np.full(self.crop, IGNORE_LABEL, np.uint8)
        out_image[:, row, column] = normalize(image, self.mean, self.std)
        out_label[row, column] = label
        return out_image, out_label


@dataclass(frozen=True)
class _Axis:
    """Along one axis: which pixels of the image go to which pixels of the crop."""

    source: slice
    target: slice

    @property
    def length(self) -> int:
        return self.target.stop - self.target.start


@dataclass(frozen=True)
class Window:
    """Where a sample lies in its image, and whether it is flipped."""

    rows: _Axis
    columns: _Axis
    flip: bool

    @property
    def last_row(self) -> int:
        """How many of the image's upper rows are needed."""
        return self.rows.source.stop


def _place(size: int, crop: int, scale: float, rng: np.random.Generator) -> _Axis:
    """Place a window of crop / scale pixels on an axis of `size` pixels; a negative start is padding before it."""
    window = max(1, round(crop / scale))
    start = int(rng.integers(min(0, size - window), max(0, size - window), endpoint=True))
    source = slice(max(start, 0), min(start + window, size))
    first, last = (round((edge - start) * crop / window) for edge in (source.start, source.stop))
    first = min(first, crop - 1)  # an image of less than half a pixel at this scale still fills one
    return _Axis(source, slice(first, max(last, first + 1)))


def _resize(image: np.ndarray, label: np.ndarray, rows: _Axis, columns: _Axis) -> Tuple[np.ndarray, np.ndarray]:
    size = (columns.length, rows.length)
    if size == (image.shape[1], image.shape[0]):
        return image, label
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return image, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
