"""A head with what trains it, and the trunk that all heads read: the encoder, frozen or trained."""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from .backend import mx
from .config_schedules import Schedule
from .nn import MatrixUpsample, Subnet
from .phases import phase

nd = mx.nd


class HeadLoss(mx.gluon.Block):
    """Features and label to (per-sample loss, logits): subnet, upsampling to the label's resolution, loss.

    `factor` is the ratio of the label's resolution to the features'. Called as `block(label, *subnet.inputs(features))`
    with label (N, H, W) float32; the logits (N, C, h, w) are those at the features' resolution.
    `half` is the subnet in mixed precision, where that is wanted; what follows it is float32 in any case.
    Its parts are hybridized, not the whole: the loss works in strips only where it is given arrays.
    """

    def __init__(
        self,
        subnet: Subnet,
        loss: mx.gluon.HybridBlock,
        factor: int,
        half: Optional[mx.gluon.HybridBlock] = None,
    ):
        super().__init__()
        self.factor = factor
        with self.name_scope():
            self.subnet = subnet
            self.half = half
            self.upsample = MatrixUpsample(factor)
            self.loss = loss

    def forward(self, label, *inputs):
        with phase("heads", nd.waitall):
            logits = self.subnet(*inputs) if self.half is None else self.half(*inputs)
            upsampled = self.upsample(logits, label.shape[1:])
        with phase("loss", nd.waitall):  # and its gradient
            return self.loss(upsampled, label), logits


@dataclass(frozen=True)
class Head:
    """A subnet with what trains it. `output_of_label` maps a uint8 label (255 = ignore) to the subnet's output.

    `loss_stride`: the loss takes one pixel in loss_stride x loss_stride. `weight`: of its loss. `pull`: the norm that
    the head's gradient into the features of a trained trunk is given, relative to the first head's; None: its own.
    """

    name: str
    block: HeadLoss
    trainer: mx.gluon.Trainer
    learning_rate: float
    output_of_label: np.ndarray
    loss_stride: int
    weight: float = 1.0
    pull: Optional[float] = None


@dataclass(frozen=True)
class Trunk:
    """The encoder, with the trainer of its parameters, or None where it is frozen.

    `half` is the encoder in mixed precision, over the same parameters, where that is wanted.
    """

    encoder: mx.gluon.HybridBlock
    trainer: Optional[mx.gluon.Trainer] = None
    learning_rate: float = 0.0
    half: Optional[mx.gluon.HybridBlock] = None

    def features(self, images: nd.NDArray) -> Sequence[nd.NDArray]:
        features = (self.encoder if self.half is None else self.half)(images)
        return [features] if isinstance(features, nd.NDArray) else features  # a SymbolBlock makes no tuple of one


def make_trainer(block: mx.gluon.Block, schedule: Schedule) -> mx.gluon.Trainer:
    """SGD over all parameters of a block; the learning rate is set at each update."""
    options = {"learning_rate": 0.0, "momentum": schedule.momentum, "wd": schedule.weight_decay}
    return mx.gluon.Trainer(block.collect_params(), "sgd", options, update_on_kvstore=False)
