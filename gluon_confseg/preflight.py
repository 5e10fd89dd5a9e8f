"""What would spoil a run hours later, found before training starts: by reading all labels, once."""

import hashlib
import logging
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .config import Config, used_joints
from .data import SegmentationDataset
from .data.base import read_bytes
from .data.ordered import in_order, usable_cores
from .errors import ConfsegError
from .files import read_json, write_json
from .groups import ClassGroup
from .labels import IGNORE_LABEL
from .progress import bar

LABEL_COUNTS_FILE = "label-counts.json"  # in a run's folder

_log = logging.getLogger(__name__)


class LabelCounts(NamedTuple):
    """Of a split: `pixels` int64 (K,) of each class, and the largest (height, width) of its images, each by itself."""

    pixels: np.ndarray
    largest: Tuple[int, int]


def check(
    settings: Config,
    train: SegmentationDataset,
    val: SegmentationDataset,
    groups: Sequence[ClassGroup],
    folder: Path,
    *,
    devices: int = 1,
) -> None:
    """Raise ConfsegError for what cannot be trained or evaluated, and log a warning for what is likely a mistake.

    `groups` are those that the config names, if it does. Label counts are kept in `folder`, by fingerprint.
    """
    _check_batches(settings, len(train), devices)
    check_copies(train, val)
    counts = {name: count_labels(split, name, folder) for name, split in (("train", train), ("val", val))}
    for name, split in (("train", train), ("val", val)):
        if not counts[name].pixels.any():
            raise ConfsegError(f"{split.name}: all labels of the split {split.split!r} are ignore; check the labels")
    _warn_of_absent(train, counts["train"])
    _check_groups(groups, train.labels.classes, counts["train"], counts[settings.confusion_images])
    _warn_of_crop(settings, counts["train"].largest)


def _check_batches(settings: Config, images: int, devices: int) -> None:
    schedules = {"baseline": settings.baseline, "subnets": settings.subnets}
    own = {name: settings.joint[name].schedule for name in used_joints(settings)}  # None: the baseline's
    schedules.update({f"joint.{name}.schedule": schedule for name, schedule in own.items() if schedule})
    for stage, schedule in schedules.items():
        if not schedule.epochs:
            continue
        if schedule.batch_size > images:
            raise ConfsegError(
                f"{stage}.batch_size: {schedule.batch_size} is more than the {images} training images; lower it"
            )
        if schedule.batch_size < devices:
            raise ConfsegError(f"{stage}.batch_size: {schedule.batch_size} is less than the {devices} devices")
        updates = images // schedule.batch_size
        updates = schedule.epochs * min(updates, schedule.max_updates_per_epoch or updates)
        if schedule.warmup >= updates:
            _log.warning(
                "%s.warmup: %d updates, but the training has %d: the learning rate never gets where it should",
                *(stage, schedule.warmup, updates),
            )


def check_copies(train: SegmentationDataset, val: SegmentationDataset) -> None:
    """Raise ConfsegError where an image file of the training split is in the validation split under another name.

    Compared are files of the same size only, so next to none is read.
    """
    by_size: Dict[int, List[Path]] = {}
    for path in map(val.image_path, range(len(val))):
        by_size.setdefault(_size(path), []).append(path)
    digests: Dict[Path, bytes] = {}

    def digest(path: Path) -> bytes:
        if path not in digests:
            digests[path] = hashlib.sha256(read_bytes(path)).digest()
        return digests[path]

    copies = [
        (path, other)
        for path in map(train.image_path, range(len(train)))
        for other in by_size.get(_size(path), ())
        if digest(path) == digest(other)
    ]
    if copies:
        raise ConfsegError(
            f"{train.name}: {len(copies)} training images are validation images under another name (first: "
            f"{copies[0][0]} = {copies[0][1]}); remove them from one split"
        )


def _size(path: Path) -> Optional[int]:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror}; check the data set") from error


def count_labels(dataset: SegmentationDataset, name: str, folder: Path) -> LabelCounts:
    """Read all labels of a split, or what `folder` keeps of it; ConfsegError where one is unreadable."""
    path, fingerprint = folder / LABEL_COUNTS_FILE, dataset.fingerprint()
    kept = read_json(path) if path.exists() else {}
    known = _counted_before(kept, name, fingerprint, dataset.labels.num_classes)
    if known is not None:
        return known
    pixels, largest = np.zeros(256, np.int64), (0, 0)
    readings = in_order(dataset.label, range(len(dataset)), usable_cores(), 2 * usable_cores())
    with bar(len(dataset), f"labels of {dataset.split}", "image") as progress, closing(readings):
        for label in readings:
            pixels += np.bincount(label.ravel(), minlength=256)
            largest = (max(largest[0], label.shape[0]), max(largest[1], label.shape[1]))
            progress.update()
    pixels = np.delete(pixels, IGNORE_LABEL)[: dataset.labels.num_classes]
    entry = {"fingerprint": fingerprint, "pixels": pixels.tolist(), "largest": largest}
    write_json(path, {**(kept if isinstance(kept, dict) else {}), name: entry})
    return LabelCounts(pixels, largest)


def _counted_before(kept: Any, name: str, fingerprint: str, classes: int) -> Optional[LabelCounts]:
    try:
        entry = kept[name]
        height, width = map(int, entry["largest"])
        found = LabelCounts(np.array(entry["pixels"], np.int64), (height, width))
        possible = all(0 <= side < 2**31 for side in found.largest)  # of a PNG
        whole = possible and found.pixels.shape == (classes,) and (found.pixels >= 0).all()
        return found if whole and entry["fingerprint"] == fingerprint else None
    except (KeyError, TypeError, ValueError, OverflowError):  # not counted, or no file of ours
        return None


def _warn_of_absent(train: SegmentationDataset, counts: LabelCounts) -> None:
    absent = [name for name, pixels in zip(train.labels.classes, counts.pixels) if not pixels]
    if absent:
        _log.warning(
            "%s: %d of %d classes never occur in the labels of %r, so the network cannot learn them: %s",
            *(train.name, len(absent), len(train.labels.classes), train.split, ", ".join(absent)),
        )


def _check_groups(groups: Sequence[ClassGroup], names: Sequence[str], train: LabelCounts, counted: LabelCounts) -> None:
    """Groups tell classes apart: one of which fewer than two occur cannot be trained. `counted`: by the matrix."""
    for number, group in enumerate(groups, 1):
        present = [names[c] for c in group.classes if train.pixels[c]]
        if len(present) < 2:
            listed = ", ".join(names[c] for c in group.classes)
            raise ConfsegError(
                f"groups.source: of group {number} ({listed}) only {', '.join(present) or 'no class'} occurs in the "
                "training labels, so its subnet has nothing to tell apart; choose other groups"
            )
        uncounted = [names[c] for c in group.classes if train.pixels[c] and not counted.pixels[c]]
        if uncounted:
            _log.warning(
                "group %d: %s never occurs in the images that the confusion is counted on: its row of the matrix is "
                "empty, so the losses with it take no notice of the class",
                *(number, ", ".join(uncounted)),
            )


def _warn_of_crop(settings: Config, largest: Tuple[int, int]) -> None:
    factor = settings.data.scale * settings.augment.scale[1]
    sides = [round(side * factor) for side in largest]
    if any(side < crop for side, crop in zip(sides, settings.augment.crop)):
        _log.warning(
            "augment.crop: %dx%d (height x width) is larger than every image, at most %dx%d at the largest scale: "
            "every crop has a border that is not learned from",
            *settings.augment.crop,
            *sides,
        )
