"""One step, one epoch, fit: heads on an encoder, frozen or trained. Everything arrives as an argument."""

import contextlib
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from . import checkpoint, progress
from .backend import mx
from .config import Schedule
from .confusion import ConfusionMatrix
from .data.loader import Batch, TrainLoader
from .errors import ConfsegError
from .mixed_precision import LossScale, all_finite
from .nn import Subnet, Upsample
from .passes import GradientSums, split_batch
from .phases import phase, waiting

autograd, nd = mx.autograd, mx.nd

_log = logging.getLogger(__name__)


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
        with self.name_scope():
            self.subnet = subnet
            self.half = half
            self.upsample = Upsample(subnet.num_outputs, factor)
            self.loss = loss

    def forward(self, label, *inputs):
        with phase("heads", nd.waitall):
            logits = self.subnet(*inputs) if self.half is None else self.half(*inputs)
            upsampled = self.upsample(logits, label.expand_dims(1))
        with phase("loss", nd.waitall):  # and its gradient
            return self.loss(upsampled, label), logits


@dataclass(frozen=True)
class Head:
    """A subnet with what trains it. `output_of_label` maps a uint8 label (255 = ignore) to the subnet's output.

    `loss_stride`: the loss takes one pixel in loss_stride x loss_stride.
    """

    name: str
    block: HeadLoss
    trainer: mx.gluon.Trainer
    learning_rate: float
    output_of_label: np.ndarray
    loss_stride: int


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


def learning_rate_factor(update: int, total: int, warmup: int) -> float:
    """Linear rise over the first `warmup` updates times linear decay to 0 at `total` (paper: no warm-up)."""
    return min(1.0, (update + 1) / max(warmup, 1)) * (1 - update / total)


def step(
    batch: Batch,
    trunk: Trunk,
    heads: Sequence[Head],
    devices: Sequence[mx.Context],
    schedule: Schedule,
    scales: Optional[Sequence[LossScale]] = None,
) -> Tuple[np.ndarray, List[np.ndarray]]:
    """One update of every head (and of the trunk, unless it is frozen) on one batch, split over devices and passes.

    A frozen encoder runs once, outside autograd; each head then takes its step on the same features, as it would alone.
    `scales` (mixed precision) are those of `loss_scales`; an update whose gradients overflow is left out.
    Returns the losses (heads, N) and each head's logits (N, C, h, w).
    """
    passes = split_batch(len(batch.ids), devices, schedule.images_per_pass)
    outputs: Dict[int, List[tuple]] = {}  # by the index of the part's first image
    sums = GradientSums(_trained(_trainers(trunk, heads)))
    for parts in passes:
        for ctx, part in parts:
            targets = [nd.array(_target(batch.labels[part], head), ctx=ctx) for head in heads]
            images = nd.array(batch.images[part], ctx=ctx)
            outputs[part.start] = _backward(images, targets, trunk, heads, scales)
            if len(passes) > 1:
                sums.add(ctx)
    sums.store()
    with phase("update", nd.waitall):
        _update(trunk, heads, scales, len(batch.ids))
    parts = [outputs[start] for start in sorted(outputs)]
    values = [np.concatenate([part[h][0].asnumpy() for part in parts]) for h in range(len(heads))]
    scores = [np.concatenate([part[h][1].asnumpy() for part in parts]) for h in range(len(heads))]
    return np.stack(values), scores


def _target(labels: np.ndarray, head: Head) -> np.ndarray:
    """(N, H, W) label -> the head's own outputs, one pixel in head.loss_stride x head.loss_stride, float32."""
    start = head.loss_stride // 2  # the middle of the block that an upsampled score stands for
    return head.output_of_label[labels[:, start :: head.loss_stride, start :: head.loss_stride]].astype("float32")


def _backward(
    images: nd.NDArray,
    targets: List[nd.NDArray],
    trunk: Trunk,
    heads: Sequence[Head],
    scales: Optional[Sequence[LossScale]],
) -> List[tuple]:
    """Gradients of one part of a batch; returns (losses, logits) of each head."""
    trained = trunk.trainer is not None
    with phase("encoder", nd.waitall), autograd.record() if trained else contextlib.nullcontext():
        features = trunk.features(images)
    outputs, gradients = [], []  # of the features, by head
    for index, (head, target) in enumerate(zip(heads, targets)):
        given = [feature.detach() for feature in features]  # the head's graph ends here
        for feature in given if trained else ():
            feature.attach_grad()
        with autograd.record():
            loss, logits = head.block(target, *head.block.subnet.inputs(given))
        factor = None if scales is None else nd.full(loss.shape, scales[index].value, ctx=loss.ctx)
        with phase("heads", nd.waitall):
            loss.backward(factor)  # one head at a time: its graph is freed before the next one's is made
        outputs.append((loss, logits))
        gradients.append([feature.grad for feature in given])
    if trained:
        with phase("encoder", nd.waitall):
            autograd.backward(list(features), [nd.add_n(*same) for same in zip(*gradients)])
    return outputs


def loss_scales(trunk: Trunk, heads: Sequence[Head]) -> List[LossScale]:
    """Mixed precision's loss scale of each head: its own, or, where the trunk is trained with them, one for all."""
    if trunk.trainer is not None:
        return [LossScale()] * len(heads)
    return [LossScale() for _ in heads]


def _update(trunk: Trunk, heads: Sequence[Head], scales: Optional[Sequence[LossScale]], batch_size: int) -> None:
    if scales is None:
        for trainer in _trainers(trunk, heads):
            trainer.step(batch_size)
        return
    if trunk.trainer is not None:
        _scaled_update(_trainers(trunk, heads), scales[0], batch_size)
        return
    for head, scale in zip(heads, scales):  # one that overflows does not hold up the others
        _scaled_update([head.trainer], scale, batch_size)


def _scaled_update(trainers: List[mx.gluon.Trainer], scale: LossScale, batch_size: int) -> None:
    """Update with gradients that are `scale.value` times too large, or not at all where one of them overflowed."""
    for trainer in trainers:
        trainer.allreduce_grads()  # all devices now hold the same ones
    finite = all_finite([parameter.list_grad()[0] for parameter in _trained(trainers)])
    if finite:
        for trainer in trainers:
            trainer.update(batch_size * scale.value)
    scale.record(finite)


def _trainers(trunk: Trunk, heads: Sequence[Head]) -> List[mx.gluon.Trainer]:
    return ([] if trunk.trainer is None else [trunk.trainer]) + [head.trainer for head in heads]


def _trained(trainers: Sequence[mx.gluon.Trainer]) -> List[mx.gluon.Parameter]:
    """Their parameters that have gradients."""
    return [parameter for trainer in trainers for parameter in trainer._params if parameter.grad_req != "null"]


@dataclass
class EpochMetrics:
    """Per head, the summed loss and the confusion matrix on an epoch's crops, at the features' resolution."""

    losses: Dict[str, float]
    matrices: Dict[str, ConfusionMatrix]
    samples: int = 0

    @classmethod
    def empty(cls, heads: Sequence[Head]) -> "EpochMetrics":
        matrices = {head.name: ConfusionMatrix(head.block.subnet.num_outputs) for head in heads}
        return cls({head.name: 0.0 for head in heads}, matrices)

    def add(self, heads: Sequence[Head], batch: Batch, losses: np.ndarray, logits: List[np.ndarray]) -> None:
        self.samples += len(batch.ids)
        for head, loss, scores in zip(heads, losses, logits):
            self.losses[head.name] += float(loss.sum())
            stride = -(-batch.labels.shape[1] // scores.shape[2])
            label = head.output_of_label[batch.labels[:, stride // 2 :: stride, stride // 2 :: stride]]
            height, width = label.shape[1:]
            self.matrices[head.name].update(label, scores[:, :, :height, :width].argmax(axis=1))

    def loss(self, name: str) -> float:
        return self.losses[name] / max(self.samples, 1)

    def summary(self) -> Dict[str, str]:
        """Mean over the heads of the loss, and of mIoU in percent."""
        loss = np.mean([self.loss(name) for name in self.losses])
        miou = 100 * np.nanmean([matrix.mean_iou() for matrix in self.matrices.values()])
        return {"loss": f"{loss:.3f}", "train mIoU": f"{miou:.1f}"}


def run_epoch(
    epoch: int,
    batches: Iterator[Batch],
    trunk: Trunk,
    heads: Sequence[Head],
    *,
    devices: Sequence[mx.Context],
    schedule: Schedule,
    updates: int,
    bar: tqdm,
    scales: Optional[Sequence[LossScale]] = None,
) -> EpochMetrics:
    """`updates` steps of epoch `epoch`; ConfsegError where a loss is not finite, naming epoch, update and images.

    So too where mixed precision's gradients overflow at every loss scale down to 1.
    """
    metrics = EpochMetrics.empty(heads)
    for index, batch in zip(range(updates), waiting(batches, "waiting for images")):
        factor = learning_rate_factor(epoch * updates + index, schedule.epochs * updates, schedule.warmup)
        if trunk.trainer is not None:
            trunk.trainer.set_learning_rate(factor * trunk.learning_rate)
        for head in heads:
            head.trainer.set_learning_rate(factor * head.learning_rate)
        losses, logits = step(batch, trunk, heads, devices, schedule, scales)
        where = f"in epoch {epoch + 1}, update {index + 1} (images {', '.join(batch.ids)}); lower the learning rate"
        where += "" if scales is None else ", or set amp: false"
        bad = [head.name for head, loss in zip(heads, losses) if not np.isfinite(loss).all()]
        if bad:
            raise ConfsegError(f"the loss of {', '.join(bad)} is not finite {where}")
        bad = [head.name for head, scale in zip(heads, scales or ()) if scale.value < 1]
        if bad:
            raise ConfsegError(f"the gradients of {', '.join(bad)} overflow at every loss scale {where}")
        with phase("metrics"):
            metrics.add(heads, batch, losses, logits)
        if index % 10 == 9 or index == updates - 1:
            bar.set_postfix(metrics.summary(), refresh=False)
        bar.update()
    return metrics


def fit(
    loader: TrainLoader,
    trunk: Trunk,
    heads: Sequence[Head],
    *,
    devices: Sequence[mx.Context],
    schedule: Schedule,
    checkpoint_path: Path,
    title: str,
    first_epoch: int = 0,
    amp: bool = False,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None,
) -> None:
    """Train for schedule.epochs, continuing from `checkpoint_path` where it exists; a checkpoint after every epoch.

    `first_epoch` offsets the epoch number that seeds shuffling and augmentation, so that a second stage sees new crops.
    `amp` scales the losses, for a trunk and heads in mixed precision.
    """
    updates = min(len(loader), schedule.max_updates_per_epoch or len(loader))
    previous = checkpoint_path.with_name(f"previous-{checkpoint_path.name}")
    meta, damaged = checkpoint.load_newest((checkpoint_path, previous), _trainers(trunk, heads))
    for line in damaged:
        _log.warning("%s; falling back to the checkpoint before it", line)
    done = meta or {"epoch": 0, "seconds": 0.0}
    scales = loss_scales(trunk, heads) if amp else None
    for scale, saved in zip(scales or (), done.get("loss_scales", ())):
        scale.value, scale.steady = saved["value"], saved["steady"]
    start, earlier, started = done["epoch"], done["seconds"], time.monotonic()
    if start:
        _log.info("%s: continuing after epoch %d of %d", title, start, schedule.epochs)
    total = schedule.epochs * updates
    with progress.bar(total, title, "update", initial=start * updates) as bar:
        for epoch in range(start, schedule.epochs):
            metrics = run_epoch(
                epoch,
                loader.epoch(first_epoch + epoch),
                trunk,
                heads,
                devices=devices,
                schedule=schedule,
                updates=updates,
                bar=bar,
                scales=scales,
            )
            average_statistics(trunk.encoder, heads)
            if checkpoint_path.exists():
                checkpoint_path.replace(previous)
            seconds = earlier + time.monotonic() - started
            state = {"epoch": epoch + 1, "seconds": seconds, "loss_scales": [asdict(s) for s in scales or ()]}
            with phase("checkpoints"):
                checkpoint.save(checkpoint_path, _trainers(trunk, heads), state)
            on_epoch(epoch, metrics)


def average_statistics(encoder: mx.gluon.Block, heads: Sequence[Head]) -> None:
    """Make BatchNorm's running statistics, which each device keeps for itself, their mean on all devices."""
    for block in (encoder, *(head.block for head in heads)):
        for parameter in block.collect_params(".*running_(mean|var)").values():
            values = parameter.list_data()
            if len(values) > 1:
                parameter.set_data(nd.array(np.mean([v.asnumpy() for v in values], axis=0), dtype=parameter.dtype))


def has_moving_statistics(block: mx.gluon.Block) -> bool:
    """Whether a BatchNorm in it takes its statistics from the images of a pass."""
    if isinstance(block, mx.gluon.nn.BatchNorm):
        return not block._kwargs["use_global_stats"]
    return any(map(has_moving_statistics, block._children.values()))
