"""`confseg evaluate`: the counts of a finished run's cells on a labelled split, continued after an interruption."""

import hashlib
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from tabulate import tabulate

from . import evaluation
from .backend import mx
from .building import by_encoder, find_cell, label_table
from .config_cells import Cell
from .confusion import ConfusionMatrix
from .data import SegmentationDataset
from .data.built_in import built_in_notice
from .errors import ConfsegError
from .files import PathLike, write_json
from .inference import Manner
from .progress import messages
from .run import TrainedRun, open_run
from .using import cell_predictors, check_folder, make_manner, network_digest, open_split

_log = logging.getLogger(__name__)


def evaluate_run(
    folder: PathLike,
    *,
    devices: List[mx.Context],
    data_root: Optional[PathLike] = None,
    split: Optional[str] = None,
    cells: Sequence[str] = (),
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: Optional[Tuple[int, int]] = None,
    output: Optional[PathLike] = None,
) -> Dict[str, ConfusionMatrix]:
    """Print mean and per-class IoU of a run's cells (default: all) on a labelled split; returns their counts.

    `split` defaults to the images that the run was validated on. With `output`, counts and what they were counted on
    are written there (JSON); otherwise nothing is written. Interrupted, it leaves its state beside `output`, or in the
    run's folder, and continues from there when it is started again with the same network, images and settings. Raises
    ConfsegError for the user's mistakes.
    """
    with messages():
        run = open_run(folder, devices)
        chosen = [find_cell(run, key) for key in dict.fromkeys(cells)] or list(run.config.cells)
        if output is not None:
            _check_file(Path(output))
        dataset, source = open_split(run, data_root, split)
        manner = make_manner(run, scales, flip, window)
        counted, states = _count(run, chosen, manner, dataset, output)
        if not any(matrix.counts.any() for matrix in counted.values()):
            raise ConfsegError(f"{dataset.name} {dataset.split}: no pixel is labelled; choose another --split")
        if output is not None:
            write_json(output, _record(run, dataset, source, counted, manner))
        for state in states:
            state.remove()
        print(f"{dataset.name} {dataset.split}, {len(dataset)} images (data root: {source}), {manner}\n")
        print(_tables(run, chosen, counted))
        if source == "built-in":
            _log.warning(built_in_notice(run.config))
        return counted


def _count(
    run: TrainedRun, chosen: List[Cell], manner: Manner, dataset: SegmentationDataset, output: Optional[PathLike]
) -> Tuple[Dict[str, ConfusionMatrix], List[evaluation.State]]:
    """Counts of the cells, in one pass for each encoder, and the passes' states, to be removed."""
    counted, states = {}, []
    for cells in by_encoder(chosen):
        states.append(_state(run, cells, manner, dataset, output))
        tables = dict.fromkeys((cell.key for cell in cells), label_table(np.arange(run.num_classes)))
        predictors = cell_predictors(run, cells, manner)
        title = "evaluate" if cells[0].joint is None else f"evaluate {cells[0].joint}"
        counted.update(
            evaluation.evaluate(
                dataset, predictors, tables, workers=run.config.data.workers, title=title, state=states[-1]
            )
        )
    return {cell.key: counted[cell.key] for cell in chosen}, states


def _state(
    run: TrainedRun, cells: List[Cell], manner: Manner, dataset: SegmentationDataset, output: Optional[PathLike]
) -> evaluation.State:
    """Its file's name differs with what is evaluated: an evaluation leaves the state of another one alone."""
    parts = [network_digest(run, cells, manner), dataset.name, dataset.split, dataset.fingerprint()]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    start = run.folder / "evaluate" if output is None else Path(output)
    return evaluation.State(start.with_name(f"{start.stem}.{key[:12]}.partial.npz"), key)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfsegError(f"--output {path} is a folder; give the name of a JSON file")
    check_folder(path.parent)


def _record(
    run: TrainedRun,
    dataset: SegmentationDataset,
    source: str,
    counted: Dict[str, ConfusionMatrix],
    manner: Manner,
) -> dict:
    images = {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
    cells = {key: {"miou": matrix.mean_iou(), "counts": matrix.counts.tolist()} for key, matrix in counted.items()}
    return {
        "format": 1,
        "name": run.config.name,
        "seed": run.config.seed,
        "dataset": {"name": dataset.name, "source": source, **images},
        **asdict(manner),
        "classes": list(run.labels.classes),
        "cells": cells,
    }


def _tables(run: TrainedRun, cells: List[Cell], counted: Dict[str, ConfusionMatrix]) -> str:
    """The cells' scores, and IoU % per class, in label order; "-" for a class neither in the truth nor predicted."""

    def percent(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.2f}"

    matrices = [counted[cell.key] for cell in cells]
    scores = [
        [cell.key, cell.title, *map(percent, (matrix.mean_iou(), matrix.mean_recall(), matrix.pixel_accuracy()))]
        for cell, matrix in zip(cells, matrices)
    ]
    truth = matrices[0].counts.sum(axis=1)
    columns = [truth / truth.sum(), *(matrix.iou() for matrix in matrices)]
    rows = [[name, *map(percent, values)] for name, *values in zip(run.labels.classes, *columns)]
    rows.append(["mean", "", *(percent(matrix.mean_iou()) for matrix in matrices)])
    headers = ["cell", "title", "mIoU %", "mean recall %", "pixel acc. %"]
    return "\n\n".join(
        tabulate(
            table,
            names,
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["left"] * left + ["right"] * (len(names) - left),
        )
        for table, names, left in ((scores, headers, 2), (rows, ["class", "pixels %", *counted], 1))
    )
