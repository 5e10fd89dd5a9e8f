"""Images, whole or by windows, through an encoder and several combinations of subnets, the encoder once a scale."""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Deque, Dict, Generator, Generic, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from .backend import mx
from .data.transforms import at_scale, normalize
from .nn import Fusion, MergedSubnets, Subnet
from .phases import phase
from .scores_on_device import OnDevice, Pass
from .scores_on_host import OnHost

T = TypeVar("T")
Arrays = Dict[str, mx.nd.NDArray]
Array = Union[mx.nd.NDArray, np.ndarray]
Labels = Dict[str, Array]  # uint8 (H, W) by view, on the device or in memory

_OVERLAP = 3  # neighbouring windows share one part in so many
_SMALL = 3 * 512 * 1024  # bytes; beyond, a second queued pass's memory counts, and labels are little of the time


@dataclass(frozen=True)
class View:
    """One way to label an image: the fused scores of the named subnets, or, without fusion, of one subnet alone."""

    subnets: Tuple[str, ...]
    fusion: Optional[Fusion] = None


@dataclass(frozen=True)
class Manner:
    """How a network is used on an image. Of several passes over a pixel the probabilities are averaged.

    scales  factors on the working resolution
    flip    whether the left-right flipped image is added
    window  (height, width) in pixels of the image, at least 3 each; None: the whole image. See `window_starts`
    """

    scales: Tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Optional[Tuple[int, int]] = None

    def __str__(self) -> str:
        window = "" if self.window is None else f", windows of {self.window[0]}x{self.window[1]}"
        return f"scales {', '.join(f'{s:g}' for s in self.scales)}, {'with' if self.flip else 'without'} flip{window}"


def window_starts(length: int, window: int) -> List[int]:
    """Where the windows along an axis begin: they share a third, and the last one is moved inside the image.

    [0] where the window is as long as the image or longer.
    """
    return [*range(0, length - window, window - window // _OVERLAP), max(length - window, 0)]


class Predictor:
    """Label maps of several views of one frozen network.

    Parameters
    ----------
    encoder, subnets : trained blocks on `device`; `subnets` by the names that the views use
    views : by name
    scale : working resolution relative to the image's
    manner : scales, flip, window. An image that fits into the window gives exactly what it gives without one. With
        windows, memory grows with the window, and, by a third of a window's height, with the image's width
    mean, std : normalisation as in training
    """

    def __init__(
        self,
        encoder: mx.gluon.HybridBlock,
        subnets: Dict[str, Subnet],
        views: Dict[str, View],
        *,
        scale: float,
        manner: Optional[Manner] = None,
        mean: Sequence[float],
        std: Sequence[float],
        device: mx.Context,
    ):
        self._encoder, self._names, self._views = encoder, tuple(subnets), views
        self._subnets = MergedSubnets(list(subnets.values()))
        self._subnets.copy_values(list(subnets.values()))
        self._subnets.hybridize()
        for view in views.values():
            if view.fusion is not None:
                view.fusion.hybridize()
        self._scale, self._manner = scale, manner or Manner()
        self._mean, self._std, self._device = mean, std, device
        stride = encoder.output_stride
        self._scores = OnHost(stride) if device.device_type == "cpu" else OnDevice(stride, device)

    def __call__(self, image: np.ndarray) -> Dict[str, np.ndarray]:
        """RGB uint8 (H, W, 3) -> for each view the arg max of its scores at the image's resolution, uint8 (H, W)."""
        ((_, _, labels),) = label_all([self], [(None, image)])
        return labels

    def launch(self, image: np.ndarray) -> Iterator[Optional[Labels]]:
        """The same in steps: None after each pass that is queued, at last the label maps.

        A step waits for the pass before it: MXNet takes a queued pass's memory at once.
        """
        height, width = self._manner.window or image.shape[:2]
        tops, lefts = window_starts(image.shape[0], height), window_starts(image.shape[1], width)
        if len(tops) == len(lefts) == 1:
            passes = yield from self._passes(image)
            yield {key: self._scores.labels(passes[key], image.shape[:2]) for key in self._views}
            return
        mosaics = {key: _Mosaic(tops, lefts, self._scores) for key in self._views}
        for row, top in enumerate(tops):
            for column, left in enumerate(lefts):
                window = image[top : top + height, left : left + width]
                passes = yield from self._passes(window)
                for key, mosaic in mosaics.items():
                    mosaic.add(row, column, self._scores.probabilities(passes[key], window.shape[:2]))
        yield {key: mosaic.labels() for key, mosaic in mosaics.items()}

    def _passes(self, image: np.ndarray) -> Generator[None, None, Dict[str, List[Pass]]]:
        """Returns, for each view, the fused scores and the input of each scale."""
        passes: Dict[str, List[Pass]] = {key: [] for key in self._views}
        for factor in self._manner.scales:
            x, fused = self._pass(image, self._scale * factor)
            yield None
            for key, scores in fused.items():
                scores.wait_to_read()
                passes[key].append((scores, x))
        return passes

    def _pass(self, image: np.ndarray, scale: float) -> Tuple[mx.nd.NDArray, Arrays]:
        """The network's input (1 or 2, 3, h, w) at a scale, and the views' fused scores."""
        x = mx.nd.array(self._input(image, scale)[None], ctx=self._device)
        if self._manner.flip:
            x = mx.nd.concat(x, x.flip(axis=3), dim=0)
        with phase("encoder", mx.nd.waitall):
            features = self._encoder(x)
        with phase("heads", mx.nd.waitall):
            logits = dict(zip(self._names, self._subnets(*features)))
        with phase("fusion", mx.nd.waitall):
            return x, {key: _fused(view, logits) for key, view in self._views.items()}

    def _input(self, image: np.ndarray, scale: float) -> np.ndarray:
        return normalize(at_scale(image, scale), self._mean, self._std)


class _Mosaic:
    """Adds up the scores of overlapping windows, row after row; a pixel is labelled once no window to come holds it.

    Kept until then: what the window to the right, and what the windows below, have in common with those added.
    """

    def __init__(self, tops: List[int], lefts: List[int], arrays: Union[OnHost, OnDevice]):
        self._tops, self._lefts, self._arrays = tops, lefts, arrays
        self._left: Optional[Array] = None
        self._above: List[Optional[Array]] = [None] * len(lefts)
        self._labels: List[List[Array]] = [[] for _ in tops]

    def add(self, row: int, column: int, scores: Array) -> None:
        """`scores` (C, h, w) of the window at (tops[row], lefts[column]), which come in order; overwritten."""
        if self._left is not None:
            scores[:, :, : self._left.shape[2]] += self._left
        done, self._left = _split(scores, self._lefts, column, axis=2)
        above = self._above[column]
        if above is not None:
            done[:, : above.shape[1]] += above
        done, self._above[column] = _split(done, self._tops, row, axis=1)
        self._labels[row].append(self._arrays.arg_max(done))

    def labels(self) -> Array:
        """uint8 (H, W), once every window was added."""
        return self._arrays.concat([self._arrays.concat(row, axis=1) for row in self._labels], axis=0)


def _split(scores: Array, starts: List[int], index: int, *, axis: int) -> Tuple[Array, Optional[Array]]:
    """What belongs to window `index` alone from here on, and what the next one along `axis` has as well."""
    if index + 1 == len(starts):
        return scores, None
    own, before = starts[index + 1] - starts[index], (slice(None),) * axis
    # a copy: NumPy's slice would keep the whole window in memory
    return scores[(*before, slice(own))], scores[(*before, slice(own, None))].copy()


def label_all(
    predictors: Sequence[Predictor], images: Iterable[Tuple[T, np.ndarray]]
) -> Iterator[Tuple[T, np.ndarray, Dict[str, np.ndarray]]]:
    """(tag, image) -> (tag, image, label maps by view), in order; one image at a time per device, all at work at once.

    The predictors are of the same network, one per device. A small image is queued before the one before it has its
    labels, so that the network goes on meanwhile.
    """
    running: Deque[_Running[T]] = deque()
    for number, (tag, image) in enumerate(images):
        running.append(_Running(tag, image, predictors[number % len(predictors)].launch(image)))
        running[-1].step()
        if len(running) >= len(predictors) + (image.size <= _SMALL):
            yield _finish(running, len(predictors))
    while running:
        yield _finish(running, len(predictors))


@dataclass
class _Running(Generic[T]):
    """An image on its way through a device."""

    tag: T
    image: np.ndarray
    steps: Iterator[Optional[Labels]]
    labels: Optional[Labels] = None

    def step(self) -> None:
        self.labels = next(self.steps, self.labels)


def _finish(running: Deque[_Running[T]], devices: int) -> Tuple[T, np.ndarray, Dict[str, np.ndarray]]:
    """Take the oldest out, with its labels; the others' devices are kept at work meanwhile."""
    while running[0].labels is None:
        for each in islice(running, devices):
            each.step()
    oldest = running.popleft()
    in_memory = {key: x if isinstance(x, np.ndarray) else x.asnumpy() for key, x in oldest.labels.items()}
    return oldest.tag, oldest.image, in_memory


def _fused(view: View, logits: Arrays) -> mx.nd.NDArray:
    chosen = [logits[name] for name in view.subnets]
    return chosen[0] if view.fusion is None else view.fusion(*chosen)
