"""A run: its settings, data, devices and folder, and the names of the files in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from . import groups
from .backend import mx
from .config import Config, Spaces, parse
from .data import SegmentationDataset
from .errors import ConfsegError
from .files import PathLike, read_json, write_json
from .labels import LabelSet
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
STAGE_NAMES = ("baseline", "confusion", "groups", "subnets", "evaluate", "report")
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
    """What every stage is given: the above, and the images."""

    train: SegmentationDataset
    val: SegmentationDataset
    data_source: str


@dataclass(frozen=True)
class HeadName:
    """A head: subnet 0 or another one (1..M), trained with a loss of the config, or the baseline's.

    `spaces` is a cell's: which of the run's output spaces number `subnet` is (see `read_spaces`). `shape` is a name in
    the config's `shapes`; None is its `subnet`.
    """

    subnet: int
    loss: str
    spaces: Spaces = "groups"
    shape: Optional[str] = None

    def __str__(self) -> str:
        parts = [f"subnet{self.subnet}", self.loss, None if self.spaces == "groups" else self.spaces, self.shape]
        return ".".join(part for part in parts if part is not None)

    @property
    def file(self) -> str:
        return f"{self}.params"


def open_run(folder: PathLike, devices: List[mx.Context]) -> TrainedRun:
    """A finished run; ConfsegError where `folder` is none, or its training has not finished."""
    folder = Path(folder)
    unfinished = [stage for stage in ("baseline", "groups", "subnets") if not manifest_path(folder, stage).is_file()]
    if unfinished:
        raise ConfsegError(f"{folder} is not a finished run: stage {unfinished[0]} is missing; run it to the end first")
    settings = parse(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    return TrainedRun(settings, folder, _read_labels(folder / LABELS_FILE), devices)


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
