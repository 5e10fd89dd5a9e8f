"""From counts to what a run leaves behind: results.json, tables, pictures."""

from typing import Any, Dict, List, Sequence

import numpy as np

from . import figures, manifests, results
from .backend import versions
from .building import needed_heads
from .config import to_tree
from .config_cells import Cell
from .confusion import ConfusionMatrix
from .data import SegmentationDataset
from .errors import ConfsegError
from .files import read_npz, write_text
from .inference import Predictor, label_all
from .run import (
    COUNTS_FILE,
    RESULTS_FILE,
    SAMPLES_FILE,
    Run,
    TrainedRun,
    manifest_path,
    read_groups,
    stage_names,
)

SAMPLES = 4  # images on the page of overlays


def samples(run: Run, cells: Sequence[Cell], predictors: Sequence[Predictor]) -> Dict[str, np.ndarray]:
    """Image, label and the cells' label maps of a few evenly spread validation images, of at most 512 rows.

    By NUMBER/image, NUMBER/label, NUMBER/id and NUMBER/CELL.
    """
    count = min(SAMPLES, len(run.val))
    chosen = np.linspace(0, len(run.val) - 1, count + 2).round().astype(int)[1:-1].tolist()
    arrays: Dict[str, np.ndarray] = {}
    images = ((index, run.val.image(index)) for index in sorted(set(chosen)))
    for number, (index, image, predictions) in enumerate(label_all(predictors, images)):
        step = -(-image.shape[0] // 512)
        maps = {cell.key: predictions[cell.key] for cell in cells}
        kept = {"image": image, "label": run.val.label(index), **maps}
        arrays.update({f"{number}/{key}": value[::step, ::step] for key, value in kept.items()})
        arrays[f"{number}/id"] = np.array(run.val.ids[index])
    return arrays


def _results(run: Run) -> dict:
    config, labels, found = run.config, run.labels, read_groups(run)
    alone = [name for name in needed_heads(config.cells, len(found)) if name.subnet and name.spaces == "groups"]
    counted = _counted(run)
    cells = [
        results.make_cell(
            counted[cell.key], key=cell.key, title=cell.title, role=cell.role, paper_table=config.paper_table
        ).model_dump(mode="json")
        for cell in config.cells
    ]
    baseline = counted[config.cells[0].key]
    subnets = [
        {
            "group": name.subnet,
            "loss": ", ".join(part for part in (name.loss, name.shape, name.joint and f"joint {name.joint}") if part),
            "miou_group": _miou_of_group(counted[str(name)]),
            "baseline_miou_group": _miou_of_group(baseline.merged(found[name.subnet - 1])),
        }
        for name in alone
    ]
    return {
        "format": 1,
        "name": config.name,
        "seed": config.seed,
        "dataset": {
            "name": run.train.name,
            "source": run.data_source,
            "train": _images(run.train),
            "val": _images(run.val),
            "confusion_images": config.confusion_images,
        },
        "classes": list(labels.classes),
        "groups": [{"classes": [labels.classes[c] for c in group.classes], "reason": group.reason} for group in found],
        "paper_table": config.paper_table,
        "cells": cells,
        "subnets": subnets,
        **of_stages(run),
        "config": to_tree(config),
    }


def of_stages(run: TrainedRun) -> Dict[str, Any]:
    """What the finished stages say of themselves: `seconds`, `versions` and `in_spite_of` of results.json.

    Seconds are wall-clock time, by stage. Versions are those of now, and under "stages", by stage, others that it was
    made with. `in_spite_of` has, by stage, the differences that it was kept or continued in spite of.
    """
    paths = {stage: manifest_path(run.folder, stage) for stage in stage_names(run.config)}
    found = {stage: manifests.read(path) for stage, path in paths.items() if path.exists()}
    now = versions()
    others = {stage: tree["versions"] for stage, tree in found.items() if tree.get("versions", now) != now}
    return {
        "seconds": {stage: tree["seconds"] for stage, tree in found.items()},
        "versions": {**now, **({"stages": others} if others else {})},
        "in_spite_of": {stage: tree["in_spite_of"] for stage, tree in found.items() if tree.get("in_spite_of")},
    }


def _images(dataset: SegmentationDataset) -> dict:
    return {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}


def _miou_of_group(merged: ConfusionMatrix) -> float:
    """Mean IoU of a group's classes, without "others"; 0 where none of them occurs."""
    iou = merged.iou()[1:]
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0


def report(run: Run) -> List[str]:
    """results.json; confusion matrices before and after, per-class bars, overlays; the printed tables as files."""
    results.write(run.folder / RESULTS_FILE, _results(run))
    found = results.read(run.folder / RESULTS_FILE)
    last = [cell for cell in found.cells if cell.role in ("baseline", "paper")][-1]
    index = {name: i for i, name in enumerate(found.classes)}
    figures.confusion_heatmaps(
        run.folder / "confusion.png",
        np.array(found.baseline.confusion),
        np.array(last.confusion),
        found.classes,
        titles=(found.baseline.title, last.title),
        groups=[[index[name] for name in group.classes] for group in found.groups],
    )
    figures.class_bars(run.folder / "classes.png", [found])
    figures.overlays(run.folder / "overlays.png", _overlay_rows(run, found), run.labels)
    write_text(run.folder / "table.txt", results.run_table(found) + "\n")
    write_text(run.folder / "classes.md", results.class_table(found).markdown() + "\n")
    return [RESULTS_FILE, "confusion.png", "classes.png", "overlays.png", "table.txt", "classes.md"]


def _counted(run: Run) -> Dict[str, ConfusionMatrix]:
    """The counts of each cell."""
    path = run.folder / COUNTS_FILE
    found = {key: ConfusionMatrix.from_counts(counts) for key, counts in read_npz(path).items()}
    if any(cell.key not in found or found[cell.key].num_classes != run.num_classes for cell in run.config.cells):
        raise ConfsegError(f"{path} does not hold the counts of this run's cells; delete it and run again")
    return found


def _overlay_rows(run: Run, found: results.Results) -> List[figures.OverlayRow]:
    shown = [cell for cell in found.cells if cell.role in ("baseline", "paper")]
    arrays = read_npz(run.folder / SAMPLES_FILE)
    count = len({key.split("/")[0] for key in arrays})
    for i in range(count):
        names = (f"{i}/{key}" for key in ("image", "label", *(cell.key for cell in shown)))
        image, *maps = (arrays.get(name, np.empty(0)) for name in names)
        whole = all(each.dtype == np.uint8 and image.shape == (*each.shape, 3) for each in maps)
        if not whole or image.dtype != np.uint8 or f"{i}/id" not in arrays:
            raise ConfsegError(f"{run.folder / SAMPLES_FILE} does not hold this run's images; delete it and run again")
    return [
        figures.OverlayRow(
            str(arrays[f"{i}/id"]),
            arrays[f"{i}/image"],
            arrays[f"{i}/label"],
            {cell.title: arrays[f"{i}/{cell.key}"] for cell in shown},
        )
        for i in range(count)
    ]
