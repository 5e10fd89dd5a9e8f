"""Training heads on a run's training images: crops in, a log and checkpoints out."""

import logging
from typing import List, Optional

from .batchnorm import has_moving_statistics
from .config_schedules import Schedule
from .course import Course
from .data.decoded import DecodedFiles
from .data.loader import TrainLoader
from .data.transforms import TrainTransform
from .epoch_metrics import EpochMetrics
from .heads import Head, Trunk
from .mixed_precision import half_type
from .passes import describe_batch, split_batch
from .places import decoded_folder
from .run import Run, checkpoint_path
from .training import Training, fit, loss_scales

_log = logging.getLogger(__name__)


def fit_heads(
    run: Run,
    trunk: Trunk,
    heads: List[Head],
    schedule: Schedule,
    stage: str,
    *,
    first_epoch: int = 0,
    course: Optional[Course] = None,
) -> None:
    """Train on the training split; one line per epoch and head goes to the log."""
    augment, data = run.config.augment, run.config.data
    scale = tuple(data.scale * factor for factor in augment.scale)
    transform = TrainTransform(run.config.seed, scale, augment.crop, augment.flip, augment.mean, augment.std)
    disk = data.disk_cache_megabytes << 20
    loader = TrainLoader(
        run.train,
        transform,
        schedule.batch_size,
        seed=run.config.seed,
        workers=data.workers,
        cache_bytes=data.cache_megabytes << 20,
        files=DecodedFiles(run.train, decoded_folder(), disk) if disk else None,
        share=run.job.share,
    )
    if schedule.epochs:
        _log_batch(run, trunk, heads, schedule, stage)

    def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
        summary = ", ".join(f"{name} {value}" for name, value in metrics.summary().items())
        _log.info("%s epoch %d of %d: %s", stage, epoch + 1, schedule.epochs, summary)
        for head in heads:
            miou = 100 * metrics.matrices[head.name].mean_iou()
            _log.debug(
                "%s epoch %d of %d: %s loss %.4f, mIoU on the training crops %.2f %%",
                *(stage, epoch + 1, schedule.epochs, head.name, metrics.loss(head.name), miou),
            )

    training = Training(
        loader,
        trunk,
        heads,
        course or Course(heads),
        run.devices,
        schedule,
        first_epoch=first_epoch,
        scales=loss_scales(trunk, heads) if run.config.amp else None,
        seed=run.config.seed,
        job=run.job,
    )
    fit(training, checkpoint_path(run.folder, stage), stage, on_epoch=on_epoch)


def _log_batch(run: Run, trunk: Trunk, heads: List[Head], schedule: Schedule, stage: str) -> None:
    """What an update consists of, and a warning where BatchNorm, which sees one pass at a time, notices the parts."""
    share = len(run.job.share(range(schedule.batch_size)))
    division = (share, run.devices, schedule.images_per_pass)
    precision = f", mixed precision ({half_type(run.devices)})" if run.config.amp else ""
    of_all = f", of the {schedule.batch_size} images of {run.job.count} workers" if run.job.count > 1 else ""
    _log.info("%s: %s%s%s", stage, describe_batch(*division), of_all, precision)
    trained = [head.block.subnet for head in heads] + ([] if trunk.trainer is None else [trunk.encoder])
    passes = split_batch(*division)
    moving = any(map(has_moving_statistics, trained))
    if run.job.count > 1 and moving:
        _log.warning(
            "%s: BatchNorm is not frozen, so its statistics are those of each worker's images, averaged after every "
            "epoch; the update is not that of one process with the same batch (see encoder.frozen_batchnorm)",
            stage,
        )
    if len(passes) > 1 and moving:
        _log.warning(
            "%s.images_per_pass: BatchNorm is not frozen, so its statistics are those of each of the %d passes; "
            "the update is not that of the undivided batch",
            *(stage, len(passes)),
        )
