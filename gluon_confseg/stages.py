"""The stages of a run: files in, files out. The chain that runs, skips and resumes them is in pipeline.py."""

import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import yaml

from . import __version__, figures, groups, results
from .backend import mx, versions
from .config import Cell, Config, Loss, Schedule, Subnet, to_tree
from .confusion import ConfusionMatrix, group_mapping
from .data import SegmentationDataset
from .data.loader import TrainLoader
from .data.transforms import TrainTransform
from .errors import ConfsegError
from .evaluation import evaluate
from .files import atomic_path, read_json, read_npz, write_npz, write_text
from .inference import Predictor, View
from .nn import ConfusionCrossEntropy, Fusion, PixelCrossEntropy, get_encoder
from .nn import Subnet as SubnetBlock
from .nn.encoders import load_parameters
from .training import EpochMetrics, Head, HeadLoss, Trunk, fit, make_trainer

_log = logging.getLogger(__name__)

ENCODER_FILE = "encoder.params"
CONFUSION_FILE = "confusion.npz"
GROUPS_FILE = "groups.yaml"
SAMPLES_FILE = "samples.npz"
COUNTS_FILE = "counts.npz"
RESULTS_FILE = "results.json"
BASELINE = "baseline"  # the "loss" of the head of the first stage
SAMPLES = 4  # images on the page of overlays
SMALL_DIAGONAL = 0.1  # c_ii below this starves the class under the paper's loss (RECIPE: pole, 0.03, IoU 1 -> 0)


@dataclass(frozen=True)
class Run:
    """What every stage is given: settings, data, devices, and the folder that it reads from and writes to."""

    config: Config
    folder: Path
    train: SegmentationDataset
    val: SegmentationDataset
    data_source: str
    devices: List[mx.Context]

    @property
    def num_classes(self) -> int:
        return self.train.labels.num_classes


@dataclass(frozen=True)
class HeadName:
    """A head: subnet 0 or that of a group (1..M), trained with a loss of the config, or the baseline's."""

    subnet: int
    loss: str

    def __str__(self) -> str:
        return f"subnet{self.subnet}.{self.loss}"

    @property
    def file(self) -> str:
        return f"{self}.params"


@dataclass(frozen=True)
class Stage:
    """`settings` (parts of the config, by name), `data` (splits), `upstream` (stages): what the outputs depend on."""

    name: str
    work: Callable[[Run], List[str]]
    settings: Callable[[Config], Dict[str, Any]]
    upstream: Tuple[str, ...] = ()
    data: Tuple[str, ...] = field(default=("train",))


def train_baseline(run: Run) -> List[str]:
    """Encoder and subnet 0 with cross-entropy."""
    name = HeadName(0, BASELINE)
    encoder = _new_encoder(run)
    head = _new_head(run, name, encoder, PixelCrossEntropy(run.num_classes), run.config.baseline)
    trainer = make_trainer(encoder, run.config.baseline)
    trunk = Trunk(encoder, trainer, run.config.baseline.learning_rate)
    _fit(run, trunk, [head], run.config.baseline, "baseline")
    return [
        _save_parameters(run, encoder, ENCODER_FILE),
        _save_parameters(run, head.block.subnet, name.file),
    ]


def _fit(run: Run, trunk: Trunk, heads: List[Head], schedule: Schedule, stage: str, first_epoch: int = 0) -> None:
    """Train on the training split; one line per epoch and head goes to the log."""
    augment, data = run.config.augment, run.config.data
    scale = tuple(data.scale * factor for factor in augment.scale)
    transform = TrainTransform(run.config.seed, scale, augment.crop, augment.flip, augment.mean, augment.std)
    loader = TrainLoader(
        run.train,
        transform,
        schedule.batch_size,
        seed=run.config.seed,
        workers=data.workers,
        cache_bytes=data.cache_megabytes << 20,
    )
    if schedule.batch_size < len(run.devices):
        raise ConfsegError(f"{stage}.batch_size: {schedule.batch_size} is less than the {len(run.devices)} devices")

    def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
        summary = ", ".join(f"{name} {value}" for name, value in metrics.summary().items())
        _log.info("%s epoch %d of %d: %s", stage, epoch + 1, schedule.epochs, summary)
        for head in heads:
            miou = 100 * metrics.matrices[head.name].mean_iou()
            _log.debug(
                "%s epoch %d of %d: %s loss %.4f, mIoU on the training crops %.2f %%",
                *(stage, epoch + 1, schedule.epochs, head.name, metrics.loss(head.name), miou),
            )

    fit(
        loader,
        trunk,
        heads,
        devices=run.devices,
        schedule=schedule,
        checkpoint_path=run.folder / f"{stage}.checkpoint.npz",
        title=stage,
        first_epoch=first_epoch,
        on_epoch=on_epoch,
    )


def count_confusion(run: Run) -> List[str]:
    """The baseline's confusion matrix, on the images that the config names."""
    name = HeadName(0, BASELINE)
    split = run.val if run.config.confusion_images == "val" else run.train
    if split is run.val:
        _log.warning("the confusion matrix is counted on the validation images: they leak into the groups and the loss")
    views = {BASELINE: View((str(name),))}
    tables = {BASELINE: label_table(np.arange(run.num_classes))}
    predictors = _predictors(run, [name], [], lambda: views)
    counted = evaluate(split, predictors, tables, workers=run.config.data.workers, title="confusion")[BASELINE]
    counted.save(run.folder / CONFUSION_FILE, images=split.split, dataset=split.name, fingerprint=split.fingerprint())
    return [CONFUSION_FILE]


def choose_groups(run: Run) -> List[str]:
    """The confusing groups: found in the confusion matrix, the paper's, or the user's, each with its reason."""
    settings, labels = run.config.groups, run.train.labels
    if settings.source == "auto":
        matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
        found = groups.partition(
            matrix,
            labels.classes,
            threshold=settings.threshold,
            max_group_size=settings.max_group_size,
            max_groups=settings.max_groups,
        )
        if not found:
            raise ConfsegError(
                f"no two classes are confused by more than groups.threshold = {settings.threshold}; lower it, "
                "or name the groups in groups.source"
            )
    else:
        found = named_groups(run.config, labels)
    for number, group in enumerate(found, 1):
        _log.info("group %d: %s (%s)", number, ", ".join(labels.classes[c] for c in group.classes), group.reason)
    tree = [{"classes": [labels.classes[c] for c in group.classes], "reason": group.reason} for group in found]
    write_text(run.folder / GROUPS_FILE, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110))
    return [GROUPS_FILE]


def named_groups(config: Config, labels) -> List[groups.ClassGroup]:
    """Groups from the config's names; ConfsegError where a name or the paper's groups do not belong to the data set."""
    source = config.groups.source
    if source != "paper":
        return groups.named(labels, source)
    if "paper" not in labels.named_groups:
        raise ConfsegError(
            f"groups.source: the paper names no groups for {labels.name}; use auto or lists of class names"
        )
    return groups.named(labels, labels.named_groups["paper"])


def read_groups(run: Run) -> List[groups.ClassGroup]:
    """The groups that `choose_groups` wrote."""
    tree = yaml.safe_load((run.folder / GROUPS_FILE).read_text(encoding="utf-8"))
    found = groups.named(run.train.labels, [entry["classes"] for entry in tree])
    return [groups.ClassGroup(group.classes, entry["reason"]) for group, entry in zip(found, tree)]


def train_subnets(run: Run) -> List[str]:
    """Every head that a cell needs, in one pass over the frozen encoder's features."""
    found = read_groups(run)
    names = [name for name in needed_heads(run.config.cells, len(found)) if name.loss != BASELINE]
    if not names:
        return []
    encoder = _load_encoder(run, run.devices)
    matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
    heads = []
    for name in names:
        merged = matrix if name.subnet == 0 else matrix.merged(found[name.subnet - 1])
        loss = make_loss(run.config.losses[name.loss], merged)
        _warn_small_diagonal(run, name, merged)
        heads.append(_new_head(run, name, encoder, loss, run.config.subnets, found))
    _log.info("training %d heads on the frozen encoder: %s", len(heads), ", ".join(map(str, names)))
    _fit(run, Trunk(encoder), heads, run.config.subnets, "subnets", first_epoch=run.config.baseline.epochs)
    return [_save_parameters(run, head.block.subnet, name.file) for head, name in zip(heads, names)]


def needed_heads(cells: Tuple[Cell, ...], num_groups: int) -> List[HeadName]:
    """The heads that the cells fuse, each once: subnet 0 first, then group by group."""
    names = {HeadName(0, cell.subnet0) for cell in cells}
    for cell in cells:
        if cell.subnets is not None:
            names |= {HeadName(m, cell.subnets) for m in range(1, num_groups + 1)}
    return sorted(names, key=lambda name: (name.subnet, name.loss))


def make_loss(settings: Loss, matrix: ConfusionMatrix) -> mx.gluon.HybridBlock:
    """The loss of a head whose output space is that of `matrix` (merged, for a group's subnet)."""
    if settings.kind == "cross_entropy":
        return PixelCrossEntropy(matrix.num_classes)
    weights = matrix.row_normalized()
    if settings.kind == "recall_weighted":
        right = np.diag(weights)
        return PixelCrossEntropy(matrix.num_classes, class_weights=right + settings.lam * (1 - right))
    return ConfusionCrossEntropy(weights, lam=settings.lam, diagonal=settings.diagonal)


def _warn_small_diagonal(run: Run, name: HeadName, matrix: ConfusionMatrix) -> None:
    settings = run.config.losses[name.loss]
    if settings.kind != "confusion" or settings.diagonal != "confusion" or name.subnet:
        return
    names = run.train.labels.classes
    small = [f"{names[i]} {c:.3f}" for i, c in enumerate(np.diag(matrix.row_normalized())) if c < SMALL_DIAGONAL]
    if small:
        _log.warning(
            "%s: c_ii below %s, which starves these classes (diagonal: one does not): %s",
            *(name, SMALL_DIAGONAL, ", ".join(small)),
        )


def evaluate_cells(run: Run) -> List[str]:
    """Every cell, and every group's subnet alone, in one pass over the validation images."""
    found = read_groups(run)
    names = needed_heads(run.config.cells, len(found))
    matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
    frequency = matrix.counts.sum(axis=1) / matrix.counts.sum()
    alone = [name for name in names if name.subnet]
    tables = {cell.key: label_table(np.arange(run.num_classes)) for cell in run.config.cells}
    tables.update({str(name): label_table(group_mapping(found[name.subnet - 1], run.num_classes)) for name in alone})

    def views() -> Dict[str, View]:
        fused = {cell.key: _view(cell, found, run.num_classes, frequency) for cell in run.config.cells}
        return {**fused, **{str(name): View((str(name),)) for name in alone}}

    samples = _Samples(run)
    predictors = _predictors(run, names, found, views)
    counted = evaluate(
        run.val, predictors, tables, workers=run.config.data.workers, title="evaluate", on_image=samples.add
    )
    samples.save(run.folder / SAMPLES_FILE)
    write_npz(run.folder / COUNTS_FILE, {key: matrix.counts for key, matrix in counted.items()})
    return [SAMPLES_FILE, COUNTS_FILE]


def label_table(output_of_class: np.ndarray) -> np.ndarray:
    """uint8 (256,): output for each label value; 255 where the label is no class."""
    table = np.full(256, 255, np.uint8)
    table[: len(output_of_class)] = output_of_class
    return table


def _view(cell: Cell, found: List[groups.ClassGroup], num_classes: int, frequency: np.ndarray) -> View:
    fused = [] if cell.subnets is None else found
    names = [HeadName(0, cell.subnet0), *(HeadName(m, cell.subnets) for m in range(1, len(fused) + 1))]
    fusion = Fusion(
        fused,
        num_classes,
        rule=cell.rule,
        others=cell.others,
        class_frequency=frequency,
        adjustment=cell.adjustment,
    )
    return View(tuple(map(str, names)), fusion)


class _Samples:
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
    config, labels, found = run.config, run.train.labels, read_groups(run)
    alone = [name for name in needed_heads(config.cells, len(found)) if name.subnet]
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
            "loss": name.loss,
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
    for stage in STAGES:
        path = manifest_path(run.folder, stage.name)
        if path.exists():
            found[stage.name] = read_json(path)["seconds"]
    return found


def manifest_path(folder: Path, stage: str) -> Path:
    """Where a finished stage says what it was made from."""
    return folder / "stages" / f"{stage}.json"


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
    figures.class_bars(run.folder / "classes.png", found)
    figures.overlays(run.folder / "overlays.png", _overlay_rows(run, found), run.val.labels)
    write_text(run.folder / "table.txt", results.run_table(found) + "\n")
    write_text(run.folder / "classes.md", results.class_table(found) + "\n")
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


def _seed_for(run: Run, name: str) -> None:
    """Random numbers from the run's seed and the part's name only, so that a part is the same in any company."""
    mx.random.seed(zlib.crc32(f"{run.config.seed}/{name}".encode()) & 0x7FFFFFFF)


def _new_encoder(run: Run) -> mx.gluon.HybridBlock:
    settings = run.config.encoder
    _seed_for(run, "encoder")
    encoder = get_encoder(
        settings.name, frozen_batchnorm=settings.frozen_batchnorm, weights=settings.weights, ctx=run.devices
    )
    encoder.hybridize(static_alloc=True)
    return encoder


def _load_encoder(run: Run, devices: List[mx.Context]) -> mx.gluon.HybridBlock:
    """The baseline's encoder with every parameter fixed, BatchNorm statistics included (paper section 4.1)."""
    encoder = get_encoder(run.config.encoder.name, frozen_batchnorm=True, ctx=devices)
    load_parameters(encoder, run.folder / ENCODER_FILE, devices)
    encoder.collect_params().setattr("grad_req", "null")
    encoder.hybridize()
    return encoder


def _new_subnet(run: Run, name: HeadName, found: List[groups.ClassGroup]) -> SubnetBlock:
    settings: Subnet = run.config.subnet if name.subnet else run.config.subnet0
    outputs = len(found[name.subnet - 1].classes) + 1 if name.subnet else run.num_classes
    return SubnetBlock(outputs, **settings.model_dump())


def _new_head(
    run: Run,
    name: HeadName,
    encoder: mx.gluon.HybridBlock,
    loss: mx.gluon.HybridBlock,
    schedule: Schedule,
    found: Optional[List[groups.ClassGroup]] = None,
) -> Head:
    """A head ready to train: at random, or, for a second-stage subnet 0, from the baseline's head."""
    subnet = _new_subnet(run, name, found or [])
    _seed_for(run, str(name))
    subnet.initialize(mx.init.MSRAPrelu(slope=0), ctx=run.devices)
    features = encoder(mx.nd.zeros((1, 3, 32, 32), ctx=run.devices[0]))
    subnet(*subnet.inputs(features))  # settles deferred shapes now, in this seed's order
    rate = schedule.learning_rate
    if name.subnet == 0 and name.loss != BASELINE:
        load_parameters(subnet, run.folder / HeadName(0, BASELINE).file, run.devices)
        rate = run.config.subnets.finetune_learning_rate
    if encoder.output_stride % schedule.loss_stride:
        raise ConfsegError(
            f"loss_stride: {schedule.loss_stride} does not divide the encoder's output stride {encoder.output_stride}"
        )
    block = HeadLoss(subnet, loss, encoder.output_stride // schedule.loss_stride)
    block.upsample.initialize(ctx=run.devices)
    loss.initialize(ctx=run.devices)
    block.hybridize(static_alloc=True)
    mapping = group_mapping(found[name.subnet - 1], run.num_classes) if name.subnet else np.arange(run.num_classes)
    return Head(str(name), block, make_trainer(subnet, schedule), rate, label_table(mapping))


def _predictors(
    run: Run, names: List[HeadName], found: List[groups.ClassGroup], views: Callable[[], Dict[str, View]]
) -> List[Predictor]:
    """One predictor per device, from the files in the run's folder."""
    predictors = []
    for device in run.devices:
        subnets = {}
        for name in names:
            subnet = _new_subnet(run, name, found)
            load_parameters(subnet, run.folder / name.file, [device])
            subnet.hybridize()
            subnets[str(name)] = subnet
        made = views()
        for view in made.values():
            if view.fusion is not None:
                view.fusion.initialize(ctx=device)
        augment = run.config.augment
        predictors.append(
            Predictor(
                _load_encoder(run, [device]),
                subnets,
                made,
                scale=run.config.data.scale,
                mean=augment.mean,
                std=augment.std,
                device=device,
            )
        )
    return predictors


def _save_parameters(run: Run, block: mx.gluon.Block, name: str) -> str:
    with atomic_path(run.folder / name) as temporary:
        block.save_parameters(str(temporary))
    return name


def _dump(config: Config, *sections: str) -> Dict[str, Any]:
    tree = to_tree(config)
    return {section: tree[section] for section in sections}


def _baseline_settings(config: Config) -> Dict[str, Any]:
    data = {key: getattr(config.data, key) for key in ("name", "train_split", "scale")}
    return {"data": data, **_dump(config, "encoder", "subnet0", "augment", "baseline", "seed")}


def _subnet_settings(config: Config) -> Dict[str, Any]:
    """Of the cells only the losses of their heads: another title or fusion rule needs no training."""
    used = {name for cell in config.cells for name in (cell.subnet0, cell.subnets)} - {None, BASELINE}
    losses = {name: loss for name, loss in to_tree(config)["losses"].items() if name in used}
    heads = sorted({f"subnet {cell.subnet0}" for cell in config.cells} | {f"group {c.subnets}" for c in config.cells})
    return {**_dump(config, "subnet", "subnets"), "losses": losses, "heads": heads}


STAGES = (
    Stage("baseline", train_baseline, _baseline_settings),
    Stage("confusion", count_confusion, lambda c: _dump(c, "confusion_images"), ("baseline",), ("train", "val")),
    Stage("groups", choose_groups, lambda c: _dump(c, "groups"), ("confusion",)),
    Stage("subnets", train_subnets, _subnet_settings, ("baseline", "confusion", "groups")),
    Stage("evaluate", evaluate_cells, lambda c: _dump(c, "cells"), ("confusion", "groups", "subnets"), ("val",)),
    Stage("report", report, lambda c: _dump(c, "name", "cells", "paper_table"), ("evaluate",), ("val",)),
)
