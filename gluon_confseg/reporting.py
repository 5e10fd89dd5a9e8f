"""From counts to what a run leaves behind: results.json, tables, pictures."""

from pathlib import Path
from typing import Dict, List

import numpy as np

from . import __version__, figures, manifests, results
from .backend import versions
from .building import needed_heads
from .config import to_tree
from .confusion import ConfusionMatrix
from .data import SegmentationDataset
from .files import read_npz, write_npz, write_text
from .run import COUNTS_FILE, RESULTS_FILE, SAMPLES_FILE, STAGE_NAMES, Run, manifest_path, read_groups

SAMPLES = 4  # images on the page of overlays


class Samples:
    """Image, label and label maps of a few evenly spread validation images, reduced to at most 512 rows."""

    def __init__(self, run: Run):
        self._ids = run.val.ids
        self._keys = [cell.key for cell in run.config.cells]
        count = min(SAMPLES, len(run.val))
        self._chosen = set(np.linspace(0, len(run.val) - 1, count + 2).round().astype(int)[1:-1].tolist())
        self._arrays: Dict[str, np.ndarray] = {}

    def add(self, index: int, image: np.ndarray, label: np.ndarray, predictions: Dict[str, np.ndarray]) -> None:
        if index not in self._chosen:
            return
        step = -(-label.shape[0] // 512)
        number = len({key.split("/")[0] for key in self._arrays})
        kept = {"image": image, "label": label, **{key: predictions[key] for key in self._keys}}
        self._arrays.update({f"{number}/{key}": value[::step, ::step] for key, value in kept.items()})
        self._arrays[f"{number}/id"] = np.array(self._ids[index])

    def save(self, path: Path) -> None:
        write_npz(path, self._arrays, compress=True)


def _results(run: Run) -> dict:
    config, labels, found = run.config, run.labels, read_groups(run)
    alone = [name for name in needed_heads(config.cells, len(found)) if name.subnet and name.spaces == "groups"]
    counted = {key: ConfusionMatrix.from_counts(counts) for key, counts in read_npz(run.folder / COUNTS_FILE).items()}
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
            "loss": name.loss if name.shape is None else f"{name.loss}, {name.shape}",
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
        "seconds": _seconds(run),
        "versions": {"gluon_confseg": __version__, **versions()},
        "config": to_tree(config),
    }


def _seconds(run: Run) -> Dict[str, float]:
    """Wall-clock seconds of the finished stages, from their manifests."""
    found = {}
    for stage in STAGE_NAMES:
        path = manifest_path(run.folder, stage)
        if path.exists():
            found[stage] = manifests.read(path)["seconds"]
    return found


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


def _overlay_rows(run: Run, found: results.Results) -> List[figures.OverlayRow]:
    shown = [cell for cell in found.cells if cell.role in ("baseline", "paper")]
    arrays = read_npz(run.folder / SAMPLES_FILE)
    count = len({key.split("/")[0] for key in arrays})
    return [
        figures.OverlayRow(
            str(arrays[f"{i}/id"]),
            arrays[f"{i}/image"],
            arrays[f"{i}/label"],
            {cell.title: arrays[f"{i}/{cell.key}"] for cell in shown},
        )
        for i in range(count)
    ]
