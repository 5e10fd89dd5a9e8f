"""Class weights and log-priors from pixel counts: the rows of a confusion matrix, whole or merged for a group.

f_i is class i's share of all counted pixels. A class without pixels is taken for rare: the counts may be of other
images than those trained on.
"""

import numpy as np

from ..confusion import ConfusionMatrix
from ..errors import ConfsegError

MAX_RATIO = 50.0


def recall(matrix: ConfusionMatrix, lam: float) -> np.ndarray:
    """float64 (K,): w_i = c_ii + lam (1 - c_ii), the rebalancing of the paper's loss without its pairs of classes."""
    right = np.diag(matrix.row_normalized())
    return right + lam * (1 - right)


def inverse_frequency(matrix: ConfusionMatrix, max_ratio: float = MAX_RATIO) -> np.ndarray:
    """float64 (K,): w_i = s / max(f_i, max_j f_j / max_ratio), with s such that sum_i f_i w_i = 1.

    The weight of the average pixel is thus 1, as without weights, and the learning rate keeps its meaning. Where the
    cap touches no class, w_i = 1 / (K f_i), "balanced" in scikit-learn. No weight is more than `max_ratio` times
    another; a class without pixels has that largest weight. The default is the range of ENet's weights (Paszke et al.
    2016: 1 to 50); plain inverse frequency has no cap.

    Raises ConfsegError for a matrix without pixels.
    """
    frequency = _frequency(matrix)
    weights = 1 / np.maximum(frequency, frequency.max() / max_ratio)
    return weights / (frequency * weights).sum()


def median_frequency(matrix: ConfusionMatrix, max_ratio: float = MAX_RATIO) -> np.ndarray:
    """float64 (K,): w_i = median(f) / max(f_i, max_j f_j / max_ratio), the median over the classes that have pixels.

    After Eigen and Fergus 2015, whose f_i is class i's share of the pixels of those *images* in which i occurs. A
    confusion matrix does not say which images these are; here it is the share of all pixels, which is less for a class
    that many images lack. So approximated, the weights are those of `inverse_frequency` times a constant: there the
    average pixel has weight 1, here the median class. Cap and classes without pixels as there.

    Raises ConfsegError for a matrix without pixels.
    """
    frequency = _frequency(matrix)
    return np.median(frequency[frequency > 0]) / np.maximum(frequency, frequency.max() / max_ratio)


def log_prior(matrix: ConfusionMatrix) -> np.ndarray:
    """float64 (K,): log f_i, for logit adjustment (Menon et al. 2021); 0 for a class without pixels.

    There log f_i is -inf, and even a finite stand-in would leave the class's logit untrained: nothing would push down,
    in training, what is used without the adjustment afterwards. With 0 it is pushed down as in plain cross-entropy.

    Raises ConfsegError for a matrix without pixels.
    """
    frequency = _frequency(matrix)
    return np.log(np.where(frequency > 0, frequency, 1))


def _frequency(matrix: ConfusionMatrix) -> np.ndarray:
    pixels = matrix.counts.sum(axis=1)
    if not pixels.any():
        raise ConfsegError("class weights: the confusion matrix has no pixels; count it on labelled images first")
    return pixels / pixels.sum()
