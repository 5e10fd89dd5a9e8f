"""Upsampled scores, their probabilities and label map on a GPU, by MXNet's operators."""

import operator
from functools import reduce
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from .backend import mx
from .nn import Upsample
from .scores_on_host import Size, strips

Pass = Tuple[mx.nd.NDArray, mx.nd.NDArray]  # scores (1 or 2, C, h, w), the second the flipped image's; the input


class OnDevice:
    """Of passes over an image, or a window: the label map of their scores, or their added probabilities.

    Scores are upsampled by `stride`, cropped to the input, and resized where the image has another size.
    """

    def __init__(self, stride: int, device: mx.Context):
        self._stride, self._device = stride, device
        self._upsamplers: Dict[int, Upsample] = {}

    def labels(self, passes: Sequence[Pass], size: Size) -> mx.nd.NDArray:
        """uint8 (H, W). Of several passes, or with the flipped image, the added probabilities count."""
        several = len(passes) > 1 or len(passes[0][0]) > 1
        return mx.nd.concat(*map(self.arg_max, self._parts(passes, size, several)), dim=0)

    def probabilities(self, passes: Sequence[Pass], size: Size) -> mx.nd.NDArray:
        """float32 (C, H, W)."""
        return mx.nd.concat(*self._parts(passes, size, True), dim=1)

    @staticmethod
    def arg_max(scores: mx.nd.NDArray) -> mx.nd.NDArray:
        """(C, H, W) -> uint8 (H, W)."""
        return scores.argmax(axis=0).astype("uint8")

    @staticmethod
    def concat(parts: List[mx.nd.NDArray], axis: int) -> mx.nd.NDArray:
        return mx.nd.concat(*parts, dim=axis)

    def _parts(self, passes: Sequence[Pass], size: Size, several: bool) -> Iterator[mx.nd.NDArray]:
        """Scores (C, rows, W) in parts of some rows, from the top; all at once where they are resized."""
        if any(x.shape[2:] != size for _, x in passes):
            yield _total(_resized(self._scores(scores, x, several), size) for scores, x in passes)[0]
            return
        for features, rows in strips(size[0], self._stride):
            yield _total(self._strip(scores, x, features, rows, several) for scores, x in passes)[0]

    def _strip(
        self, scores: mx.nd.NDArray, x: mx.nd.NDArray, features: slice, rows: slice, several: bool
    ) -> mx.nd.NDArray:
        """(1, C, rows, W): what `_scores` gives for these rows, bit by bit."""
        pixels = x[:, :, features.start * self._stride : min(features.stop * self._stride, x.shape[2])]
        stop = min(features.stop, scores.shape[2])
        return self._scores(scores[:, :, features.start : stop], pixels, several)[:, :, rows]

    def _scores(self, scores: mx.nd.NDArray, x: mx.nd.NDArray, several: bool) -> mx.nd.NDArray:
        """(1, C, h, w): upsampled to the input; probabilities where several passes are added."""
        flip = len(scores) > 1
        scores = self._upsampler(scores.shape[1])(scores, x)
        if several:
            scores = scores.softmax(axis=1)
        return scores[0:1] + scores[1:2].flip(axis=3) if flip else scores

    def _upsampler(self, channels: int) -> Upsample:
        if channels not in self._upsamplers:
            block = Upsample(channels, self._stride)
            block.initialize(ctx=self._device)
            self._upsamplers[channels] = block
        return self._upsamplers[channels]


def _resized(scores: mx.nd.NDArray, size: Size) -> mx.nd.NDArray:
    if scores.shape[2:] == size:
        return scores
    return mx.nd.contrib.BilinearResize2D(scores, height=size[0], width=size[1], align_corners=False)


def _total(parts: Iterable[mx.nd.NDArray]) -> mx.nd.NDArray:
    return reduce(operator.add, parts)
