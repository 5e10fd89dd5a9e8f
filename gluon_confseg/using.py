"""What the verbs that use a finished run share: a finished run's networks, how they are used."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from . import __version__, manifests, results
from .building import make_predictors, make_view, needed_heads
from .config_cells import Cell
from .confusion import ConfusionMatrix
from .data import SegmentationDataset, find_root, open_dataset
from .data.built_in import built_in_root
from .data.held_out import open_training_split, open_validation_split
from .errors import ConfsegError
from .files import PathLike
from .inference import Manner, Predictor
from .run import CONFUSION_FILE, RESULTS_FILE, TrainedRun, joint_stage, manifest_path, read_spaces


def make_manner(
    run: TrainedRun, scales: Sequence[float], flip: bool, window: Optional[Tuple[int, int]] = None
) -> Manner:
    """How the user wants a run's network used: `flip` and `window` are the config's where they are not given."""
    settings = run.config.evaluation
    return Manner(tuple(scales), flip or settings.flip, window or settings.window)


def cell_predictors(run: TrainedRun, cells: Sequence[Cell], manner: Manner) -> List[Predictor]:
    """One predictor per device, with a view per cell; these have an encoder in common."""
    spaces = read_spaces(run)
    matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
    frequency = matrix.counts.sum(axis=1) / matrix.counts.sum()
    return make_predictors(
        run,
        needed_heads(cells, len(spaces["groups"])),
        spaces,
        lambda: {cell.key: make_view(cell, spaces, run.num_classes, frequency) for cell in cells},
        manner,
    )


def network_digest(run: TrainedRun, cells: Sequence[Cell], manner: Manner) -> str:
    """What label maps depend on besides the image: the same for the same networks, used in the same way."""
    joint = sorted({joint_stage(cell.joint) for cell in cells if cell.joint is not None})
    names = ("baseline", "confusion", "groups", "subnets", *joint)
    stages = [manifests.read(manifest_path(run.folder, stage)) for stage in names]
    used = {
        "version": __version__,
        "files": [stage["outputs"] for stage in stages],
        "cells": [cell.model_dump(exclude={"title", "role"}) for cell in cells],
        "manner": str(manner),
        "scale": run.config.data.scale,
        "augment": run.config.augment.model_dump(include={"mean", "std"}),
        "labels": repr((run.labels, sorted(run.labels.raw_ids.items()))),
    }
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


def open_split(
    run: TrainedRun, data_root: Optional[PathLike], split: Optional[str] = None, *, training: bool = False
) -> Tuple[SegmentationDataset, str]:
    """A labelled split of a run's data set, and where its root came from (see data.find_root).

    Without `split`, the images that the run was validated on, or, with `training`, those that it was trained on. A run
    on built-in images has others only where `data_root` is given, whatever the environment says. Raises ConfsegError
    where it cannot be found or opened, has no labels or other classes than the run.
    """
    settings, path = run.config, run.folder / RESULTS_FILE
    trained_on = results.read(path).dataset.source if data_root is None and path.is_file() else None
    root, source = (None, "built-in") if trained_on == "built-in" else find_root(settings.data.name, data_root)
    if root is None:
        if trained_on not in (None, "built-in"):
            raise ConfsegError(f"{run.folder} was trained on a data set of yours; say where it is with --data-root")
        root = built_in_root(settings)
    if split is not None:
        dataset = open_dataset(settings.data.name, root, split)
    else:
        dataset = (open_training_split if training else open_validation_split)(settings.data, root)
    if not dataset.has_labels:
        raise ConfsegError(f"{dataset.name}: the split {dataset.split!r} has no labels; choose another one")
    if dataset.labels.classes != run.labels.classes:
        raise ConfsegError(
            f"{root}: its classes are not those that {run.folder} was trained on; give another --data-root"
        )
    return dataset, source


def check_folder(folder: Path) -> None:
    """Make an output folder; ConfsegError where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfsegError(f"cannot write to {folder}: {error.strerror or error}; choose another --output") from error
