"""The loss of a head, and the weights that it takes from a confusion matrix of the head's outputs."""

import logging
from typing import Any, Dict, Optional

import numpy as np

from .backend import mx
from .config_losses import LOSS_SETTINGS, Loss
from .confusion import ConfusionMatrix
from .nn import (
    ConfusionCrossEntropy,
    FocalLoss,
    LogitAdjustedCrossEntropy,
    LossMaxPooling,
    OhemCrossEntropy,
    PixelCrossEntropy,
    class_weights,
)
from .run import HeadName, Run

_log = logging.getLogger(__name__)

SMALL_DIAGONAL = 0.1  # c_ii below this starves the class under the paper's loss (CamVid's pole: 0.03, IoU 1 -> 0)


def loss_weights(settings: Loss, matrix: ConfusionMatrix) -> Optional[np.ndarray]:
    """What a loss takes from the confusion matrix of its head's output space (merged, for a group's subnet), if so."""
    if settings.kind == "confusion":
        return matrix.row_normalized()
    if settings.kind == "logit_adjusted":
        return settings.tau * class_weights.log_prior(matrix)
    by_class = {
        "recall_weighted": class_weights.recall,
        "inverse_frequency": class_weights.inverse_frequency,
        "median_frequency": class_weights.median_frequency,
    }
    return by_class[settings.kind](matrix, **_options(settings)) if settings.kind in by_class else None


def make_loss(settings: Loss, matrix: ConfusionMatrix) -> mx.gluon.HybridBlock:
    """The loss of a head whose output space is that of `matrix`; other `loss_weights` can be set later."""
    weights = loss_weights(settings, matrix)
    if settings.kind == "confusion":
        return ConfusionCrossEntropy(weights, **_options(settings))
    if settings.kind == "logit_adjusted":
        return LogitAdjustedCrossEntropy(weights)
    by_pixel = {"focal": FocalLoss, "ohem": OhemCrossEntropy, "loss_max_pooling": LossMaxPooling}
    if settings.kind in by_pixel:
        return by_pixel[settings.kind](matrix.num_classes, **_options(settings))
    return PixelCrossEntropy(matrix.num_classes, class_weights=weights)


def _options(settings: Loss) -> Dict[str, Any]:
    return {key: getattr(settings, key) for key in LOSS_SETTINGS[settings.kind]}


def warn_small_diagonal(run: Run, name: HeadName, matrix: ConfusionMatrix) -> None:
    settings = run.config.losses[name.loss]
    if settings.kind != "confusion" or settings.diagonal != "confusion" or name.subnet:
        return
    names = run.labels.classes
    small = [f"{names[i]} {c:.3f}" for i, c in enumerate(np.diag(matrix.row_normalized())) if c < SMALL_DIAGONAL]
    if small:
        _log.warning(
            "%s: c_ii below %s, which starves these classes (diagonal: one does not): %s",
            *(name, SMALL_DIAGONAL, ", ".join(small)),
        )
