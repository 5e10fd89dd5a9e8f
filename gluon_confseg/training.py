"""One step, one epoch, fit: heads on an encoder, frozen or trained. Everything arrives as an argument."""

import contextlib
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
from tqdm import tqdm

from . import checkpoint, progress
from .backend import mx
from .batchnorm import average_statistics
from .config import Schedule
from .confusion import ConfusionMatrix
from .data.loader import Batch, TrainLoader
from .errors import ConfsegError
from .feature_gradients import TINY, FeatureGradients
from .mixed_precision import LossScale, all_finite
from .nn import Subnet, Upsample
from .passes import GradientSums, split_batch
from .phases import phase, waiting
from .workers import ALONE, Job

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
        self.factor = factor
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


def learning_rate_factor(update: int, total: int, warmup: int) -> float:
    """Linear rise over the first `warmup` updates times linear decay to 0 at `total` (paper: no warm-up)."""
    return min(1.0, (update + 1) / max(warmup, 1)) * (1 - update / total)


class Stepped(NamedTuple):
    """What a step gives: losses (heads, N), without the weights; each head's logits (N, C, h, w); norms (heads,).

    A norm is that of a head's gradient into the features of a trained trunk, the sum over the parts of the batch; 0
    where the trunk is frozen.
    """

    losses: np.ndarray
    logits: List[np.ndarray]
    norms: np.ndarray


def step(
    batch: Batch,
    trunk: Trunk,
    heads: Sequence[Head],
    devices: Sequence[mx.Context],
    schedule: Schedule,
    scales: Optional[Sequence[LossScale]] = None,
    job: Job = ALONE,
) -> Stepped:
    """One update of every head (and of the trunk, unless it is frozen) on one batch, split over devices and passes.

    `batch` is this worker's part of the `schedule.batch_size` images of the update.

    The encoder runs once, outside autograd where it is frozen; each head then takes its step on the same features, as
    it would alone. `scales` (mixed precision) are those of `loss_scales`; an update whose gradients overflow is left
    out.
    """
    passes = split_batch(len(batch.ids), devices, schedule.images_per_pass)
    outputs: Dict[int, _Part] = {}  # by the index of the part's first image
    sums = GradientSums(_trained(_trainers(trunk, heads)))
    for parts in passes:
        for ctx, part in parts:
            targets = [nd.array(_target(batch.labels[part], head), ctx=ctx) for head in heads]
            images = nd.array(batch.images[part], ctx=ctx)
            outputs[part.start] = _backward(images, targets, trunk, heads, scales)
            if len(passes) > 1:
                sums.add(ctx)
    sums.store()
    parts = [outputs[start] for start in sorted(outputs)]
    norms = _norms(parts, heads, scales)
    with phase("update", nd.waitall):
        _update(trunk, heads, scales, schedule.batch_size, job)
    values = [np.concatenate([part.losses[h].asnumpy() for part in parts]) for h in range(len(heads))]
    scores = [np.concatenate([part.logits[h].asnumpy() for part in parts]) for h in range(len(heads))]
    return Stepped(np.stack(values), scores, norms)


class _Part(NamedTuple):
    """Losses and logits of each head on a part of a batch; their gradients into the features of a trained trunk."""

    losses: List[nd.NDArray]
    logits: List[nd.NDArray]
    gradients: Optional[FeatureGradients]


def _norms(parts: Sequence[_Part], heads: Sequence[Head], scales: Optional[Sequence[LossScale]]) -> np.ndarray:
    """Of the gradients as they would be without loss scales."""
    if parts[0].gradients is None:
        return np.zeros(len(heads))
    total = np.sum([[float(norm.asscalar()) for norm in part.gradients.norms] for part in parts], axis=0)
    return total if scales is None else total / [scale.value for scale in scales]


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
) -> _Part:
    """Gradients of one part of a batch."""
    gradients = None if trunk.trainer is None else FeatureGradients()
    with phase("encoder", nd.waitall), contextlib.nullcontext() if gradients is None else autograd.record():
        features = trunk.features(images)
        inputs = [head.block.subnet.inputs(features) for head in heads]
    losses, logits = [], []
    for index, (head, target) in enumerate(zip(heads, targets)):
        given = inputs[index] if gradients is None else gradients.leaves(inputs[index])
        with autograd.record():
            loss, scores = head.block(target, *given)
        factor = head.weight * (1.0 if scales is None else scales[index].value)
        with phase("heads", nd.waitall):
            # one head at a time: its graph is freed before the next one's is made
            loss.backward(nd.full(loss.shape, factor, ctx=loss.ctx))
        if gradients is not None:
            gradients.add(inputs[index], given, head.pull)
        losses.append(loss)
        logits.append(scores)
    if gradients is not None:
        with phase("encoder", nd.waitall):
            gradients.backward()
    return _Part(losses, logits, gradients)


def loss_scales(trunk: Trunk, heads: Sequence[Head]) -> List[LossScale]:
    """Mixed precision's loss scale of each head: its own, or, where the trunk is trained with them, one for all."""
    if trunk.trainer is not None:
        return [LossScale()] * len(heads)
    return [LossScale() for _ in heads]


def _update(
    trunk: Trunk, heads: Sequence[Head], scales: Optional[Sequence[LossScale]], batch_size: int, job: Job
) -> None:
    trainers = _trainers(trunk, heads)
    job.sum_gradients(trainers)  # all devices now hold the same ones
    if scales is None:
        for trainer in trainers:
            trainer.update(batch_size)
        return
    if trunk.trainer is not None:
        _scaled_update(trainers, scales[0], batch_size)
        return
    for head, scale in zip(heads, scales):  # one that overflows does not hold up the others
        _scaled_update([head.trainer], scale, batch_size)


def _scaled_update(trainers: List[mx.gluon.Trainer], scale: LossScale, batch_size: int) -> None:
    """Update with gradients that are `scale.value` times too large, or not at all where one of them overflowed."""
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
    """Per head, summed loss and norms, and the confusion matrix on an epoch's crops, at the features' resolution."""

    losses: Dict[str, float]
    matrices: Dict[str, ConfusionMatrix]
    norms: Dict[str, float]
    samples: int = 0

    @classmethod
    def empty(cls, heads: Sequence[Head]) -> "EpochMetrics":
        matrices = {head.name: ConfusionMatrix(head.block.subnet.num_outputs) for head in heads}
        zeros = {head.name: 0.0 for head in heads}
        return cls(zeros, matrices, dict(zeros))

    def add(self, heads: Sequence[Head], batch: Batch, stepped: Stepped) -> Dict[str, ConfusionMatrix]:
        """Take in a batch; returns its counts."""
        self.samples += len(batch.ids)
        counted = {}
        for head, loss, scores, norm in zip(heads, *stepped):
            self.losses[head.name] += float(loss.sum())
            if np.isfinite(stepped.norms).all():  # mixed precision's gradients may overflow
                self.norms[head.name] += float(norm)
            stride = -(-batch.labels.shape[1] // scores.shape[2])
            label = head.output_of_label[batch.labels[:, stride // 2 :: stride, stride // 2 :: stride]]
            height, width = label.shape[1:]
            counted[head.name] = ConfusionMatrix(head.block.subnet.num_outputs)
            counted[head.name].update(label, scores[:, :, :height, :width].argmax(axis=1))
            self.matrices[head.name] += counted[head.name]
        return counted

    def of_all(self, job: Job) -> "EpochMetrics":
        """The same over the images of all workers."""
        if job.count == 1:
            return self
        losses = job.total(np.array(list(self.losses.values()), np.float32))
        samples = job.total_counts(np.array(self.samples))
        found = {name: ConfusionMatrix.from_counts(job.total_counts(m.counts)) for name, m in self.matrices.items()}
        return EpochMetrics(dict(zip(self.losses, map(float, losses))), found, dict(self.norms), int(samples))

    def loss(self, name: str) -> float:
        return self.losses[name] / max(self.samples, 1)

    def pull(self, name: str) -> float:
        """A head's mean norm relative to the first head's; 0 where nothing pulls."""
        return self.norms[name] / max(next(iter(self.norms.values())), TINY)

    def summary(self) -> Dict[str, str]:
        """Mean over the heads of the loss, and of mIoU in percent."""
        loss = np.mean([self.loss(name) for name in self.losses])
        miou = 100 * np.nanmean([matrix.mean_iou() for matrix in self.matrices.values()])
        return {"loss": f"{loss:.3f}", "train mIoU": f"{miou:.1f}"}


class Course:
    """How a training goes on beside its steps: here, the heads stay as they are (see joint.py for another)."""

    def __init__(self, heads: Sequence[Head]):
        self._heads = heads

    def heads(self, epoch: int) -> Sequence[Head]:
        """Those of an epoch (from 0), with the same names, subnets and trainers in each."""
        return self._heads

    def after_update(self, epoch: int, counted: Dict[str, ConfusionMatrix]) -> None:
        """`counted`: what each head made of the batch."""

    def after_epoch(self, metrics: EpochMetrics) -> None:
        """Before the checkpoint."""

    def state(self) -> Dict[str, Any]:
        """What a checkpoint must hold of it, for JSON."""
        return {}

    def restore(self, state: Dict[str, Any]) -> None:
        """Continue from what `state` gave."""


def run_epoch(
    epoch: int,
    batches: Iterator[Batch],
    trunk: Trunk,
    course: Course,
    *,
    devices: Sequence[mx.Context],
    schedule: Schedule,
    updates: int,
    bar: tqdm,
    scales: Optional[Sequence[LossScale]] = None,
    job: Job = ALONE,
) -> EpochMetrics:
    """`updates` steps of epoch `epoch`, measured over all workers.

    ConfsegError where a loss is not finite, naming epoch, update and images; so too where mixed precision's gradients
    overflow at every loss scale down to 1.
    """
    heads = course.heads(epoch)
    metrics = EpochMetrics.empty(heads)
    for index, batch in zip(range(updates), waiting(batches, "waiting for images")):
        factor = learning_rate_factor(epoch * updates + index, schedule.epochs * updates, schedule.warmup)
        if trunk.trainer is not None:
            trunk.trainer.set_learning_rate(factor * trunk.learning_rate)
        for head in heads:
            head.trainer.set_learning_rate(factor * head.learning_rate)
        stepped = step(batch, trunk, heads, devices, schedule, scales, job)
        where = f"in epoch {epoch + 1}, update {index + 1} (images {', '.join(batch.ids)}); lower the learning rate"
        where += "" if scales is None else ", or set amp: false"
        bad = [head.name for head, loss in zip(heads, stepped.losses) if not np.isfinite(loss).all()]
        if bad:
            raise ConfsegError(f"the loss of {', '.join(bad)} is not finite {where}")
        bad = [head.name for head, scale in zip(heads, scales or ()) if scale.value < 1]
        if bad:
            raise ConfsegError(f"the gradients of {', '.join(bad)} overflow at every loss scale {where}")
        with phase("metrics"):
            course.after_update(epoch, metrics.add(heads, batch, stepped))
        if index % 10 == 9 or index == updates - 1:
            bar.set_postfix(metrics.summary(), refresh=False)
        bar.update()
    return metrics.of_all(job)


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
    course: Optional[Course] = None,
    job: Job = ALONE,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None,
) -> None:
    """Train for schedule.epochs, continuing from `checkpoint_path` where it exists; a checkpoint after every epoch.

    `first_epoch` offsets the epoch number that seeds shuffling and augmentation, so that a second stage sees new crops.
    `amp` scales the losses, for a trunk and heads in mixed precision. `course` says what becomes of the heads on the
    way; by default, nothing. Of the workers of a `job` all read the checkpoint and the first writes it; the loader
    gives each its part of a batch.
    """
    course = course or Course(heads)
    updates = min(len(loader), schedule.max_updates_per_epoch or len(loader))
    previous = checkpoint_path.with_name(f"previous-{checkpoint_path.name}")
    trainers = _trainers(trunk, heads)
    meta, damaged = checkpoint.load_newest((checkpoint_path, previous), trainers)
    for line in damaged:
        _log.warning("%s; falling back to the checkpoint before it", line)
    done = meta or {"epoch": 0, "seconds": 0.0}
    job.require_same(f"the {title} checkpoint", done, "all workers must see the same folder: start it again")
    job.same_start(trainers)
    scales = loss_scales(trunk, heads) if amp else None
    for scale, saved in zip(scales or (), done.get("loss_scales", ())):
        scale.value, scale.steady = saved["value"], saved["steady"]
    if meta:
        course.restore(meta.get("course", {}))
    start, earlier, started = done["epoch"], done["seconds"], time.monotonic()
    if start:
        _log.info("%s: continuing after epoch %d of %d", title, start, schedule.epochs)
    total = schedule.epochs * updates
    with progress.bar(total, title, "update", initial=start * updates, shown=job.first) as bar:
        for epoch in range(start, schedule.epochs):
            metrics = run_epoch(
                epoch,
                loader.epoch(first_epoch + epoch),
                trunk,
                course,
                devices=devices,
                schedule=schedule,
                updates=updates,
                bar=bar,
                scales=scales,
                job=job,
            )
            average_statistics([*([trunk.encoder] if trunk.trainer else []), *(head.block for head in heads)], job)
            job.require_same_parameters(trainers)
            course.after_epoch(metrics)
            seconds = earlier + time.monotonic() - started
            state = {"epoch": epoch + 1, "seconds": seconds, "loss_scales": [asdict(s) for s in scales or ()]}
            state["course"] = course.state()
            if job.first:
                if checkpoint_path.exists():
                    checkpoint_path.replace(previous)
                with phase("checkpoints"):
                    checkpoint.save(checkpoint_path, trainers, state)
            on_epoch(epoch, metrics)
