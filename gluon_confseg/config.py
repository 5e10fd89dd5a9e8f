"""One frozen, typed tree of settings read from YAML; an unknown or ill-typed key raises, naming the key."""

import difflib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Annotated, Literal

from . import config_joint
from .config_base import Schedule, Section, Spaces
from .config_joint import Joint
from .errors import ConfsegError, one_line
from .yaml_files import parse_yaml, read_yaml

BASE_KEY = "_base_"
MIN_WINDOW = 32  # pixels: a smaller window shows a network next to nothing


def _printable(text: str) -> str:
    if text != one_line(text):
        raise ValueError("wants one line of printable text")
    return text


Line = Annotated[str, AfterValidator(_printable)]
# part of the names of files and folders, so it must not lead out of them
Key = Annotated[str, Field(pattern=r"^\w[\w.+-]{0,49}$")]
WindowSide = Annotated[int, Field(ge=MIN_WINDOW)]


class BuiltIn(Section):
    """The built-in synthetic data drawn where no data root is given. size = (height, width) in pixels."""

    train: int = Field(240, gt=0)
    val: int = Field(60, gt=0)
    size: Tuple[int, int] = (128, 256)
    seed: int = 0


class Data(Section):
    """Which images. `scale` is the working resolution relative to the files (0.5 = halved).

    Decoded training images stay in a run's memory up to `cache_megabytes`, and, up to `disk_cache_megabytes`, in the
    user's cache folder, which all runs share. `held_out`: this share of the training split, the end of its sorted ids,
    is not trained on and takes the place of `val_split`, so that settings can be tuned without a look at the latter.
    """

    name: Literal["cityscapes", "voc", "camvid", "folders"]
    train_split: str = "train"
    val_split: str = "val"
    held_out: float = Field(0.0, ge=0, lt=1)
    scale: float = Field(1.0, gt=0)
    cache_megabytes: int = Field(1024, ge=0)
    disk_cache_megabytes: int = Field(0, ge=0)
    workers: int = Field(2, gt=0)
    built_in: BuiltIn = BuiltIn()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[["Data"], Dict[str, Any]]) -> Dict[str, Any]:
        tree = handler(self)
        for key in ("disk_cache_megabytes", "held_out"):
            if not tree[key]:
                del tree[key]  # younger than committed runs, which could not be averaged with new ones
        return tree


class Augment(Section):
    """Training crops: scale jitter (relative to data.scale), crop = (height, width); mean and std of [0, 1] RGB."""

    scale: Tuple[float, float] = (0.75, 1.75)
    crop: Tuple[int, int] = (144, 192)
    flip: bool = True
    mean: Tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Tuple[float, float, float] = (0.229, 0.224, 0.225)

    @field_validator("scale")
    @classmethod
    def _range(cls, value: Tuple[float, float]) -> Tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("wants 0 < low <= high")
        return value


class Encoder(Section):
    """`weights`: null (random), "imagenet" (GluonCV's model store) or a file: see nn/weights.py and nn/resnet38.py.

    `name: gluoncv` with `model`, one of GluonCV's segmentation models: its encoder, and its head as subnet 0, whose
    weights (a .params file of the model, or "pretrained": the model store's) fill both: see nn/gluoncv_models.py. A
    network of your own, by --plugin: see nn/encoders.py.
    """

    name: str = "small"
    model: Optional[str] = None
    weights: Optional[str] = None
    frozen_batchnorm: bool = False

    @model_validator(mode="after")
    def _model(self) -> "Encoder":
        if (self.name == "gluoncv") != (self.model is not None):
            raise ValueError(
                "model names a segmentation model of GluonCV's; it goes with name: gluoncv, and only there"
            )
        return self


class Subnet(Section):
    """Shape of a subnet: METHOD.md section 1; `stages` are the encoder stages whose features are concatenated."""

    hidden: int = Field(1, ge=0)
    channels: int = Field(512, gt=0)
    kernel: int = Field(3, gt=0)
    dilation: int = Field(12, gt=0)
    norm: Literal["none", "batch"] = "none"
    stages: Tuple[int, ...] = (-1,)


class Subnet0(Subnet):
    """`weights`: null (random), a released ResNet-38 checkpoint, or a Gluon .params file of this head."""

    weights: Optional[str] = None


class SubnetSchedule(Schedule):
    """`finetune_learning_rate` is for heads that start from the baseline's subnet 0; the others start at random."""

    epochs: int = Field(25, gt=0)
    finetune_learning_rate: float = Field(0.01, gt=0)


class Groups(Section):
    """`source`: "auto" (partition of the confusion matrix), "paper", or the list of lists of class names itself."""

    source: Union[Literal["auto", "paper"], Tuple[Tuple[str, ...], ...]] = "auto"
    threshold: float = Field(0.02, gt=0, le=1)
    max_group_size: int = Field(6, ge=2)
    max_groups: Optional[int] = Field(3, ge=1)


LOSS_SETTINGS = {  # the settings that each kind of loss has
    "cross_entropy": (),
    "recall_weighted": ("lam",),
    "confusion": ("lam", "diagonal"),
    "inverse_frequency": ("max_ratio",),
    "median_frequency": ("max_ratio",),
    "focal": ("gamma",),
    "ohem": ("threshold", "min_kept"),
    "loss_max_pooling": ("p", "support"),
    "logit_adjusted": ("tau",),
}
LOSS_OPTIONS = ("stride", "counted_on")  # those that every kind has; absent where they are not given


class Loss(Section):
    """`cross_entropy`, optionally weighted by w_i = c_ii + lam (1 - c_ii), the paper's `confusion` loss, or a rival.

    The rivals and their settings are those of nn/class_weights.py and nn/competing_losses.py, with published defaults.
    `stride` replaces the schedule's `loss_stride`; `counted_on`, the split of the confusion matrix that the loss takes
    its weights from, replaces `confusion_images`.
    """

    kind: Literal[
        "cross_entropy",
        "recall_weighted",
        "confusion",
        "inverse_frequency",
        "median_frequency",
        "focal",
        "ohem",
        "loss_max_pooling",
        "logit_adjusted",
    ]
    lam: float = Field(5.0, ge=0)
    diagonal: Literal["confusion", "one"] = "confusion"
    max_ratio: float = Field(50.0, ge=1)
    gamma: float = Field(2.0, ge=0)
    threshold: float = Field(0.7, gt=0, le=1)
    min_kept: float = Field(1 / 16, gt=0, le=1)
    p: float = Field(1.7, ge=1.1)
    support: float = Field(0.25, gt=0, le=1)
    tau: float = Field(1.0, ge=0)
    stride: Optional[int] = Field(None, gt=0)
    counted_on: Optional[Literal["train", "val"]] = None

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> "Loss":
        own = LOSS_SETTINGS[self.kind]
        for key, field in type(self).model_fields.items():
            # the default is let through: a run's config.json names lam and diagonal for every kind
            if key not in ("kind", *own, *LOSS_OPTIONS) and getattr(self, key) != field.default:
                raise ValueError(f"{self.kind} has no setting {key!r}; it has {', '.join(own) or 'none'}")
        return self

    @model_serializer(mode="wrap")
    def _without_those_of_other_kinds(self, handler: Callable[["Loss"], Dict[str, Any]]) -> Dict[str, Any]:
        # but lam and diagonal, older than the rivals, or the stages of finished runs would count as changed
        kept = ["kind", "lam", "diagonal", *LOSS_SETTINGS[self.kind]]
        kept += [key for key in LOSS_OPTIONS if getattr(self, key) is not None]
        return {key: value for key, value in handler(self).items() if key in kept}


class Cell(Section):
    """One cell of the result table: which heads are fused and how. "baseline" is the head of the first stage.

    `spaces`: what the heads beside subnet 0 tell apart: the confusing groups (the paper), or, as controls, random
    groups of the same sizes, or all classes (as many ordinary heads, each from its own random weights). "focused" is
    between the two: each head tells all classes apart, and its loss knows the errors that concern its group alone.
    `shape`: what these heads are like, a name in `shapes:`, or a list of names that subnets 1, 2, ... take in turn; by
    default that of `subnet:`.

    `joint` names a joint training, whose encoder and heads the cell has: all of them, or, where it says
    `subnets: null`, subnet 0 alone.
    """

    key: Key
    title: Line
    role: Literal["baseline", "paper", "control", "variant"] = "variant"
    joint: Optional[str] = None
    subnet0: str = "baseline"
    subnets: Optional[str] = None
    spaces: Spaces = "groups"
    shape: Union[str, Tuple[str, ...], None] = None
    rule: Literal["sum", "product"] = "sum"
    others: Literal["copy", "divide", "proportional"] = "copy"
    adjustment: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _spaces_of_subnets(self) -> "Cell":
        if self.subnets is None and self.spaces != "groups":
            raise ValueError(f"spaces: {self.spaces} says what subnets tell apart, and this cell has none")
        if self.subnets is None and self.shape is not None or self.shape == ():
            raise ValueError(f"shape: {self.shape} says what subnets are like, and this cell has none")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[["Cell"], Dict[str, Any]]) -> Dict[str, Any]:
        tree = handler(self)
        # younger than committed runs, which would count as changed
        if self.spaces == "groups":
            del tree["spaces"]
        for key in ("shape", "joint"):
            if tree[key] is None:
                del tree[key]
        return tree

    @property
    def shapes(self) -> Tuple[str, ...]:
        """The names in `shapes:` that its subnets take in turn; none where they are like `subnet:`."""
        return (self.shape,) if isinstance(self.shape, str) else self.shape or ()


class Evaluation(Section):
    """`flip`: add the probabilities of the left-right flipped image (the published ResNet-38 result has it).

    `window`: [height, width], in pixels of the image, of a sliding window whose neighbours share a third; their
    probabilities are averaged. null: the whole image at once.
    """

    flip: bool = False
    window: Optional[Tuple[WindowSide, WindowSide]] = None


class Config(Section):
    """Everything a run depends on. `amp`: train in mixed precision, see mixed_precision.py.

    `subnet` is what subnets 1..M are like, `shapes` are others by name, for cells that ask for them.
    `joint`: trainings of encoder and heads together, by name, for cells that ask for them.
    `comparisons`: pairs of cells [a, b] whose difference a - b the table over seeds tests.
    """

    name: Key
    description: str = ""
    without_data: Optional[str] = None
    paper_table: Optional[str] = None
    seed: int = Field(0, ge=0)
    devices: Union[Literal["auto"], Tuple[str, ...]] = "auto"
    amp: bool = False
    data: Data
    augment: Augment = Augment()
    encoder: Encoder = Encoder()
    subnet0: Subnet0 = Subnet0()
    subnet: Subnet = Subnet()
    shapes: Dict[Key, Subnet] = {}
    baseline: Schedule = Schedule()
    confusion_images: Literal["train", "val"] = "train"
    groups: Groups = Groups()
    subnets: SubnetSchedule = SubnetSchedule()
    evaluation: Evaluation = Evaluation()
    losses: Dict[Key, Loss]
    joint: Dict[str, Joint] = {}
    cells: Tuple[Cell, ...]
    comparisons: Tuple[Tuple[str, str], ...] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: Callable[["Config"], Dict[str, Any]]) -> Dict[str, Any]:
        tree = handler(self)
        for key in ("shapes", "joint", "comparisons"):
            if not tree[key]:
                del tree[key]  # younger than committed runs, which could not be averaged with new ones
        return tree

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, tree: Any) -> Any:
        return config_joint.fill(tree)

    @model_validator(mode="after")
    def _joint(self) -> "Config":
        config_joint.check(self.joint, self.losses, self.baseline, self.cells)
        return self

    @model_validator(mode="after")
    def _cells(self) -> "Config":
        keys = [cell.key for cell in self.cells]
        for key in (key for pair in self.comparisons for key in pair):
            if key not in keys:
                raise ValueError(f"comparisons: there is no cell {key!r}; cells: has {', '.join(keys)}")
        if len(set(keys)) != len(keys):
            raise ValueError("cells: two cells have the same key")
        if [cell.key for cell in self.cells if cell.role == "baseline"] != keys[:1]:
            raise ValueError("cells: the first cell, and no other, has role: baseline")
        for cell in self.cells:
            for loss in (cell.subnet0, cell.subnets):
                if loss not in (None, "baseline") and loss not in self.losses:
                    raise ValueError(f"cells: {cell.key} uses the loss {loss!r}; losses: has {', '.join(self.losses)}")
            for shape in cell.shapes:
                if shape not in self.shapes:
                    known = ", ".join(self.shapes) or "none"
                    raise ValueError(f"cells: {cell.key} uses the shape {shape!r}; shapes: has {known}")
        if "baseline" in self.losses:
            raise ValueError("losses: the name 'baseline' is taken by the head of the first stage")
        return self

    @model_validator(mode="after")
    def _weights(self) -> "Config":
        # gluoncv: the weights may be of the whole model; where they are not, the first stage says so
        head = self.subnet0.weights is not None or self.encoder.name == "gluoncv"
        if self.baseline.epochs == 0 and not (self.encoder.weights and head):
            raise ValueError("baseline.epochs: 0 trains nothing, so it wants encoder.weights and subnet0.weights")
        return self


def used_joints(config: Config) -> List[str]:
    """The joint trainings that cells have, and those whose pull these follow, each after what it follows."""
    used = {cell.joint for cell in config.cells if cell.joint is not None}
    for name in reversed(list(config.joint)):  # what a training follows stands before it
        if name in used and config.joint[name].pull_like is not None:
            used.add(str(config.joint[name].pull_like))
    return [name for name in config.joint if name in used]


def load(path: Union[str, Path], overrides: Sequence[str] = (), overlay: Optional[Dict[str, Any]] = None) -> Config:
    """Read a YAML file (with `_base_` inheritance), apply `key.sub=value` overrides (values are YAML), and validate.

    `overlay` is a tree of settings that is laid over the file's before that. Raises ConfsegError naming the file and
    the key.
    """
    path = Path(path)
    tree = _merge(read_tree(path), overlay or {})
    for override in overrides:
        _override(tree, override)
    return parse(tree, str(path))


def batch_size_of_file(path: Union[str, Path], stage: Literal["baseline", "subnets"]) -> Any:
    """The batch size of a stage in the file itself (and what it inherits), without overrides and not validated."""
    schedule = read_tree(Path(path)).get(stage)
    default = Schedule.model_fields["batch_size"].default
    return schedule.get("batch_size", default) if isinstance(schedule, dict) else default


def parse(tree: Any, source: str) -> Config:
    """Validate a plain tree; ConfsegError names `source` and the first offending key."""
    if not isinstance(tree, dict):
        raise ConfsegError(f"{source}: expected a mapping of settings")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfsegError(f"{source}: {_explain(error)}") from None


def to_tree(config: Config) -> Dict[str, Any]:
    """The resolved settings as plain JSON-able data; `parse(to_tree(c), ...)` gives `c` back."""
    return config.model_dump(mode="json")


def read_tree(path: Path, seen: Tuple[Path, ...] = ()) -> Dict[str, Any]:
    """The settings of a YAML file and of what its `_base_` names, not validated."""
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ConfsegError(f"cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfsegError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfsegError(f"{path}: expected a mapping of settings")
    base = tree.pop(BASE_KEY, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfsegError(f"{path}: {BASE_KEY} must be the name of one YAML file")
    if path.resolve() in seen:
        raise ConfsegError(f"{path}: {BASE_KEY} goes in a circle")
    return _merge(read_tree(path.parent / base, (*seen, path.resolve())), tree)


def _merge(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    """`over` wins; mappings are merged key by key, anything else (lists included) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(tree: Dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfsegError(f"--set {override}: wants key=value, for example --set baseline.epochs=10")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise ConfsegError(f"--set {override}: the value is not valid YAML") from None
    node = tree
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfsegError(f"--set {override}: {parent} has no keys below it")
    node[last] = value


def _explain(error: ValidationError) -> str:
    """The first problem in one line, with the nearest right spelling for a misspelt key."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], _known_keys(where[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {'.'.join(where)!r}{hint}"
    message = problem["msg"].replace("Value error, ", "")
    if problem["type"] == "missing":
        return f"the key {'.'.join(where)!r} is missing"
    got = "" if not where else f" (got {problem['input']!r})"
    return f"{'.'.join(where)}: {message}{got}" if where else message


def _known_keys(where: List[str]) -> List[str]:
    model: Type[BaseModel] = Config
    for part in where:
        if part.isdigit() or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        nested = [a for a in nested if issubclass(a, BaseModel)]
        model = nested[0] if nested else model
    return list(model.model_fields)
