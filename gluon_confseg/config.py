"""One frozen, typed tree of settings read from YAML; an unknown or ill-typed key raises, naming the key."""

import difflib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, Union

from pydantic import BaseModel, Field, ValidationError, field_validator, model_serializer, model_validator
from typing_extensions import Annotated, Literal

from . import config_cells, config_joint
from .config_base import Key, Section
from .config_cells import Cell
from .config_data import Augment, Data
from .config_joint import Joint
from .config_losses import Loss
from .config_networks import Encoder, Subnet, Subnet0
from .config_schedules import Schedule, SubnetSchedule
from .config_tree import merge, override, read_tree
from .errors import ConfsegError

MIN_WINDOW = 32  # pixels: a smaller window shows a network next to nothing
WindowSide = Annotated[int, Field(ge=MIN_WINDOW)]


class Groups(Section):
    """`source`: "auto" (partition of the confusion matrix), "paper", or the list of lists of class names itself."""

    source: Union[Literal["auto", "paper"], Tuple[Tuple[str, ...], ...]] = "auto"
    threshold: float = Field(0.02, gt=0, le=1)
    max_group_size: int = Field(6, ge=2)
    max_groups: Optional[int] = Field(3, ge=1)


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
    `comparisons`: a cell and those it is compared with, {a: [b, c]}: the table over seeds tests a - b and a - c.
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

    @field_validator("comparisons", mode="before")
    @classmethod
    def _pairs(cls, comparisons: Any) -> Any:
        return config_cells.pairs(comparisons)

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
        config_cells.check(self.cells, self.comparisons, self.losses, self.shapes)
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
    tree = merge(read_tree(path), overlay or {})
    for text in overrides:
        override(tree, text)
    return parse(tree, str(path))


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
