"""`confseg check-data`: reads every file of a data set and lists what is wrong with it. Works without MXNet."""

import contextlib
import functools
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import config
from .data import SegmentationDataset, check_disjoint, find_root, open_dataset
from .data.base import UNREADABLE, OnProblem, decode_image, read_bytes
from .data.built_in import built_in_notice, built_in_root
from .data.ordered import in_order, usable_cores
from .errors import ConfsegError
from .files import PathLike, write_json
from .labels import IGNORE_LABEL, LabelSet
from .progress import bar, messages
from .table import NONE, Table

_log = logging.getLogger(__name__)

# the kinds of problems that are found by reading; those of the file lists are data.base's
OTHER_SIZE = "labels of another size than their image"
UNKNOWN_IDS = "labels with unknown ids"
ALL_IGNORE = "labels that are all ignore"
ABSENT = "classes that never occur"
BETWEEN = "the same image in several splits"
WITHIN = "the same image several times in a split"

IGNORE_ROW, UNKNOWN_ROW = "(ignore)", "(unknown ids)"  # below the classes
PRINTED = 20  # problems of a kind
_SIZES = 3  # sizes of images that are printed


class Problem(NamedTuple):
    """`what` has it: a file, an id or a class; `text` is the line to print, which names it."""

    split: str
    what: str
    text: str


class Problems:
    """Problems by kind, each thing once, in the order of finding."""

    def __init__(self) -> None:
        self.by_kind: Dict[str, Dict[Tuple[str, str], Problem]] = {}

    def add(self, kind: str, split: str, what: str, text: str = "") -> None:
        """Note a problem; `text` defaults to `what`."""
        self.by_kind.setdefault(kind, {}).setdefault((split, what), Problem(split, what, text or what))

    def listener(self, split: str) -> OnProblem:
        """For a data set's `on_problem`: notes what the split's lists have."""

        def note(kind: str, names: Sequence[str], message: str) -> None:
            for name in names:
                # the message of a list is about all its files
                self.add(kind, split, name, message if kind == UNREADABLE else "")

        return note

    def __len__(self) -> int:
        return sum(map(len, self.by_kind.values()))

    def lines(self) -> Iterator[str]:
        """What is printed: the first of each kind."""
        for kind, found in self.by_kind.items():
            yield f"\n{kind}: {len(found)}"
            for problem in list(found.values())[:PRINTED]:
                # a file's name may hold bytes that no terminal takes
                yield f"  {problem.split}: {problem.text.encode('utf-8', 'backslashreplace').decode()}"
            if len(found) > PRINTED:
                yield f"  and {len(found) - PRINTED} more; --output FILE.json lists all"


@dataclass
class SplitCounts:
    """What a split holds. Rows of `pixels` and `images_with`, int64 (K + 2,): the classes, ignore, unknown ids."""

    split: str
    labels: LabelSet
    images: int
    labels_read: int = 0
    sizes: "Counter[Tuple[int, int]]" = field(default_factory=Counter)  # (width, height) of the readable images
    pixels: np.ndarray = field(init=False)
    images_with: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.labels.num_classes + 2, np.int64)
        self.images_with = np.zeros_like(self.pixels)

    @property
    def rows(self) -> Tuple[str, ...]:
        """What the rows count."""
        return (*self.labels.classes, IGNORE_ROW, UNKNOWN_ROW)


class _Reading(NamedTuple):
    """What remains of an image and its label; `pixels` as in SplitCounts, None without a readable label."""

    digest: Optional[bytes]
    size: Optional[Tuple[int, int]]
    pixels: Optional[np.ndarray]
    problems: List[Tuple[str, str, str]]


def check_data(
    config_path: Path,
    *,
    data_root: Optional[PathLike] = None,
    splits: Sequence[str] = (),
    workers: Optional[int] = None,
    output: Optional[PathLike] = None,
) -> bool:
    """Read all images and labels of a config's data set, print what they hold and what is wrong; True if nothing is.

    `splits` are by default the config's training and validation split, `workers` (threads) one for each core. `output`
    is a JSON file for all that was found. Raises ConfsegError where there is no such data set or split.
    """
    if output is not None and Path(output).is_dir():
        raise ConfsegError(f"--output {output} is a folder; give the name of a JSON file")
    problems = Problems()
    with messages():
        settings, root, source = _locate(config_path, data_root)
        used = (settings.data.train_split, settings.data.val_split)
        names = splits or used
        datasets = {name: open_dataset(settings.data.name, root, name, problems.listener(name)) for name in names}
        if used[0] != used[1] and set(used) <= set(names):
            check_disjoint(datasets[used[0]], datasets[used[1]], problems.listener(used[0]))
        seen: Dict[bytes, List[Tuple[str, int]]] = {}
        counts = [_read(dataset, problems, seen, workers or usable_cores()) for dataset in datasets.values()]
    _note_repeated(datasets, seen, problems)
    print(f"{datasets[names[0]].name}, {root}\n\n{_split_table(counts).plain()}\n\n{_class_table(counts).plain()}")
    for line in problems.lines():
        print(line)
    print(f"\n{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'} found")
    if output is not None:
        write_json(output, _record(root, source, counts, problems))
    return len(problems) == 0


def _locate(path: Path, data_root: Optional[PathLike]) -> Tuple[config.Config, Path, str]:
    """The settings that `confseg run` would use, the data set's root, and where that came from."""
    settings = config.load(path)
    root, source = find_root(settings.data.name, data_root)
    if root is None:
        if settings.without_data:
            settings = config.load(path.parent / settings.without_data)
        _log.warning(built_in_notice(settings))
        root = built_in_root(settings)
    return settings, root, source


def _read(
    dataset: SegmentationDataset, problems: Problems, seen: Dict[bytes, List[Tuple[str, int]]], workers: int
) -> SplitCounts:
    """Read a split; `seen` gains the images' digests."""
    counts = SplitCounts(dataset.split, dataset.labels, len(dataset))
    examine = functools.partial(_examine, dataset, _row_of_id(dataset))
    readings = in_order(examine, range(len(dataset)), workers, 2 * workers)
    with bar(len(dataset), f"checking {dataset.split}", "image") as progress, contextlib.closing(readings):
        for index, reading in enumerate(readings):
            for kind, what, text in reading.problems:
                problems.add(kind, dataset.split, what, text)
            if reading.digest is not None:
                seen.setdefault(reading.digest, []).append((dataset.split, index))
                counts.sizes[reading.size] += 1
            if reading.pixels is not None:
                counts.labels_read += 1
                counts.pixels += reading.pixels
                counts.images_with += reading.pixels > 0
            progress.update()
    _note_absent(counts, problems)
    return counts


def _row_of_id(dataset: SegmentationDataset) -> np.ndarray:
    """int64 (256,): the row of SplitCounts that a stored id belongs to."""
    ignore = dataset.labels.num_classes
    rows = np.full(256, ignore + 1)
    for raw, train in dataset.stored.raw_ids.items():
        rows[raw] = ignore if train == IGNORE_LABEL else train
    return rows


def _examine(dataset: SegmentationDataset, row_of_id: np.ndarray, index: int) -> _Reading:
    path, label = dataset.image_path(index), dataset.label_path(index)
    digest = size = pixels = None
    problems = []
    try:
        data = read_bytes(path)
        height, width = decode_image(path, data).shape[:2]
        digest, size = hashlib.sha256(data).digest(), (width, height)
    except ConfsegError as error:
        problems.append((UNREADABLE, str(path), str(error)))
    try:
        raw = dataset.read_raw_label(label) if label is not None else None
    except ConfsegError as error:
        problems.append((UNREADABLE, str(label), str(error)))
        raw = None
    if raw is not None:
        if size not in (None, raw.shape[::-1]):
            sizes = [_size(each) for each in (raw.shape[::-1], size)]
            problems.append((OTHER_SIZE, str(label), f"{label} is {sizes[0]}, {path} {sizes[1]}"))
        pixels, found = _count(raw, row_of_id, dataset.labels.num_classes, label)
        problems += found
    return _Reading(digest, size, pixels, problems)


def _count(
    raw: np.ndarray, row_of_id: np.ndarray, num_classes: int, path: Path
) -> Tuple[np.ndarray, List[Tuple[str, str, str]]]:
    """A label's pixels as in SplitCounts, and what is wrong with its ids."""
    of_id = np.bincount(raw.ravel(), minlength=256)
    pixels = np.zeros(num_classes + 2, np.int64)
    np.add.at(pixels, row_of_id, of_id)
    if pixels[-1]:
        ids = ", ".join(map(str, np.flatnonzero((of_id > 0) & (row_of_id == num_classes + 1))))
        return pixels, [(UNKNOWN_IDS, str(path), f"{path}: {ids}")]
    return pixels, [] if pixels[:num_classes].any() else [(ALL_IGNORE, str(path), "")]


def _note_absent(counts: SplitCounts, problems: Problems) -> None:
    classes = counts.labels.classes
    absent = [name for name, pixels in zip(classes, counts.pixels) if pixels == 0] if counts.labels_read else []
    if len(absent) == len(classes):
        absent = [f"all {len(classes)}"]
    for name in absent:
        problems.add(ABSENT, counts.split, name)


def _note_repeated(
    datasets: Dict[str, SegmentationDataset], seen: Dict[bytes, List[Tuple[str, int]]], problems: Problems
) -> None:
    for places in seen.values():
        if len(places) > 1:
            splits = list(dict.fromkeys(split for split, _ in places))
            files = " = ".join(str(datasets[split].image_path(index)) for split, index in places)
            problems.add(WITHIN if len(splits) == 1 else BETWEEN, " and ".join(splits), files)


def _size(size: Sequence[int]) -> str:
    """Width x height."""
    return "x".join(map(str, size))


def _split_table(counts: Sequence[SplitCounts]) -> Table:
    rows = []
    for each in counts:
        common = [f"{_size(size)} ({number})" for size, number in each.sizes.most_common(_SIZES)]
        more = [f"{len(each.sizes) - _SIZES} more"] if len(each.sizes) > _SIZES else []
        rows.append((each.split, str(each.images), str(each.labels_read), ", ".join(common + more) or NONE))
    return Table("splits", ("split", "images", "labels read", "sizes (images of it)"), rows)


def _class_table(counts: Sequence[SplitCounts]) -> Table:
    """Pixels, their share of all pixels, and images of each class."""
    headers = ["class", *(f"{each.split} {what}" for each in counts for what in ("pixels", "%", "images"))]
    rows = []
    for row, name in enumerate(counts[0].rows):
        if name == UNKNOWN_ROW and not any(each.pixels[row] for each in counts):
            continue
        cells = [name]
        for each in counts:
            share = f"{100 * each.pixels[row] / each.pixels.sum():.2f}" if each.pixels.any() else NONE
            cells += [f"{each.pixels[row]:,}", share, str(each.images_with[row])]
        rows.append(cells)
    return Table("classes", headers, rows)


def _record(root: Path, source: str, counts: Sequence[SplitCounts], problems: Problems) -> Dict[str, Any]:
    """All that was found, for JSON."""
    splits = {}
    for each in counts:
        splits[each.split] = {
            "images": each.images,
            "labels_read": each.labels_read,
            "sizes": {_size(size): number for size, number in each.sizes.most_common()},
            "classes": {
                name: {"pixels": int(pixels), "images": int(images)}
                for name, pixels, images in zip(each.rows, each.pixels, each.images_with)
            },
        }
    found = {kind: [problem._asdict() for problem in each.values()] for kind, each in problems.by_kind.items()}
    dataset = {"name": counts[0].labels.name, "root": str(root), "source": source}
    return {"dataset": dataset, "splits": splits, "clean": not found, "problems": found}
