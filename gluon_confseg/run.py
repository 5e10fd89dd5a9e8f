"""A run: its settings, data, devices and folder, and the names of the files in it."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from . import groups
from .backend import mx
from .config import Config, parse, used_joints
from .config_base import Spaces
from .data import SegmentationDataset
from .errors import ConfsegError
from .files import PathLike, read_json, write_json
from .labels import LabelSet
from .workers import ALONE, Job
from .yaml_files import read_yaml

CONFIG_FILE = "config.json"
LABELS_FILE = "labels.json"
ENCODER_FILE = "encoder.params"
CONFUSION_FILE = "confusion.npz"
GROUPS_FILE = "groups.yaml"
SAMPLES_FILE = "samples.npz"
COUNTS_FILE = "counts.npz"
RESULTS_FILE = "results.json"
PROFILE_FILE = "profile.json"
BASELINE = "baseline"  # the "loss" of the head of the first stage


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder with what is needed to use its networks: settings, classes, devices."""

    config: Config
    folder: Path
    labels: LabelSet
    devices: List[mx.Context]

    @property
    def num_classes(self) -> int:
        return self.labels.num_classes


@dataclass(frozen=True)
class Run(TrainedRun):
    """What every stage is given: the above, the images, and this process's place among the workers."""

    train: SegmentationDataset
    val: SegmentationDataset
    data_source: str
    job: Job = ALONE


def joint_stage(joint: str) -> str:
    """The name of a joint training's stage, with which the names of its files begin."""
    return f"joint-{joint}"


def stage_names(config: Config) -> Tuple[str, ...]:
    """The stages of a run, in order."""
    joint = map(joint_stage, used_joints(config))
    return ("baseline", "confusion", "groups", "subnets", *joint, "evaluate", "report")


def encoder_file(joint: Optional[str]) -> str:
    """The encoder of the first stage, or that of a joint training."""
    return ENCODER_FILE if joint is None else f"{joint_stage(joint)}.{ENCODER_FILE}"


@dataclass(frozen=True)
class HeadName:
    """A head: subnet 0 or another one (1..M), trained with a loss of the config, or the baseline's.

    `spaces` is a cell's: which of the run's output spaces number `subnet` is (see `read_spaces`). `shape` is a name in
    the config's `shapes`; None is its `subnet`. `joint` is the joint training that it belongs to, with its encoder.
    """

    subnet: int
    loss: str
    spaces: Spaces = "groups"
    shape: Optional[str] = None
    joint: Optional[str] = None

    def __str__(self) -> str:
        if self.joint is not None:
            return f"{joint_stage(self.joint)}.subnet{self.subnet}"
        parts = [f"subnet{self.subnet}", self.loss, None if self.spaces == "groups" else self.spaces, self.shape]
        return ".".join(part for part in parts if part is not None)

    @property
    def file(self) -> str:
        return f"{self}.params"


def heads_beside_subnet0(
    count: int, losses: Sequence[str], spaces: Spaces, shapes: Sequence[str] = (), joint: Optional[str] = None
) -> List[HeadName]:
    """Subnets 1 to `count`, which take the losses and the shapes in turn; none without losses."""
    taken = zip(range(1, count + 1), itertools.cycle(losses), itertools.cycle(shapes or (None,)))
    return [HeadName(number, loss, spaces, shape, joint) for number, loss, shape in taken]


def open_run(folder: PathLike, devices: List[mx.Context]) -> TrainedRun:
    """A finished run; ConfsegError where `folder` is none, or its training has not finished."""
    folder = Path(folder)
    _refuse_unfinished(folder, ("baseline", "groups", "subnets"))
    settings = parse(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    _refuse_unfinished(folder, tuple(map(joint_stage, used_joints(settings))))
    return TrainedRun(settings, folder, _read_labels(folder / LABELS_FILE), devices)


def _refuse_unfinished(folder: Path, stages: Tuple[str, ...]) -> None:
    for stage in stages:
        if not manifest_path(folder, stage).is_file():
            raise ConfsegError(f"{folder} is not a finished run: stage {stage} is missing; run it to the end first")


def write_labels(path: PathLike, labels: LabelSet) -> None:
    """The class table of a run: what its networks' outputs mean, and their colours."""
    raw_ids = {str(raw): train for raw, train in labels.raw_ids.items()}
    write_json(path, {"name": labels.name, "classes": labels.classes, "colors": labels.colors, "raw_ids": raw_ids})


def _read_labels(path: Path) -> LabelSet:
    tree = read_json(path)
    try:
        raw_ids = {int(raw): int(train) for raw, train in tree["raw_ids"].items()}
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in tree["colors"])
        return LabelSet(tree["name"], tuple(tree["classes"]), colors, raw_ids)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ConfsegError(f"{path} is not a class table ({error}); run the first stage again") from error


def read_groups(run: TrainedRun) -> List[groups.ClassGroup]:
    """The groups that `choose_groups` wrote. Raises ConfsegError where the file is missing or damaged."""
    path = run.folder / GROUPS_FILE
    try:
        tree = read_yaml(path)
        found = groups.named(run.labels, [entry["classes"] for entry in tree])
        return [groups.ClassGroup(group.classes, str(entry["reason"])) for group, entry in zip(found, tree)]
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfsegError(f"{path} does not hold this run's groups ({error}); delete it and run again") from error


def read_spaces(run: TrainedRun) -> groups.OutputSpaces:
    """What subnets 1..M tell apart, for each kind of a cell's `spaces`."""
    return groups.output_spaces(read_groups(run), run.num_classes, run.config.seed)


def manifest_path(folder: Path, stage: str) -> Path:
    """Where a finished stage says what it was made from."""
    return folder / "stages" / f"{stage}.json"


def checkpoint_path(folder: Path, stage: str) -> Path:
    """The newest checkpoint of a stage that trains."""
    return folder / f"{stage}.checkpoint.npz"


def partial_path(folder: Path, stage: str, split: str) -> Path:
    """What a stage that is not finished has counted so far on "train" or "val"."""
    return folder / f"{stage}-{split}.partial.npz"
