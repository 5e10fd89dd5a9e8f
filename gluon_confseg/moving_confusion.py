"""A confusion matrix that follows a network while it learns: the exponential average over its training batches."""

from typing import List

import numpy as np

from .confusion import ConfusionMatrix
from .errors import ConfsegError

_MOST = 2.0**42  # pixels, so that their units can be counted
_UNIT = 2.0**-20  # of a pixel: averages are counted in whole units, so that what takes counts takes them


class MovingConfusion:
    """M <- decay M + (1 - decay) N for each batch's counts N (K, K), rows = truth; M starts at 0.

    Counts are averaged, not their normalised rows: a class that a batch lacks keeps its row's shares.
    """

    def __init__(self, num_classes: int, decay: float):
        self._decay = decay
        self._counts = np.zeros((num_classes, num_classes))

    def update(self, batch: ConfusionMatrix) -> None:
        """Take in the counts of one batch."""
        self._counts = self._decay * self._counts + (1 - self._decay) * batch.counts

    def matrix(self) -> ConfusionMatrix:
        """M in units of 2^-20 pixels, rounded; its shares are those of M to about 1e-6 of a pixel."""
        return ConfusionMatrix.from_counts(np.rint(self._counts / _UNIT))

    def state(self) -> List[List[float]]:
        """M, exact, for JSON."""
        return self._counts.tolist()

    def restore(self, state: List[List[float]]) -> None:
        """Continue from what `state` gave; ConfsegError where it is of another number of classes, or cannot be."""
        counts = np.asarray(state, float)
        if counts.shape != self._counts.shape:
            raise ConfsegError(f"a moving confusion matrix of shape {counts.shape}, not {self._counts.shape}")
        if not (0 <= counts.sum() < _MOST and (counts >= 0).all()):
            raise ConfsegError("a moving confusion matrix with values that are no numbers of pixels")
        self._counts = counts
