"""One step, one epoch, fit: heads on an encoder, frozen or trained. Everything arrives as an argument."""

import logging
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from . import checkpoint, interrupts, progress
from .backend import mx
from .config import Schedule
from .data.loader import Batch, TrainLoader
from .epoch_metrics import EpochMetrics
from .errors import ConfsegError
from .mixed_precision import LossScale, all_finite
from .nn import Subnet, Upsample
from .passes import GradientSums, split_batch
from .profiling import phase, waiting

autograd, nd = mx.autograd, mx.nd

CHECKPOINT_SECONDS = 600.0  # between two checkpoints within an epoch: what a kill may cost

_log = logging.getLogger(__name__)


class HeadLoss(mx.gluon.HybridBlock):
    """Features and label to (per-sample loss, logits): subnet, upsampling to the label's resolution, loss.

    `factor` is the ratio of the label's resolution to the features'. Called as `block(label, *subnet.inputs(features))`
    with label (N, H, W) float32; the logits (N, C, h, w) are those at the features' resolution.
    `half` is the subnet in mixed precision, where that is wanted; what follows it is float32 in any case.
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

    def hybrid_forward(self, F, label, *inputs):
        logits = self.subnet(*inputs) if self.half is None else self.half(*inputs)
        return self.loss(self.upsample(logits, F.expand_dims(label, axis=1)), label), logits


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
    if trunk.trainer is not None:
        with autograd.record():
            features = trunk.features(images)
            outputs = [head.block(target, *head.block.subnet.inputs(features)) for head, target in zip(heads, targets)]
        losses = [loss for loss, _ in outputs]
        factors = None if scales is None else [nd.full(x.shape, s.value, ctx=x.ctx) for x, s in zip(losses, scales)]
        autograd.backward(losses, factors)
        return outputs
    features = trunk.features(images)
    outputs = []
    for index, (head, target) in enumerate(zip(heads, targets)):
        with autograd.record():
            loss, logits = head.block(target, *head.block.subnet.inputs(features))
        factor = None if scales is None else nd.full(loss.shape, scales[index].value, ctx=loss.ctx)
        loss.backward(factor)  # one head at a time: its graph is freed before the next one's is made
        outputs.append((loss, logits))
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


def run_epoch(
    epoch: int,
    batches: Iterator[Batch],
    trunk: Trunk,
    heads: Sequence[Head],
    *,
    devices: Sequence[mx.Context],
    schedule: Schedule,
    updates: int,
    metrics: EpochMetrics,
    bar: tqdm,
    first: int = 0,
    scales: Optional[Sequence[LossScale]] = None,
    seed: int = 0,
    on_update: Callable[[int], None] = lambda update: None,
) -> None:
    """Steps `first` to `updates` of epoch `epoch`; what they give is added to `metrics`.

    Random operators (dropout) draw from `seed`, epoch and step. `on_update` is told the number of finished steps.
    ConfsegError where a loss is not finite, naming epoch, update and images, and where mixed precision's gradients
    overflow at every loss scale down to 1.
    """
    for index, batch in zip(range(first, updates), waiting(batches, "waiting for images")):
        factor = learning_rate_factor(epoch * updates + index, schedule.epochs * updates, schedule.warmup)
        if trunk.trainer is not None:
            trunk.trainer.set_learning_rate(factor * trunk.learning_rate)
        for head in heads:
            head.trainer.set_learning_rate(factor * head.learning_rate)
        mx.random.seed(zlib.crc32(f"{seed}/{epoch}/{index}".encode()) & 0x7FFFFFFF)
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
        on_update(index + 1)


class _Saving:
    """Writes a training's checkpoints: where it is (epoch, update), and what is not in the trainers."""

    def __init__(self, kept: checkpoint.Kept, scales: Optional[Sequence[LossScale]], seconds: float):
        self._kept, self._scales = kept, scales or ()
        self._begun = time.monotonic() - seconds
        self._saved = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def save(self, epoch: int, update: int, metrics: EpochMetrics) -> None:
        state = {"epoch": epoch, "update": update, "loss_scales": [asdict(scale) for scale in self._scales]}
        state["metrics"] = metrics.to_tree() if update else None
        with phase("checkpoints"):
            self._kept.save({**state, "seconds": time.monotonic() - self._begun})
        self._saved = time.monotonic()


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
    seed: int = 0,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None,
) -> None:
    """Train for schedule.epochs, continuing from `checkpoint_path` where it exists.

    A checkpoint is written after every epoch, every CHECKPOINT_SECONDS within one, and at Ctrl-C, after the update
    that it comes in; where it was written changes no number. `first_epoch` offsets the epoch number that seeds
    shuffling and augmentation, so that a second stage sees new crops; `seed` is that of random operators (dropout).
    `amp` scales the losses, for a trunk and heads in mixed precision. Raises KeyboardInterrupt after Ctrl-C.
    """
    updates = min(len(loader), schedule.max_updates_per_epoch or len(loader))
    kept = checkpoint.Kept(checkpoint_path, _trainers(trunk, heads))
    done = {"epoch": 0, "update": 0, "seconds": 0.0, **kept.load()}
    scales = loss_scales(trunk, heads) if amp else None
    for scale, saved in zip(scales or (), done.get("loss_scales", ())):
        scale.value, scale.steady = saved["value"], saved["steady"]
    start, first = done["epoch"], done["update"]
    if start or first:
        within = f", update {first} of {updates} of the next" if first else ""
        _log.info("%s: continuing after epoch %d of %d%s", title, start, schedule.epochs, within)
    saving = _Saving(kept, scales, done["seconds"])
    bar = progress.bar(schedule.epochs * updates, title, "update", initial=start * updates + first)
    with bar, interrupts.postponed() as interrupted:
        for epoch in range(start, schedule.epochs):
            metrics = EpochMetrics.from_tree(done["metrics"]) if first else EpochMetrics.empty(heads)

            def on_update(update: int, epoch: int = epoch, metrics: EpochMetrics = metrics) -> None:
                stop = interrupted()
                if update < updates and (stop or saving.due()):
                    saving.save(epoch, update, metrics)
                if update < updates and stop:
                    raise KeyboardInterrupt

            run_epoch(
                epoch,
                loader.epoch(first_epoch + epoch, first),
                trunk,
                heads,
                devices=devices,
                schedule=schedule,
                updates=updates,
                metrics=metrics,
                bar=bar,
                first=first,
                scales=scales,
                seed=seed,
                on_update=on_update,
            )
            average_statistics(trunk.encoder, heads)
            first = 0
            saving.save(epoch + 1, 0, metrics)
            on_epoch(epoch, metrics)
            if interrupted():
                raise KeyboardInterrupt


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
