"""One step, one epoch, fit: heads on an encoder, frozen or trained. Everything arrives as an argument."""

import contextlib
import logging
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import checkpoint, interrupts, progress
from .backend import mx
from .batchnorm import average_statistics
from .config_schedules import Schedule
from .course import Course
from .data.loader import Batch, TrainLoader
from .epoch_metrics import EpochMetrics
from .errors import ConfsegError
from .feature_gradients import FeatureGradients
from .heads import Head, Trunk
from .mixed_precision import LossScale, all_finite
from .passes import GradientSums, split_batch
from .phases import phase, waiting
from .workers import ALONE, Job

autograd, nd = mx.autograd, mx.nd

CHECKPOINT_SECONDS = 600.0  # between two checkpoints within an epoch: what a kill may cost

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Training:
    """What stays the same through a training.

    Parameters
    ----------
    loader : the images; of several workers, it gives each its part of a batch
    trunk, heads : what is trained, in mixed precision where there are `scales`
    course : what becomes of the heads on the way
    first_epoch : offsets the epoch number that seeds shuffling and augmentation, so that a second stage sees new crops
    scales : those of `loss_scales`; None without mixed precision
    seed : that of random operators (dropout)
    """

    loader: TrainLoader
    trunk: Trunk
    heads: Sequence[Head]
    course: Course
    devices: Sequence[mx.Context]
    schedule: Schedule
    first_epoch: int = 0
    scales: Optional[Sequence[LossScale]] = None
    seed: int = 0
    job: Job = ALONE

    @property
    def updates(self) -> int:
        """Those of an epoch."""
        return min(len(self.loader), self.schedule.max_updates_per_epoch or len(self.loader))

    @property
    def trainers(self) -> List[mx.gluon.Trainer]:
        return _trainers(self.trunk, self.heads)


def run_epoch(training: Training, epoch: int, first: int, metrics: EpochMetrics) -> Iterator[int]:
    """Take the steps of an epoch (from 0) from number `first` on; yields after each how many are done.

    What they give is added to `metrics`. Random operators (dropout) draw from seed, epoch and step. ConfsegError where
    a loss is not finite, naming epoch, update and images, and where mixed precision's gradients overflow at every loss
    scale down to 1.
    """
    trunk, schedule, updates = training.trunk, training.schedule, training.updates
    heads = training.course.heads(epoch)
    batches = training.loader.epoch(training.first_epoch + epoch, first)
    for index, batch in zip(range(first, updates), waiting(batches, "waiting for images")):
        factor = learning_rate_factor(epoch * updates + index, schedule.epochs * updates, schedule.warmup)
        if trunk.trainer is not None:
            trunk.trainer.set_learning_rate(factor * trunk.learning_rate)
        for head in heads:
            head.trainer.set_learning_rate(factor * head.learning_rate)
        mx.random.seed(zlib.crc32(f"{training.seed}/{epoch}/{index}".encode()) & 0x7FFFFFFF)
        stepped = step(batch, trunk, heads, training.devices, schedule, training.scales, training.job)
        _require_finite(stepped, heads, training.scales, f"epoch {epoch + 1}, update {index + 1}", batch)
        with phase("metrics"):
            training.course.after_update(epoch, metrics.add(heads, batch, *stepped))
        yield index + 1


def _require_finite(
    stepped: Stepped, heads: Sequence[Head], scales: Optional[Sequence[LossScale]], when: str, batch: Batch
) -> None:
    where = f"in {when} (images {', '.join(batch.ids)}); lower the learning rate"
    where += "" if scales is None else ", or set amp: false"
    bad = [head.name for head, loss in zip(heads, stepped.losses) if not np.isfinite(loss).all()]
    if bad:
        raise ConfsegError(f"the loss of {', '.join(bad)} is not finite {where}")
    bad = [head.name for head, scale in zip(heads, scales or ()) if scale.value < 1]
    if bad:
        raise ConfsegError(f"the gradients of {', '.join(bad)} overflow at every loss scale {where}")


class _Checkpoints:
    """A training's checkpoints: where it is (epoch, update), and what is not in the trainers."""

    def __init__(self, training: Training, path: Path):
        self._training, self._path = training, path
        self._kept = checkpoint.Kept(path, training.trainers)
        self._begun = self._saved = time.monotonic()

    def restore(self, title: str) -> Tuple[int, int, EpochMetrics]:
        """Continue from the newest checkpoint, if there is one: finished epochs, updates of the next, its metrics."""
        job, heads = self._training.job, self._training.heads
        found = self._kept.load()
        done = {"epoch": 0, "update": 0, "seconds": 0.0, **found}
        job.require_same(f"the {title} checkpoint", done, "all workers must see the same folder: start it again")
        job.same_start(self._training.trainers)
        for scale, saved in zip(self._training.scales or (), done.get("loss_scales", ())):
            scale.value, scale.steady = saved["value"], saved["steady"]
        begun = self._restore_epoch(found) if found else None
        self._begun -= done["seconds"]
        return done["epoch"], done["update"], begun if begun and job.first else EpochMetrics.empty(heads)

    def _restore_epoch(self, meta: Dict[str, Any]) -> Optional[EpochMetrics]:
        """Restore the course; returns what was measured of an epoch that a checkpoint is within, or None."""
        try:
            self._training.course.restore(meta.get("course", {}))
            return EpochMetrics.from_tree(meta.get("metrics"), self._training.heads) if meta.get("update") else None
        except ConfsegError as error:
            message = f"{self._path} belongs to another training ({error}); delete it and run again"
            raise ConfsegError(message) from error

    def within_epoch(self, epoch: int, update: int, metrics: EpochMetrics, stop: bool) -> None:
        """Save where it is time to; save and stop where the user wants to stop."""
        if stop or self._due():
            self.save(epoch, update, metrics)
        if stop:
            raise KeyboardInterrupt

    def _due(self) -> bool:
        """Of several workers none would know when the others save."""
        return self._training.job.count == 1 and time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def save(self, epoch: int, update: int, metrics: EpochMetrics) -> None:
        if not self._training.job.first:
            return
        scales = [asdict(scale) for scale in self._training.scales or ()]
        state = {"epoch": epoch, "update": update, "loss_scales": scales}
        state.update(metrics=metrics.to_tree() if update else None, course=self._training.course.state())
        with phase("checkpoints"):
            self._kept.save({**state, "seconds": time.monotonic() - self._begun})
        self._saved = time.monotonic()


def fit(
    training: Training,
    checkpoint_path: Path,
    title: str,
    *,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None,
) -> None:
    """Train for the schedule's epochs, continuing from `checkpoint_path` where it exists.

    A checkpoint is written after every epoch, every CHECKPOINT_SECONDS within one, and at Ctrl-C, after the update
    that it comes in; where it was written changes no number. Of several workers all read the checkpoint, and the first
    writes it, after epochs only. Raises KeyboardInterrupt after Ctrl-C.
    """
    job, epochs, updates = training.job, training.schedule.epochs, training.updates
    trunk, heads = training.trunk, training.heads
    checkpoints = _Checkpoints(training, checkpoint_path)
    start, first, metrics = checkpoints.restore(title)
    if start or first:
        within = f", update {first} of {updates} of the next" if first else ""
        _log.info("%s: continuing after epoch %d of %d%s", title, start, epochs, within)
    bar = progress.bar(epochs * updates, title, "update", initial=start * updates + first, shown=job.first)
    with bar, interrupts.postponed() if job.count == 1 else contextlib.nullcontext(lambda: False) as interrupted:
        for epoch in range(start, epochs):
            for update in run_epoch(training, epoch, first, metrics):
                if update % 10 == 0 or update == updates:
                    bar.set_postfix(metrics.summary(), refresh=False)
                bar.update()
                if update < updates:
                    checkpoints.within_epoch(epoch, update, metrics, stop=interrupted())
            metrics = metrics.of_all(job)
            average_statistics([*([trunk.encoder] if trunk.trainer else []), *(head.block for head in heads)], job)
            job.require_same_parameters(training.trainers)
            training.course.after_epoch(metrics)
            checkpoints.save(epoch + 1, 0, metrics)
            on_epoch(epoch, metrics)
            if interrupted():
                raise KeyboardInterrupt
            first, metrics = 0, EpochMetrics.empty(heads)
