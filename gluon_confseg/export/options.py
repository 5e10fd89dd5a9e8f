"""What to export."""

from dataclasses import dataclass
from typing import Optional, Tuple

from ..files import PathLike


@dataclass(frozen=True)
class Int8:
    """Where the images for quantisation come from.

    `images`: a folder to calibrate on, by default the run's training split; `data_root`: of the run's data set, as in
    `confseg evaluate`; `limit`: what INT8 costs is measured on the first so many validation images, by default on all.
    """

    images: Optional[PathLike] = None
    data_root: Optional[PathLike] = None
    limit: Optional[int] = None


@dataclass(frozen=True)
class Options:
    """`size` is (height, width), or None for any; `int8` None for float32; the rest as in `export`."""

    format: str = "symbol"
    size: Optional[Tuple[int, int]] = None
    labels: bool = False
    normalize: bool = False
    int8: Optional[Int8] = None

    @property
    def name(self) -> str:
        """ "symbol", "onnx-int8" and so on."""
        return f"{self.format}-int8" if self.int8 else self.format
