"""Text of any origin and JSON as plain data: no more is read than fits, and nothing that a walk over it cannot end."""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, Union

MAX_TEXT = 1 << 20  # bytes of a file of settings
MAX_JSON = 1 << 26  # bytes: results of 40 cells with 254 classes are 16 MB
MAX_DEPTH = 64  # levels of a tree: functions that walk one may be recursive


def read_text(path: Union[str, Path], limit: int = MAX_TEXT) -> str:
    """UTF-8 text of a regular file of at most `limit` bytes; raises OSError or UnicodeDecodeError otherwise."""
    path = Path(path)
    try:
        found = path.stat()
    except ValueError:  # NUL or half a character in a name that came out of a file
        raise OSError(errno.EINVAL, "this cannot be the name of a file") from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes are too many, at most {limit} are read")
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """JSON text as plain data. Raises ValueError where it is none, nested too deeply or not all Unicode.

    So too for NaN and numbers that float64 cannot hold, which cannot be written again.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    if "\\u" in text:  # an escape may be half a character, which cannot be printed or written
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is no number that can be written")
    return number


def _check_depth(tree: Any) -> None:
    """Raise ValueError for a tree of dictionaries and lists of more than 64 levels."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))]
        level = [item for part in parts for item in part]
        if not level:
            return
    raise ValueError("nested too deeply")
