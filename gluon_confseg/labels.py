"""Class tables: names, colours, raw id <-> train id, the ignore label and the paper's named groups."""

import difflib
from dataclasses import dataclass, field
from typing import Dict, Mapping, Tuple

import numpy as np

from .errors import ConfsegError, one_line

IGNORE_LABEL = 255
MAX_CLASSES = 254  # 255 is the ignore label, 254 marks an unknown id inside the look-up table
_UNKNOWN = 254

Groups = Tuple[Tuple[str, ...], ...]


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, in train id order.

    Attributes:
        name: the data set's name.
        classes: class names; the position is the train id.
        colors: an RGB triple (0..255) per train id.
        raw_ids: id stored in the PNG -> train id, or IGNORE_LABEL. Every id that may occur is a key.
        ignored_colors: RGB triples that stand for IGNORE_LABEL in colour-coded PNGs; black too, unless a class has it.
        named_groups: name -> groups of class names, e.g. "paper" for Table 1 of Geng et al. 2018.
        categories: category -> its class names, each class in one; empty for a data set without categories.

    Raises ConfsegError for a class listed twice, too many classes, or lists that do not fit together.
    """

    name: str
    classes: Tuple[str, ...]
    colors: Tuple[Tuple[int, int, int], ...] = field(repr=False)
    raw_ids: Mapping[int, int] = field(repr=False, hash=False)
    named_groups: Mapping[str, Groups] = field(default_factory=dict, repr=False, hash=False)
    ignored_colors: Tuple[Tuple[int, int, int], ...] = field(default=(), repr=False)
    categories: Mapping[str, Tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    ignore_label = IGNORE_LABEL  # no annotation: a constant of the class, not a field

    def __post_init__(self):
        wrong = [name for name in (self.name, *self.classes) if not name or name != one_line(name)]
        if wrong:
            raise ConfsegError(f"label set {self.name}: the name {wrong[0]!r} is not one line of printable text")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise ConfsegError(f"label set {self.name}: class {repeated[0]!r} is listed twice; name each class once")
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise ConfsegError(f"label set {self.name}: {len(self.classes)} classes; give 2 to {MAX_CLASSES}")
        if len(self.colors) != len(self.classes):
            raise ConfsegError(
                f"label set {self.name}: {len(self.colors)} colours for {len(self.classes)} classes; give one per class"
            )
        if not all(0 <= value <= 255 for color in (*self.colors, *self.ignored_colors) for value in color):
            raise ConfsegError(f"label set {self.name}: a colour is out of range; give red, green and blue of 0..255")
        for raw, train in self.raw_ids.items():
            if not 0 <= raw <= 255 or not (0 <= train < len(self.classes) or train == IGNORE_LABEL):
                raise ConfsegError(
                    f"label set {self.name}: raw id {raw} -> {train} is out of range; "
                    f"raw ids are 0..255, train ids 0..{len(self.classes) - 1} or {IGNORE_LABEL}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignore label not counted."""
        return len(self.classes)

    def index(self, class_name: str) -> int:
        """Train id of a class. Raises ConfsegError, with the closest names, where there is no such class."""
        if class_name in self.classes:
            return self.classes.index(class_name)
        by_lower = {name.lower(): name for name in self.classes}
        close = [by_lower[name] for name in difflib.get_close_matches(str(class_name).lower(), by_lower)]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"its classes: {', '.join(self.classes)}"
        raise ConfsegError(f"{self.name} has no class {class_name!r}; {hint}")

    def category_indices(self) -> np.ndarray:
        """int64 (K,): each class's position in `categories`, for `ConfusionMatrix.collapsed`.

        Raises ConfsegError where not every class is in exactly one category, as in a data set without any.
        """
        members = [(name, index) for index, names in enumerate(self.categories.values()) for name in names]
        if sorted(name for name, _ in members) != sorted(self.classes):
            raise ConfsegError(f"label set {self.name}: category scores need each class in exactly one category")
        return np.array([dict(members)[name] for name in self.classes], np.int64)

    def to_train(self, raw: np.ndarray, source: str) -> np.ndarray:
        """Map raw ids (uint8, HxW) to train ids (uint8, HxW).

        `source` is the file the ids came from: ConfsegError names it and the values for ids that are not in `raw_ids`.
        """
        table = np.full(256, _UNKNOWN, np.uint8)
        table[list(self.raw_ids)] = list(self.raw_ids.values())
        # a third of the time of table[raw], which first makes indices of 8 bytes
        train = np.frombuffer(bytearray(np.ascontiguousarray(raw)).translate(table.tobytes()), np.uint8)
        train = train.reshape(raw.shape)
        unknown = train == _UNKNOWN
        if unknown.any():
            values = ", ".join(map(str, np.unique(raw[unknown])))
            raise ConfsegError(
                f"{source}: label ids {values} are not ids of {self.name}; "
                "check that the file holds class ids (not colours or instances) of this data set"
            )
        return train

    def colorize(self, label: np.ndarray) -> np.ndarray:
        """Colours of train ids: uint8 HxW -> uint8 HxWx3 RGB; the ignore label is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette[label]


def palette(size: int) -> Tuple[Tuple[int, int, int], ...]:
    """The first `size` (up to 256) colours of PASCAL VOC's palette: an index's bits, spread over R, G and B."""
    # bits 0, 3, 6 of the index become the highest, second and third bit of R; bits 1, 4, 7 those of G; 2, 5 of B
    return tuple(
        tuple(sum((index >> (3 * level + channel) & 1) << (7 - level) for level in range(3)) for channel in range(3))
        for index in range(size)
    )


# name, raw id, colour: cityscapesscripts.helpers.labels, in train id order
_CITYSCAPES_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)


def _cityscapes_raw_ids() -> Dict[int, int]:
    # raw ids 0..33; 255 is the licence plate's -1 stored as uint8
    raw_ids = {raw: IGNORE_LABEL for raw in (*range(34), IGNORE_LABEL)}
    raw_ids.update({raw: train for train, (_, raw, _) in enumerate(_CITYSCAPES_CLASSES)})
    return raw_ids


CITYSCAPES = LabelSet(
    name="cityscapes",
    classes=tuple(name for name, _, _ in _CITYSCAPES_CLASSES),
    colors=tuple(color for _, _, color in _CITYSCAPES_CLASSES),
    raw_ids=_cityscapes_raw_ids(),
    named_groups={
        "paper": (
            ("building", "wall", "fence", "pole", "traffic light", "traffic sign"),
            ("car", "truck", "bus", "train"),
            ("person", "rider", "motorcycle", "bicycle"),
        )
    },
    ignored_colors=(  # static, dynamic, ...; pole groups and licence plates have the colours of poles and cars
        *((111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100)),
        *((150, 120, 90), (0, 0, 90), (0, 0, 110)),
    ),
    categories={
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    },
)

VOC = LabelSet(
    name="voc",
    classes=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv monitor",
    ),
    colors=palette(21),
    raw_ids={**{index: index for index in range(21)}, IGNORE_LABEL: IGNORE_LABEL},
    named_groups={"paper": (("background", "chair", "dining table", "potted plant", "sofa"),)},
    ignored_colors=((224, 224, 192),),
)

CAMVID = LabelSet(
    name="camvid",
    classes=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    colors=(  # SegNet's
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    raw_ids={**{index: index for index in range(11)}, 11: IGNORE_LABEL},
)

_LABEL_SETS = {labels.name: labels for labels in (CITYSCAPES, VOC, CAMVID)}
NAMES = tuple(_LABEL_SETS)


def get(name: str) -> LabelSet:
    """The label set called "cityscapes", "voc" or "camvid". Raises ConfsegError for another name."""
    if name not in _LABEL_SETS:
        raise ConfsegError(f"no label set {name!r}; there are {', '.join(_LABEL_SETS)}")
    return _LABEL_SETS[name]
