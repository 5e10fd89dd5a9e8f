"""One step, one epoch, fit: heads on an encoder, frozen or trained. Everything arrives as an argument."""

import contextlib
import logging
import time
import zlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
from tqdm import tqdm

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


def run_epoch(
    epoch: int,
    batches: Iterator[Batch],
    trunk: Trunk,
    course: Course,
    *,
    devices: Sequence[mx.Context],
    schedule: Schedule,
    updates: int,
    metrics: EpochMetrics,
    bar: tqdm,
    first: int = 0,
    scales: Optional[Sequence[LossScale]] = None,
    seed: int = 0,
    job: Job = ALONE,
    on_update: Callable[[int], None] = lambda update: None,
) -> None:
    """Steps `first` to `updates` of epoch `epoch`; what they give is added to `metrics`.

    Random operators (dropout) draw from `seed`, epoch and step. `on_update` is told the number of finished steps.
    ConfsegError where a loss is not finite, naming epoch, update and images, and where mixed precision's gradients
    overflow at every loss scale down to 1.
    """
    heads = course.heads(epoch)
    for index, batch in zip(range(first, updates), waiting(batches, "waiting for images")):
        factor = learning_rate_factor(epoch * updates + index, schedule.epochs * updates, schedule.warmup)
        if trunk.trainer is not None:
            trunk.trainer.set_learning_rate(factor * trunk.learning_rate)
        for head in heads:
            head.trainer.set_learning_rate(factor * head.learning_rate)
        mx.random.seed(zlib.crc32(f"{seed}/{epoch}/{index}".encode()) & 0x7FFFFFFF)
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
            course.after_update(epoch, metrics.add(heads, batch, *stepped))
        if index % 10 == 9 or index == updates - 1:
            bar.set_postfix(metrics.summary(), refresh=False)
        bar.update()
        on_update(index + 1)


class _Saving:
    """Writes a training's checkpoints: where it is (epoch, update), and what is not in the trainers."""

    def __init__(
        self, kept: checkpoint.Kept, scales: Optional[Sequence[LossScale]], course: Course, seconds: float, job: Job
    ):
        self._kept, self._scales, self._course, self._job = kept, scales or (), course, job
        self._begun = time.monotonic() - seconds
        self._saved = time.monotonic()

    def after_update(
        self, epoch: int, metrics: EpochMetrics, updates: int, interrupted: Callable[[], bool], update: int
    ) -> None:
        """Within an epoch of `updates`: save where it is time to; save and stop where the user wants to stop."""
        stop = interrupted()
        if update < updates and (stop or self._due()):
            self.save(epoch, update, metrics)
        if update < updates and stop:
            raise KeyboardInterrupt

    def _due(self) -> bool:
        """Of several workers none would know when the others save."""
        return self._job.count == 1 and time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def save(self, epoch: int, update: int, metrics: EpochMetrics) -> None:
        if not self._job.first:
            return
        state = {"epoch": epoch, "update": update, "loss_scales": [asdict(scale) for scale in self._scales]}
        state.update(metrics=metrics.to_tree() if update else None, course=self._course.state())
        with phase("checkpoints"):
            self._kept.save({**state, "seconds": time.monotonic() - self._begun})
        self._saved = time.monotonic()


def _restore_epoch(meta: Dict[str, Any], heads: Sequence[Head], course: Course, path: Path) -> Optional[EpochMetrics]:
    """Restore the course; returns what was measured of an epoch that a checkpoint is within, None between epochs."""
    try:
        course.restore(meta.get("course", {}))
        return EpochMetrics.from_tree(meta.get("metrics"), heads) if meta.get("update") else None
    except ConfsegError as error:
        raise ConfsegError(f"{path} belongs to another training ({error}); delete it and run again") from error


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
    seed: int = 0,
    job: Job = ALONE,
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None,
) -> None:
    """Train for schedule.epochs, continuing from `checkpoint_path` where it exists.

    A checkpoint is written after every epoch, every CHECKPOINT_SECONDS within one, and at Ctrl-C, after the update
    that it comes in; where it was written changes no number. `first_epoch` offsets the epoch number that seeds
    shuffling and augmentation, so that a second stage sees new crops; `seed` is that of random operators (dropout).
    `amp` scales the losses, for a trunk and heads in mixed precision. `course` says what becomes of the heads on the
    way; by default, nothing. Of several workers of a `job` all read the checkpoint, and the first writes it, after
    epochs only; the loader gives each its part of a batch. Raises KeyboardInterrupt after Ctrl-C.
    """
    course = course or Course(heads)
    updates = min(len(loader), schedule.max_updates_per_epoch or len(loader))
    trainers = _trainers(trunk, heads)
    kept = checkpoint.Kept(checkpoint_path, trainers)
    found = kept.load()
    done = {"epoch": 0, "update": 0, "seconds": 0.0, **found}
    job.require_same(f"the {title} checkpoint", done, "all workers must see the same folder: start it again")
    job.same_start(trainers)
    scales = loss_scales(trunk, heads) if amp else None
    for scale, saved in zip(scales or (), done.get("loss_scales", ())):
        scale.value, scale.steady = saved["value"], saved["steady"]
    begun = _restore_epoch(found, heads, course, checkpoint_path) if found else None
    start, first = done["epoch"], done["update"]
    if start or first:
        within = f", update {first} of {updates} of the next" if first else ""
        _log.info("%s: continuing after epoch %d of %d%s", title, start, schedule.epochs, within)
    saving = _Saving(kept, scales, course, done["seconds"], job)
    total, initial = schedule.epochs * updates, start * updates + first
    bar = progress.bar(total, title, "update", initial=initial, shown=job.first)
    with bar, interrupts.postponed() if job.count == 1 else contextlib.nullcontext(lambda: False) as interrupted:
        for epoch in range(start, schedule.epochs):
            metrics = begun if begun and first and job.first else EpochMetrics.empty(heads)
            run_epoch(
                epoch,
                loader.epoch(first_epoch + epoch, first),
                trunk,
                course,
                devices=devices,
                schedule=schedule,
                updates=updates,
                metrics=metrics,
                bar=bar,
                first=first,
                scales=scales,
                seed=seed,
                job=job,
                on_update=partial(saving.after_update, epoch, metrics, updates, interrupted),
            )
            metrics = metrics.of_all(job)
            average_statistics([*([trunk.encoder] if trunk.trainer else []), *(head.block for head in heads)], job)
            job.require_same_parameters(trainers)
            course.after_epoch(metrics)
            first = 0
            saving.save(epoch + 1, 0, metrics)
            on_epoch(epoch, metrics)
            if interrupted():
                raise KeyboardInterrupt
