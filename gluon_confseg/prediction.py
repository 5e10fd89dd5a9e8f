"""A finished run's networks on images: label maps of files and folders, and the counts of a labelled split."""

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tabulate import tabulate

from . import __version__, evaluation, figures, progress
from .backend import mx
from .building import find_cell, label_table, make_predictors, make_view, needed_heads
from .config import Cell
from .confusion import ConfusionMatrix
from .data import SegmentationDataset, find_root, open_dataset
from .data.base import IMAGE_SUFFIXES, read_image
from .data.loader import EvalLoader
from .errors import ConfsegError
from .files import PathLike, atomic_path, read_json, write_json
from .inference import Predictor
from .labels import IGNORE_LABEL, LabelSet
from .pipeline import built_in_notice, built_in_root
from .run import CONFUSION_FILE, RESULTS_FILE, TrainedRun, manifest_path, open_run, read_groups

_log = logging.getLogger(__name__)

KINDS = ("labels", "raw", "overlays")  # the folders below the output
SCALE_RANGE = (0.1, 8.0)  # beyond it there is a slip of the pen rather than a network that sees anything
_TOKEN = "confseg"  # the PNG text that says which network and image a label map was made from
_FIRST = 5  # unreadable images that are named


@dataclass(frozen=True)
class Source:
    """An image to predict: its file, and its name below the output folders, without suffix."""

    name: str
    path: Path


@dataclass
class _Seconds:
    """What the main thread waited for."""

    reading: float = 0.0
    network: float = 0.0
    writing: float = 0.0

    @contextlib.contextmanager
    def add(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        setattr(self, part, getattr(self, part) + time.monotonic() - started)


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


def predict(
    folder: PathLike,
    inputs: Sequence[PathLike],
    *,
    devices: List[mx.Context],
    cell: Optional[str] = None,
    output: Optional[PathLike] = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> int:
    """Label maps of images and folders of images; returns how many images could not be read.

    Written below `output` (default: predictions/CELL in the run's folder), per image, under its path below the input
    folder: labels/NAME.png (train ids, palette), raw/NAME.png (the data set's own ids), overlays/NAME.png. What an
    earlier call has written from the same image and network is skipped. `cell` defaults to the paper's last one.
    Raises ConfsegError for the user's mistakes, before anything is written where they can be seen by then.
    """
    with _messages():
        run = open_run(folder, devices)
        chosen = find_cell(run, cell)
        output = Path(output) if output else run.folder / "predictions" / chosen.key
        sources = find_images(inputs, skip=[output / kind for kind in KINDS])
        _check_places(output, sources)
        flip = flip or run.config.evaluation.flip
        writer = _Writer(output, run.labels, _network_digest(run, chosen, scales, flip))
        todo = [source for source in sources if not writer.has(source)]
        _log.info("%s: %d images go to %s", chosen.title, len(sources), output)
        if len(todo) < len(sources):
            _log.info("%d of them were written before, skipped", len(sources) - len(todo))
        if not todo:
            return 0
        predictors = _predictors(run, [chosen], scales, flip)
        return _predict_all(todo, predictors, chosen.key, writer, run.config.data.workers)


def evaluate_run(
    folder: PathLike,
    *,
    devices: List[mx.Context],
    data_root: Optional[PathLike] = None,
    split: Optional[str] = None,
    cells: Sequence[str] = (),
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    output: Optional[PathLike] = None,
) -> Dict[str, ConfusionMatrix]:
    """Print mean and per-class IoU of a run's cells (default: all) on a labelled split; returns their counts.

    `split` defaults to the run's validation split. With `output`, counts and what they were counted on are written
    there (JSON); otherwise nothing is written. Raises ConfsegError for the user's mistakes.
    """
    with _messages():
        run = open_run(folder, devices)
        chosen = [find_cell(run, key) for key in dict.fromkeys(cells)] or list(run.config.cells)
        if output is not None:
            _check_file(Path(output))
        dataset, source = open_split(run, data_root, split or run.config.data.val_split)
        flip = flip or run.config.evaluation.flip
        tables = {cell.key: label_table(np.arange(run.num_classes)) for cell in chosen}
        predictors = _predictors(run, chosen, scales, flip)
        counted = evaluation.evaluate(dataset, predictors, tables, workers=run.config.data.workers, title="evaluate")
        if not any(matrix.counts.any() for matrix in counted.values()):
            raise ConfsegError(f"{dataset.name} {dataset.split}: no pixel is labelled; choose another --split")
        if output is not None:
            write_json(output, _record(run, dataset, source, counted, scales, flip))
        print(f"{dataset.name} {dataset.split}, {len(dataset)} images (data root: {source}), {_manner(scales, flip)}\n")
        print(_tables(run, chosen, counted))
        if source == "built-in":
            _log.warning(built_in_notice(run.config))
        return counted


def find_images(inputs: Sequence[PathLike], *, skip: Sequence[Path] = ()) -> List[Source]:
    """The images that files and folders (PNG and JPEG below them, not hidden, in sorted order) stand for.

    Folders of `skip` are passed over. A linked folder inside an input is not followed. Raises ConfsegError for an input
    that is not there, a folder without images, and two images whose results would have the same path.
    """
    skipped = {path.resolve() for path in skip}
    found: Dict[str, Source] = {}
    for path in map(Path, inputs):
        if not path.is_dir() and not path.is_file():
            raise ConfsegError(f"no image file or folder {path}; give PNG or JPEG files, or folders of them")
        sources = _walk(path, skipped) if path.is_dir() else [Source(path.stem, path)]
        if not sources:
            raise ConfsegError(f"no image found in {path}; give a folder that holds {', '.join(IMAGE_SUFFIXES)} files")
        for source in sources:
            if source.name in found:
                raise ConfsegError(
                    f"{found[source.name].path} and {source.path} would both be written as {source.name}.png; "
                    "predict them into different --output folders"
                )
            found[source.name] = source
    for name in found:
        for parent in map(str, PurePosixPath(name).parents):
            if parent.endswith(".png") and parent[: -len(".png")] in found:
                raise ConfsegError(f"{parent} would be the result of an image and the folder of {name}; rename one")
    return list(found.values())


def _walk(top: Path, skipped: Set[Path]) -> List[Source]:
    def refuse(error: OSError) -> None:
        raise ConfsegError(f"cannot list {error.filename}: {error.strerror}") from error

    sources = []
    for folder, folders, names in os.walk(top, onerror=refuse):
        folders[:] = sorted(name for name in folders if (Path(folder) / name).resolve() not in skipped)
        paths = [Path(folder) / name for name in names if not name.startswith(".")]
        for path in paths:
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                sources.append(Source(path.relative_to(top).with_suffix("").as_posix(), path))
    return sorted(sources, key=lambda source: source.path)


def _check_places(output: Path, sources: Sequence[Source]) -> None:
    """Make the output folders; ConfsegError where they cannot be written to, or a link in them leads elsewhere."""
    home = output.resolve()
    parents = {output / kind / PurePosixPath(source.name).parent for kind in KINDS for source in sources}
    for parent in sorted(parents):
        if home not in parent.resolve().parents:
            raise ConfsegError(f"{parent} leads out of {output}; remove the link, or choose another --output")
    for kind in KINDS:
        _check_folder(output / kind)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfsegError(f"cannot write to {folder}: {error.strerror or error}; choose another --output") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfsegError(f"--output {path} is a folder; give the name of a JSON file")
    _check_folder(path.parent)


def _predictors(run: TrainedRun, cells: List[Cell], scales: Sequence[float], flip: bool) -> List[Predictor]:
    found = read_groups(run)
    matrix = ConfusionMatrix.load(run.folder / CONFUSION_FILE)
    frequency = matrix.counts.sum(axis=1) / matrix.counts.sum()
    made = make_predictors(
        run,
        needed_heads(tuple(cells), len(found)),
        found,
        lambda: {cell.key: make_view(cell, found, run.num_classes, frequency) for cell in cells},
    )
    return [predictor.augmented(scales=scales, flip=flip) for predictor in made]


def _network_digest(run: TrainedRun, cell: Cell, scales: Sequence[float], flip: bool) -> str:
    """What label maps depend on besides the image: the same for the same networks, used in the same way."""
    stages = [read_json(manifest_path(run.folder, stage)) for stage in ("baseline", "confusion", "groups", "subnets")]
    used = {
        "version": __version__,
        "files": [stage["outputs"] for stage in stages],
        "cell": cell.model_dump(exclude={"title", "role"}),
        "scales": list(scales),
        "flip": flip,
        "scale": run.config.data.scale,
        "augment": run.config.augment.model_dump(include={"mean", "std"}),
        "labels": repr((run.labels, sorted(run.labels.raw_ids.items()))),
    }
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


class _Writer:
    """Writes the three pictures of an image; the label map last, with what it was made from in its PNG text."""

    def __init__(self, output: Path, labels: LabelSet, network: str):
        self._output, self._labels, self._network = output, labels, network
        self._raw = raw_table(labels)
        self._palette = labels.colorize(np.arange(256, dtype=np.uint8)).ravel().tolist()

    def has(self, source: Source) -> bool:
        """Whether all three are there, made by this network from this image."""
        try:
            with Image.open(self._path("labels", source)) as image:
                token = image.info.get(_TOKEN)
            return token == self._token(source) and all(self._path(kind, source).is_file() for kind in KINDS)
        except (OSError, SyntaxError, ValueError):  # absent, or something else of that name
            return False

    def __call__(self, source: Source, image: np.ndarray, label: np.ndarray) -> None:
        """`label`: train ids, uint8 (H, W)."""
        self._save("overlays", source, Image.fromarray(figures.overlay(image, label, self._labels)))
        self._save("raw", source, Image.fromarray(self._raw[label]))
        text = PngInfo()
        text.add_text(_TOKEN, self._token(source))
        picture = Image.fromarray(label)
        picture.putpalette(self._palette)
        self._save("labels", source, picture, pnginfo=text)

    def _save(self, kind: str, source: Source, picture: Image.Image, **options) -> None:
        with atomic_path(self._path(kind, source)) as temporary:
            # level 1: the pictures are large and flat, more effort gains little
            picture.save(temporary, format="PNG", compress_level=1, **options)

    def _path(self, kind: str, source: Source) -> Path:
        return self._output / kind / f"{source.name}.png"

    def _token(self, source: Source) -> str:
        stat = source.path.stat()
        return hashlib.sha256(f"{self._network} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()


def raw_table(labels: LabelSet) -> np.ndarray:
    """uint8 (256,): a train id's id in the data set's files, the smallest where there are several; 255 where none."""
    table = np.full(256, IGNORE_LABEL, np.uint8)
    for raw, train in sorted(labels.raw_ids.items(), reverse=True):
        if train != IGNORE_LABEL:
            table[train] = raw
    return table


@dataclass
class _Pictures:
    """The images as `EvalLoader` reads a data set's; one that cannot be read is None, and why is kept by index."""

    sources: Sequence[Source]
    problems: Dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sources)

    def image(self, index: int) -> Optional[np.ndarray]:
        try:
            return read_image(self.sources[index].path)
        except ConfsegError as error:
            self.problems[index] = str(error)
            return None

    def label(self, index: int) -> None:
        return None


def _predict_all(sources: List[Source], predictors: List[Predictor], key: str, writer: _Writer, workers: int) -> int:
    """Read, label and write all of them, with a bounded number of images in memory; reports; the number of failures."""
    pictures, seconds, started = _Pictures(sources), _Seconds(), time.monotonic()
    running: Deque[Tuple[int, np.ndarray, mx.nd.NDArray]] = deque()  # one image in flight per device
    writing: Deque[Future[None]] = deque()

    def finish() -> None:
        index, image, launched = running.popleft()
        with seconds.add("network"):
            label = launched.asnumpy()
        writing.append(pool.submit(writer, sources[index], image, label))
        with seconds.add("writing"):
            while len(writing) > workers:
                writing.popleft().result()
        bar.update()

    with ThreadPoolExecutor(workers, "confseg-write") as pool, progress.bar(len(sources), "predict", "image") as bar:
        loaded = iter(EvalLoader(pictures, workers))
        with contextlib.closing(loaded):
            while True:
                with seconds.add("reading"):
                    index, image, _ = next(loaded, (None, None, None))
                if index is None:
                    break
                if image is None:
                    bar.update()
                    continue
                with seconds.add("network"):
                    running.append((index, image, predictors[index % len(predictors)].launch(image)[key]))
                if len(running) >= len(predictors):
                    finish()
        while running:
            finish()
        with seconds.add("writing"):
            while writing:
                writing.popleft().result()
    _report(len(sources), pictures.problems, time.monotonic() - started, seconds)
    return len(pictures.problems)


def _report(total: int, problems: Dict[int, str], elapsed: float, seconds: _Seconds) -> None:
    written = total - len(problems)
    print(
        f"{written} images written in {elapsed:.1f} s ({written / elapsed:.2f} images/s); waited for the network "
        f"{seconds.network:.1f} s, for reading {seconds.reading:.1f} s, for writing {seconds.writing:.1f} s"
    )
    if problems:
        _log.error("%d of %d images could not be read:", len(problems), total)
        for _, problem in sorted(problems.items())[:_FIRST]:
            _log.error("  %s", problem)
        if len(problems) > _FIRST:
            _log.error("  and %d more", len(problems) - _FIRST)


def open_split(run: TrainedRun, data_root: Optional[PathLike], split: str) -> Tuple[SegmentationDataset, str]:
    """A labelled split of a run's data set, and where its root came from (see data.find_root).

    Raises ConfsegError where it cannot be found or opened, has no labels or other classes than the run.
    """
    settings = run.config
    root, source = find_root(settings.data.name, data_root)
    if root is None:
        results = run.folder / RESULTS_FILE
        if results.is_file() and read_json(results)["dataset"]["source"] != "built-in":
            raise ConfsegError(f"{run.folder} was trained on a data set of yours; say where it is with --data-root")
        root = built_in_root(settings)
    dataset = open_dataset(settings.data.name, root, split)
    if not dataset.has_labels:
        raise ConfsegError(f"{dataset.name}: the split {split!r} has no labels; choose another one")
    if dataset.labels.classes != run.labels.classes:
        raise ConfsegError(
            f"{root}: its classes are not those that {run.folder} was trained on; give another --data-root"
        )
    return dataset, source


def _manner(scales: Sequence[float], flip: bool) -> str:
    return f"scales {', '.join(f'{scale:g}' for scale in scales)}, {'with' if flip else 'without'} flip"


def _record(
    run: TrainedRun,
    dataset: SegmentationDataset,
    source: str,
    counted: Dict[str, ConfusionMatrix],
    scales: Sequence[float],
    flip: bool,
) -> dict:
    images = {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
    cells = {key: {"miou": matrix.mean_iou(), "counts": matrix.counts.tolist()} for key, matrix in counted.items()}
    return {
        "format": 1,
        "name": run.config.name,
        "seed": run.config.seed,
        "dataset": {"name": dataset.name, "source": source, **images},
        "scales": list(scales),
        "flip": flip,
        "classes": list(run.labels.classes),
        "cells": cells,
    }


def _tables(run: TrainedRun, cells: List[Cell], counted: Dict[str, ConfusionMatrix]) -> str:
    """The cells' scores, and IoU % per class, in label order; "-" for a class neither in the truth nor predicted."""

    def percent(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.2f}"

    matrices = [counted[cell.key] for cell in cells]
    scores = [
        [cell.key, cell.title, *map(percent, (matrix.mean_iou(), matrix.mean_recall(), matrix.pixel_accuracy()))]
        for cell, matrix in zip(cells, matrices)
    ]
    truth = matrices[0].counts.sum(axis=1)
    columns = [truth / truth.sum(), *(matrix.iou() for matrix in matrices)]
    rows = [[name, *map(percent, values)] for name, *values in zip(run.labels.classes, *columns)]
    rows.append(["mean", "", *(percent(matrix.mean_iou()) for matrix in matrices)])
    headers = ["cell", "title", "mIoU %", "mean recall %", "pixel acc. %"]
    return "\n\n".join(
        tabulate(
            table,
            names,
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["left"] * left + ["right"] * (len(names) - left),
        )
        for table, names, left in ((scores, headers, 2), (rows, ["class", "pixels %", *counted], 1))
    )


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """The package's messages go to the screen, above the progress bar."""
    logger, screen = logging.getLogger(__package__), progress.BarHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(screen)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(screen)
