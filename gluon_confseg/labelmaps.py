"""Folders of label maps made by anybody: which files, and reading them in any PNG encoding. Works without MXNet.

Gray of up to 8 bits, 16-bit gray of small values, and palettes hold ids; RGB holds the classes' colours, and so does a
palette whose used colours are all colours of classes.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from PIL import Image

from . import labels as label_sets
from .data.base import decode
from .errors import ConfsegError
from .labels import IGNORE_LABEL, LabelSet

RAW_IDS, TRAIN_IDS, COLORS = ENCODINGS = ("raw-ids", "train-ids", "colors")
_ENDINGS = re.compile(
    r"(?<=.)(_(leftImg8bit|gtFine|gtCoarse|labelIds|labelTrainIds|color|instanceIds|pred|prediction|L))+$"
)
_KINDS = ("labelIds", "labelTrainIds", "", "color")  # of these, a folder's most frequent is read; else the first
_UNKNOWN_COLOR = 254
_LOOKED_AT = 8  # files that decide whether a folder holds colours


@dataclass(frozen=True)
class Classes:
    """A label set, and whether its colours are the user's: colours chosen by us must not be read from files."""

    labels: LabelSet
    has_colors: bool

    @classmethod
    def load(cls, name: str) -> "Classes":
        """ "cityscapes", "voc", "camvid", or the path of a class list (data.folders.read_classes)."""
        if name in label_sets.NAMES:
            return cls(label_sets.get(name), True)
        if not Path(name).is_file():
            raise ConfsegError(f"--classes {name}: no such file, nor one of {', '.join(label_sets.NAMES)}")
        from .data.folders import read_classes

        return cls(*read_classes(name))


@dataclass
class Folder:
    """The label maps of a folder, and how they are read; `role` is "truth", "predictions" or "before".

    encoding  one of ENCODINGS, or None: to be found out. Raises ConfsegError for a folder without PNGs.
    """

    role: str
    path: Path
    encoding: Optional[str] = None
    kind: str = field(init=False)  # of _KINDS
    files: List[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        if not self.path.is_dir():
            raise ConfsegError(f"{self.role}: no folder {self.path}")
        found = [path for path in sorted(self.path.rglob("*")) if path.suffix.lower() == ".png"]
        found = [path for path in found if not path.name.startswith(".") and _kind(path) in _KINDS]
        if not found:
            raise ConfsegError(f"{self.role}: no label map (PNG) in {self.path} or the folders below it")
        count = Counter(map(_kind, found))
        self.kind = max(_KINDS, key=count.__getitem__)
        self.files = [path for path in found if _kind(path) == self.kind]

    def names(self) -> List[str]:
        """Per file, its name in the join."""
        return [_ENDINGS.sub("", path.stem) for path in self.files]

    def paths(self) -> List[str]:
        """Per file, its name with the folders below `path`."""
        return [str(path.relative_to(self.path).with_name(name)) for path, name in zip(self.files, self.names())]


def _kind(path: Path) -> str:
    found = _ENDINGS.search(path.stem)
    words = found.group().split("_")[::-1] if found else []
    return next((word for word in words if word in ("labelIds", "labelTrainIds", "color", "instanceIds")), "")


class Reader:
    """Reads the files of one folder: ids as they are stored, or colours as train ids."""

    def __init__(self, folder: Folder, files: List[Path], classes: Classes):
        self.folder, self.files, self._labels = folder, files, classes.labels
        self.colors = folder.encoding == COLORS or (folder.encoding is None and _shows_colors(files, classes))
        if not self.colors:
            return
        if not classes.has_colors:
            raise ConfsegError(
                f"{folder.role}: {folder.path} holds colours, but the class list does not give each class its own; "
                "add them, as in {name: road, color: [128, 64, 128]}"
            )
        self._train = _color_table(classes.labels)

    def __call__(self, path: Path) -> np.ndarray:
        """uint8 HxW. Raises ConfsegError, naming the file, for what is no label map of the folder's encoding."""
        image, bits = _decode_png(path)
        if self.colors:
            return self._from_colors(image, path)
        image = image.getchannel(0) if image.mode == "LA" else image
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise ConfsegError(
                f"{path}: holds colours (mode {image.mode}), the other files of {self.folder.path} ids; "
                "give a folder of one encoding"
            )
        ids = np.array(image)
        if image.mode.startswith("I") and ids.size and ids.max() > 255:
            values = ", ".join(map(str, np.unique(ids[ids > 255])[:5]))
            raise ConfsegError(f"{path}: values {values} are no class ids; give label ids, not instance ids or depth")
        if image.mode != "P" and bits < 8 and image.mode != "1":
            ids = ids // (255 // (2**bits - 1))  # Pillow scales gray of 2 and 4 bits to 0..255
        return ids.astype(np.uint8)

    def _from_colors(self, image: Image.Image, path: Path) -> np.ndarray:
        if image.mode not in ("P", "RGB", "RGBA"):
            raise ConfsegError(
                f"{path}: holds ids (mode {image.mode}), the other files of {self.folder.path} colours; "
                "give a folder of one encoding"
            )
        packed = _packed(np.array(image.convert("RGB")))
        train = self._train[packed]
        if (train == _UNKNOWN_COLOR).any():
            values = np.unique(packed[train == _UNKNOWN_COLOR])
            shown = ", ".join(str((v >> 16, v >> 8 & 255, v & 255)) for v in values[:5].tolist())
            raise ConfsegError(
                f"{path}: {values.size} colours are no class's: {shown}{', ...' if values.size > 5 else ''}; "
                "list them in the class list (ignore_colors where they do not count), or save without smoothing"
            )
        return train


def _decode_png(path: Path) -> Tuple[Image.Image, int]:
    image, bits = decode(path)
    if image.format != "PNG":
        raise ConfsegError(f"{path}: a {image.format} named .png; label maps must be lossless PNGs")
    return image, bits


def _packed(colors: np.ndarray) -> np.ndarray:
    """uint8 ...x3 -> int32 ..., 0xRRGGBB."""
    wide = colors.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _color_table(labels: LabelSet) -> np.ndarray:
    """uint8 (2^24,): the train id of each packed colour."""
    table = np.full(1 << 24, _UNKNOWN_COLOR, np.uint8)
    table[_packed(np.array([(0, 0, 0), *labels.ignored_colors], np.uint8))] = IGNORE_LABEL
    table[_packed(np.array(labels.colors, np.uint8))] = np.arange(labels.num_classes)
    return table


def _shows_colors(files: List[Path], classes: Classes) -> bool:
    """Whether the first few files are RGB, or palettes all of whose used colours are colours of classes."""
    known = set(_packed(np.array(classes.labels.colors, np.uint8)).tolist()) if classes.has_colors else set()
    used = set()
    for index in np.unique(np.linspace(0, len(files) - 1, _LOOKED_AT).astype(int)):
        image, _ = _decode_png(files[index])
        if image.mode in ("RGB", "RGBA"):
            return True
        if image.mode != "P":
            return False
        used.update(color for _, color in image.convert("RGB").getcolors(256))
    used = {red << 16 | green << 8 | blue for red, green, blue in used}
    ignored = {0, *_packed(np.array(classes.labels.ignored_colors, np.uint8).reshape(-1, 3)).tolist()}
    # two: a single colour may be a coincidence
    return len(used & known - {0}) >= 2 and used <= known | ignored
