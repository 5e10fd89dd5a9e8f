"""Settings of the result table's cells: which heads are fused, and how."""

from typing import Any, Callable, Collection, Dict, Optional, Sequence, Tuple, Union

from pydantic import Field, model_serializer, model_validator
from typing_extensions import Literal

from .config_base import Key, Line, Section, Spaces, in_turn


class Cell(Section):
    """One cell of the result table: which heads are fused and how. "baseline" is the head of the first stage.

    `subnet0`, `subnets`: names in `losses:` that the heads are trained with; of several for the heads beside subnet 0,
    subnets 1, 2, ... take one after the other in turn.

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
    subnets: Union[str, Tuple[str, ...], None] = None
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
        if self.subnets == ():
            raise ValueError("subnets: the list is empty; name losses in it, or write null where there are no subnets")
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
    def losses_in_turn(self) -> Tuple[str, ...]:
        """The names in `losses:` that its subnets take in turn; none where it has no subnets."""
        return in_turn(self.subnets)

    @property
    def shapes(self) -> Tuple[str, ...]:
        """The names in `shapes:` that its subnets take in turn; none where they are like `subnet:`."""
        return in_turn(self.shape)


def pairs(comparisons: Any) -> Any:
    """`{a: [b, c]}` as the pairs [a, b], [a, c]; pairs, and what is of another form altogether, as they are."""
    if not isinstance(comparisons, dict):
        return comparisons
    for key, others in comparisons.items():
        if not isinstance(others, (list, tuple)):
            raise ValueError(f"comparisons: {key}: wants the list of cells it is compared with, got {others!r}")
    return [[key, other] for key, others in comparisons.items() for other in others]


def check(
    cells: Sequence[Cell],
    comparisons: Sequence[Tuple[str, str]],
    losses: Collection[str],
    shapes: Collection[str],
) -> None:
    """Raise ValueError, naming the key, where cells do not fit together, or name what is not there."""
    keys = [cell.key for cell in cells]
    for key in (key for pair in comparisons for key in pair):
        if key not in keys:
            raise ValueError(f"comparisons: there is no cell {key!r}; cells: has {', '.join(keys)}")
    if len(set(keys)) != len(keys):
        raise ValueError("cells: two cells have the same key")
    if [cell.key for cell in cells if cell.role == "baseline"] != keys[:1]:
        raise ValueError("cells: the first cell, and no other, has role: baseline")
    for cell in cells:
        for loss in (cell.subnet0, *cell.losses_in_turn):
            if loss != "baseline" and loss not in losses:
                raise ValueError(f"cells: {cell.key} uses the loss {loss!r}; losses: has {', '.join(losses)}")
        for shape in cell.shapes:
            if shape not in shapes:
                known = ", ".join(shapes) or "none"
                raise ValueError(f"cells: {cell.key} uses the shape {shape!r}; shapes: has {known}")
    if "baseline" in losses:
        raise ValueError("losses: the name 'baseline' is taken by the head of the first stage")
