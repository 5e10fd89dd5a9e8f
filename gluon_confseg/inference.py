"""Whole images through an encoder and several combinations of subnets, the encoder once."""

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

import cv2
import numpy as np

from .backend import mx
from .data.transforms import normalize
from .nn import Fusion, Subnet, Upsample


@dataclass(frozen=True)
class View:
    """One way to label an image: the fused scores of the named subnets, or, without fusion, of one subnet alone."""

    subnets: Tuple[str, ...]
    fusion: Optional[Fusion] = None


class Predictor:
    """Label maps of several views of one frozen network.

    Parameters
    ----------
    encoder, subnets : trained blocks on `device`; `subnets` by the names that the views use
    views : by name
    scale : working resolution relative to the image's
    flip : whether to add the probabilities of the left-right flipped image
    mean, std : normalisation as in training
    """

    def __init__(
        self,
        encoder: mx.gluon.HybridBlock,
        subnets: Dict[str, Subnet],
        views: Dict[str, View],
        *,
        scale: float,
        flip: bool = False,
        mean: Sequence[float],
        std: Sequence[float],
        device: mx.Context,
    ):
        self._encoder, self._subnets, self._views = encoder, subnets, views
        self._scale, self._flip = scale, flip
        self._mean, self._std, self._device = mean, std, device
        self._upsamplers: Dict[int, Upsample] = {}

    def __call__(self, image: np.ndarray) -> Dict[str, np.ndarray]:
        """RGB uint8 (H, W, 3) -> for each view the arg max of its scores at the image's resolution, uint8 (H, W)."""
        return {key: label.asnumpy() for key, label in self.launch(image).items()}

    def launch(self, image: np.ndarray) -> Dict[str, mx.nd.NDArray]:
        """The same on the device, without waiting for it."""
        x = mx.nd.array(self._input(image)[None], ctx=self._device)
        if self._flip:
            x = mx.nd.concat(x, x.flip(axis=3), dim=0)
        features = self._encoder(x)
        names = {name for view in self._views.values() for name in view.subnets}
        logits = {name: _logits(self._subnets[name], features) for name in sorted(names)}
        labels = {}
        for key, view in self._views.items():
            chosen = [logits[name] for name in view.subnets]
            scores = chosen[0] if view.fusion is None else view.fusion(*chosen)
            labels[key] = self._label_map(scores, x, image.shape[:2])
        return labels

    def _input(self, image: np.ndarray) -> np.ndarray:
        if self._scale != 1:
            height, width = (max(1, round(side * self._scale)) for side in image.shape[:2])
            area = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=area)
        return normalize(image, self._mean, self._std)

    def _label_map(self, scores: mx.nd.NDArray, x: mx.nd.NDArray, size: Tuple[int, int]) -> mx.nd.NDArray:
        """(1 or 2, C, h, w) -> uint8 (H, W): scores are upsampled to the input, then to the image, then compared."""
        scores = self._upsampler(scores.shape[1])(scores, x)
        if self._flip:
            both = scores.softmax(axis=1)
            scores = both[0:1] + both[1:2].flip(axis=3)
        if scores.shape[2:] != size:
            scores = mx.nd.contrib.BilinearResize2D(scores, height=size[0], width=size[1], align_corners=False)
        return scores.argmax(axis=1)[0].astype("uint8")

    def _upsampler(self, channels: int) -> Upsample:
        if channels not in self._upsamplers:
            block = Upsample(channels, self._encoder.output_stride)
            block.initialize(ctx=self._device)
            self._upsamplers[channels] = block
        return self._upsamplers[channels]


def _logits(subnet: Subnet, features: Sequence[mx.nd.NDArray]) -> mx.nd.NDArray:
    return subnet(*subnet.inputs(features))
