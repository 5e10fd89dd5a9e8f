"""Whole images through an encoder and several combinations of subnets, the encoder once (per scale)."""

import copy
from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

import numpy as np

from .backend import mx
from .data.transforms import at_scale, normalize
from .nn import Fusion, MergedSubnets, Subnet, Upsample


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
    scales : factors on `scale`; of several, the probabilities at the image's resolution are averaged
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
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        mean: Sequence[float],
        std: Sequence[float],
        device: mx.Context,
    ):
        self._encoder, self._names, self._views = encoder, tuple(subnets), views
        self._subnets = MergedSubnets(list(subnets.values()))
        self._subnets.copy_values(list(subnets.values()))
        self._subnets.hybridize()
        self._scale, self._scales, self._flip = scale, tuple(scales), flip
        self._mean, self._std, self._device = mean, std, device
        self._upsamplers: Dict[int, Upsample] = {}

    def augmented(self, *, scales: Sequence[float], flip: bool) -> "Predictor":
        """The same network with these `scales` and `flip`."""
        other = copy.copy(self)
        other._scales, other._flip = tuple(scales), flip
        return other

    def __call__(self, image: np.ndarray) -> Dict[str, np.ndarray]:
        """RGB uint8 (H, W, 3) -> for each view the arg max of its scores at the image's resolution, uint8 (H, W)."""
        return {key: label.asnumpy() for key, label in self.launch(image).items()}

    def launch(self, image: np.ndarray) -> Dict[str, mx.nd.NDArray]:
        """The same on the device, without waiting for it."""
        passes = [self._pass(image, self._scale * factor) for factor in self._scales]
        labels = {}
        # one view's scores at the image's size at a time: they are the large ones
        for key, view in self._views.items():
            scores = None
            for x, logits in passes:
                added = self._scores(view, logits, x, image.shape[:2])
                scores = added if scores is None else scores + added
            labels[key] = scores.argmax(axis=1)[0].astype("uint8")
        return labels

    def _pass(self, image: np.ndarray, scale: float) -> Tuple[mx.nd.NDArray, Dict[str, mx.nd.NDArray]]:
        """The network's input (1 or 2, 3, h, w) at a scale, and every needed subnet's logits of it."""
        x = mx.nd.array(self._input(image, scale)[None], ctx=self._device)
        if self._flip:
            x = mx.nd.concat(x, x.flip(axis=3), dim=0)
        return x, dict(zip(self._names, self._subnets(*self._encoder(x))))

    def _input(self, image: np.ndarray, scale: float) -> np.ndarray:
        return normalize(at_scale(image, scale), self._mean, self._std)

    def _scores(
        self, view: View, logits: Dict[str, mx.nd.NDArray], x: mx.nd.NDArray, size: Tuple[int, int]
    ) -> mx.nd.NDArray:
        """(1, C, H, W): upsampled to the input, then to the image; probabilities where several passes are added."""
        chosen = [logits[name] for name in view.subnets]
        scores = chosen[0] if view.fusion is None else view.fusion(*chosen)
        scores = self._upsampler(scores.shape[1])(scores, x)
        if self._flip or len(self._scales) > 1:
            scores = scores.softmax(axis=1)
        if self._flip:
            scores = scores[0:1] + scores[1:2].flip(axis=3)
        if scores.shape[2:] != size:
            scores = mx.nd.contrib.BilinearResize2D(scores, height=size[0], width=size[1], align_corners=False)
        return scores

    def _upsampler(self, channels: int) -> Upsample:
        if channels not in self._upsamplers:
            block = Upsample(channels, self._encoder.output_stride)
            block.initialize(ctx=self._device)
            self._upsamplers[channels] = block
        return self._upsamplers[channels]
