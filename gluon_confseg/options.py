"""What the texts of command line options mean: scales, sizes, windows."""

import math
import re
from typing import List, Tuple

from .errors import ConfsegError

SCALE_RANGE = (0.1, 8.0)  # beyond it there is a slip of the pen rather than a network that sees anything


def parse_scales(text: str) -> Tuple[float, ...]:
    """ "0.75,1,1.25" -> (0.75, 1.0, 1.25); ConfsegError for what is no number, out of SCALE_RANGE, or there twice."""
    low, high = SCALE_RANGE
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = (math.nan,)
    if not all(low <= scale <= high for scale in scales) or len(set(scales)) != len(scales):
        raise ConfsegError(
            f"--scales {text}: wants different numbers from {low:g} to {high:g}, separated by commas, "
            "for example --scales 0.75,1,1.25"
        )
    return scales


def parse_size(text: str, option: str = "--size", least: int = 1) -> Tuple[int, int]:
    """(height, width) of "HxW"; ConfsegError, naming `option`, for anything else and for sides below `least`."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ConfsegError(f"{option} {text}: wants height x width in pixels, for example {option} 512x1024")
    height, width = int(sides[0]), int(sides[1])
    if min(height, width) < least:
        raise ConfsegError(f"{option} {text}: wants at least {least} pixels a side")
    return height, width


def parse_seeds(text: str) -> List[int]:
    """ "0-2,7" -> [0, 1, 2, 7]. Raises ConfsegError for anything else."""
    seeds: List[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not found:
            raise ConfsegError(f"--seeds {text}: wants numbers and ranges, for example 0-4,7")
        first, last = int(found.group(1)), int(found.group(2) or found.group(1))
        if not first <= last < first + 1000:
            raise ConfsegError(f"--seeds {text}: {part.strip()} is no range of up to 1000 seeds")
        seeds += range(first, last + 1)
    return seeds
