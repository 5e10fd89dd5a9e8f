"""The stages of a run: files in, files out. What runs, skips and resumes them is in chain.py."""

import logging
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import yaml

from . import groups
from .building import (
    by_encoder,
    check_strides,
    label_table,
    load_encoder,
    make_predictors,
    make_trunk,
    make_view,
    needed_heads,
    new_encoder,
    new_head,
    output_of_class,
    save_parameters,
    seen_by,
    space_of,
)
from .config import Config, used_joints
from .config_cells import Cell
from .confusion import ConfusionMatrix
from .errors import ConfsegError
from .evaluation import State, evaluate
from .files import sha256, write_npz, write_text
from .fitting import fit_heads
from .inference import View
from .joint import train_joint
from .loss_weights import make_loss, warn_small_diagonal
from .manifests import Origin, begun_path
from .nn import PixelCrossEntropy
from .origins import (
    baseline_settings,
    confusion_file,
    confusion_settings,
    counted_on,
    dump,
    files_of_confusion,
    files_of_subnets,
    joint_settings,
    report_settings,
    subnet_settings,
)
from .reporting import report, samples
from .run import (
    BASELINE,
    CONFUSION_FILE,
    COUNTS_FILE,
    ENCODER_FILE,
    GROUPS_FILE,
    SAMPLES_FILE,
    HeadName,
    Run,
    joint_stage,
    partial_path,
    read_groups,
    read_spaces,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """`settings` (parts of the config, by name), `data` (splits), `upstream` (stages): what the outputs depend on.

    `work` makes the outputs and returns their names. Where `files` is given, they are made one by one: it says what
    each of them depends on, and `work` is given the names of those to be made.
    `shared`: all workers of a job take part; the others leave the stage to the first.
    """

    name: str
    work: Callable[..., List[str]]
    settings: Callable[[Config], Dict[str, Any]]
    upstream: Tuple[str, ...] = ()
    data: Tuple[str, ...] = field(default=("train",))
    files: Optional[Callable[[Run, Origin], Dict[str, Origin]]] = None
    shared: bool = True

    def make(self, run: Run, parts: Sequence[str]) -> List[str]:
        """Do the work; returns the names of the files. `parts`: those to be made, of files that are made one by one."""
        return self.work(run) if self.files is None else self.work(run, parts)


def train_baseline(run: Run) -> List[str]:
    """Encoder and subnet 0 with cross-entropy."""
    name = HeadName(0, BASELINE)
    encoder = new_encoder(run)
    check_strides(run.config, encoder.output_stride)
    head = new_head(run, name, encoder, PixelCrossEntropy(run.num_classes), run.config.baseline)
    fit_heads(run, make_trunk(run, encoder, run.config.baseline), [head], run.config.baseline, "baseline")
    return [
        save_parameters(run, encoder, ENCODER_FILE),
        save_parameters(run, head.block.subnet, name.file),
    ]


def count_confusion(run: Run, files: Sequence[str]) -> List[str]:
    """The baseline's confusion matrices that `files` names, on the images that the config names."""
    name = HeadName(0, BASELINE)
    views = {BASELINE: View((str(name),))}
    tables = {BASELINE: label_table(np.arange(run.num_classes))}
    predictors = make_predictors(run, [name], {}, lambda: views)
    for key in counted_on(run.config):
        split, file = run.val if key == "val" else run.train, confusion_file(run.config, key)
        if file not in files:
            continue
        if split is run.val:
            _log.warning("%s: counted on the validation images, which leak into what is made from it", file)
        options = {"workers": run.config.data.workers, "title": "confusion", "job": run.job}
        counted = evaluate(split, predictors, tables, state=_state(run, "confusion", key), **options)[BASELINE]
        if run.job.first:
            counted.save(run.folder / file, images=split.split, dataset=split.name, fingerprint=split.fingerprint())
    return list(files)


def _state(run: Run, stage: str, part: str) -> Optional[State]:
    """What was counted before the stage was interrupted; it belongs to what the stage is being made from.

    None for several workers, of whom each counts other images at every start.
    """
    if run.job.count > 1:
        return None
    return State(partial_path(run.folder, stage, part), sha256(begun_path(run.folder, stage)))


def choose_groups(run: Run) -> List[str]:
    """The confusing groups: found in the confusion matrix, the paper's, or the user's, each with its reason."""
    settings, labels = run.config.groups, run.labels
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


def train_subnets(run: Run, files: Sequence[str]) -> List[str]:
    """The heads that `files` names, in one pass over the frozen encoder's features; each as it would be alone."""
    names = [name for name in needed_heads(run.config.cells, len(read_groups(run))) if name.file in files]
    encoder, config, spaces = load_encoder(run, run.devices), run.config, read_spaces(run)
    counted = {key: ConfusionMatrix.load(run.folder / confusion_file(config, key)) for key in counted_on(config)}
    heads = []
    for name in names:
        settings = config.losses[name.loss]
        matrix = seen_by(name, spaces, counted[settings.counted_on or config.confusion_images])
        warn_small_diagonal(run, name, matrix)
        heads.append(new_head(run, name, encoder, make_loss(settings, matrix), config.subnets, spaces))
    _log.info("training %d heads on the frozen encoder: %s", len(heads), ", ".join(map(str, names)))
    fit_heads(run, make_trunk(run, encoder), heads, config.subnets, "subnets", first_epoch=config.baseline.epochs)
    return [save_parameters(run, head.block.subnet, name.file) for head, name in zip(heads, names)]


def evaluate_cells(run: Run) -> List[str]:
    """Every cell, and every group's subnet alone, in one pass over the validation images for each encoder."""
    counted: Dict[str, ConfusionMatrix] = {}
    kept: Dict[str, np.ndarray] = {}
    for cells in by_encoder(run.config.cells):
        matrices, label_maps = _evaluate(run, cells)
        counted.update(matrices)
        kept.update(label_maps)
    if run.job.first:
        write_npz(run.folder / SAMPLES_FILE, kept, compress=True)
        write_npz(run.folder / COUNTS_FILE, {key: matrix.counts for key, matrix in counted.items()})
    return [SAMPLES_FILE, COUNTS_FILE]


def _evaluate(run: Run, cells: List[Cell]) -> Tuple[Dict[str, ConfusionMatrix], Dict[str, np.ndarray]]:
    """Counts of the cells of one encoder, and of the groups' subnets that they have; and label maps (`samples`)."""
    spaces = read_spaces(run)
    names = needed_heads(cells, len(spaces["groups"]))
    matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
    frequency = matrix.counts.sum(axis=1) / matrix.counts.sum()
    alone = [name for name in names if name.subnet and name.spaces == "groups"]
    tables = dict.fromkeys((cell.key for cell in cells), label_table(np.arange(run.num_classes)))
    outputs = {str(name): output_of_class(space_of(name, spaces), run.num_classes) for name in alone}
    tables.update({key: label_table(output) for key, output in outputs.items()})

    def views() -> Dict[str, View]:
        fused = {cell.key: make_view(cell, spaces, run.num_classes, frequency) for cell in cells}
        return {**fused, **{str(name): View((str(name),)) for name in alone}}

    title = "evaluate" if cells[0].joint is None else f"evaluate {cells[0].joint}"
    predictors = make_predictors(run, names, spaces, views)
    state = _state(run, "evaluate", cells[0].joint or "val")
    options = {"workers": run.config.data.workers, "title": title, "job": run.job, "state": state}
    counted = evaluate(run.val, predictors, tables, **options)
    return counted, samples(run, cells, predictors) if run.job.first else {}


def _joint_stage(config: Config, name: str) -> Stage:
    """A stage for each joint training: another one leaves those that are finished alone."""
    joint = config.joint[name]
    follows = () if joint.pull_like is None else (joint_stage(joint.pull_like),)
    groups_first = () if joint.subnets is None else ("groups",)
    return Stage(
        joint_stage(name),
        lambda run: train_joint(run, name),
        lambda settings: joint_settings(settings, name),
        (*groups_first, *follows),
    )


_TRAINING = (
    Stage("baseline", train_baseline, baseline_settings),
    Stage("confusion", count_confusion, confusion_settings, ("baseline",), ("train", "val"), files_of_confusion),
    Stage("groups", choose_groups, lambda c: dump(c, "groups"), ("confusion",), shared=False),
    Stage("subnets", train_subnets, subnet_settings, ("baseline", "confusion", "groups"), files=files_of_subnets),
)


def stages_of(config: Config) -> Tuple[Stage, ...]:
    """The stages of a run with these settings, in order."""
    joint = tuple(_joint_stage(config, name) for name in used_joints(config))
    upstream = ("confusion", "groups", "subnets", *(stage.name for stage in joint))
    evaluation = Stage("evaluate", evaluate_cells, lambda c: dump(c, "cells", "evaluation"), upstream, ("val",))
    reporting = Stage("report", report, report_settings, ("evaluate",), ("val",), shared=False)
    return (*_TRAINING, *joint, evaluation, reporting)
