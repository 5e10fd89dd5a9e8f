"""What readers of weights files share: refusals in one line, and arrays that lie within the bytes that were read."""

import math
from typing import Any, Dict, Iterable, Sequence, Tuple

import numpy as np

from .errors import ConfsegError

Tensors = Dict[str, np.ndarray]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # the upper half of a float32; NumPy has no such type
MAX_DIMENSIONS = 32  # NumPy's


class Unreadable(ValueError):
    """Why a file is refused; `read_tensors` adds which file."""


def shown(name: str) -> str:
    """A name from a file, fit for one line."""
    text = name.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 80 else text[:77] + "..."


def joined(names: Sequence[str], limit: int = 0) -> str:
    """Names in one line, all of them or the first few."""
    first = names[:limit] if limit else names
    rest = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return ", ".join(map(shown, first)) + rest if names else "none"


def refusal(source: str, reason: str) -> ConfsegError:
    return ConfsegError(f"{source} does not hold the weights of this network: {reason}")


def view_of(data: bytes, start: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """A view of `data`; refused where it does not lie within."""
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise Unreadable("it claims an array of impossible shape; fetch it again")
    count = math.prod(shape)
    if start + count * np.dtype(dtype).itemsize > len(data):
        raise Unreadable("it claims more data than it has; fetch it again")
    return np.frombuffer(data, dtype, count, start).reshape(shape)


def unique(pairs: Iterable[Tuple[str, Any]]) -> Dict[str, Any]:
    """A dictionary of pairs whose keys differ."""
    result: Dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise Unreadable(f"the name {shown(name)} is in it twice")
        result[name] = value
    return result


def whole_number(value: Any) -> int:
    """A size that a file states, at least 0."""
    if type(value) is not int or value < 0:  # JSON and pickles also have true and 1e300
        raise Unreadable("it has a size that is no whole number; fetch it again")
    return value
