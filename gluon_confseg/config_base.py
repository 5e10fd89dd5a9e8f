"""What sections of the settings share: their base, and types of values."""

from typing import Sequence, Tuple, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import Annotated, Literal

from .errors import one_line


def _printable(text: str) -> str:
    if text != one_line(text):
        raise ValueError("wants one line of printable text")
    return text


Line = Annotated[str, AfterValidator(_printable)]
# part of the names of files and folders, so it must not lead out of them
Key = Annotated[str, Field(pattern=r"^\w[\w.+-]{0,49}$")]
Spaces = Literal["groups", "random", "all", "focused"]


def in_turn(names: Union[str, Sequence[str], None]) -> Tuple[str, ...]:
    """A setting that may name nothing, one, or several that subnets 1, 2, ... take in turn."""
    return (names,) if isinstance(names, str) else tuple(names or ())


class Section(BaseModel):
    """A part of the tree: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
