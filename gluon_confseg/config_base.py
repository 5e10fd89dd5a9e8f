"""What sections of the settings share: their base, and types of values."""

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


class Section(BaseModel):
    """A part of the tree: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
