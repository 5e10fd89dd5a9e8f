"""`confseg predict`: label maps of images, folders of images and videos, by a finished run's network."""

import contextlib
import hashlib
import logging
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import figures, progress
from .backend import mx
from .building import find_cell
from .data.base import DAMAGE, IMAGE_SUFFIXES, read_image
from .data.loader import EvalLoader
from .errors import ConfsegError
from .files import PathLike, atomic_path, read_json
from .inference import Predictor, label_all
from .labels import IGNORE_LABEL, LabelSet
from .run import open_run
from .using import cell_predictors, check_folder, make_manner, network_digest
from .video import Clip, find_clips, is_video, predict_clip

_log = logging.getLogger(__name__)

KINDS = ("labels", "raw", "overlays")  # the folders below the output
VIDEOS = "videos"  # the folder of their overlays
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
    writing: float = 0.0

    @contextlib.contextmanager
    def add(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        setattr(self, part, getattr(self, part) + time.monotonic() - started)


def predict(
    folder: PathLike,
    inputs: Sequence[PathLike],
    *,
    devices: List[mx.Context],
    cell: Optional[str] = None,
    output: Optional[PathLike] = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: Optional[Tuple[int, int]] = None,
    frames: bool = False,
) -> int:
    """Label maps of images, folders of images and videos; returns how many of them could not be read to their end.

    Written below `output` (default: predictions/CELL in the run's folder), per image, under its path below the input
    folder: labels/NAME.png (train ids, palette), raw/NAME.png (the data set's own ids), overlays/NAME.png. Per video,
    which is given as a file: videos/NAME.mp4, the overlays, and with `frames` labels/NAME/000000.png and so on. What an
    earlier call has written from the same file and network is skipped. `cell` defaults to the paper's last one.
    Raises ConfsegError for the user's mistakes, before anything is written where they can be seen by then.
    """
    with progress.messages():
        run = open_run(folder, devices)
        chosen = find_cell(run, cell)
        output = Path(output) if output else run.folder / "predictions" / chosen.key
        clips = find_clips([path for path in inputs if is_video(path)])
        pictures = [path for path in inputs if not is_video(path)]
        sources = find_images(pictures, skip=[output / kind for kind in (*KINDS, VIDEOS)])
        _check_places(output, sources, clips)
        manner = make_manner(run, scales, flip, window)
        writer = _Writer(output, run.labels, network_digest(run, [chosen], manner), frames)
        todo = [source for source in sources if not writer.has(source)]
        clips_todo = [clip for clip in clips if not writer.has_clip(clip)]
        _log.info("%s: %s go to %s", chosen.title, _number(sources, clips), output)
        if len(todo) + len(clips_todo) < len(sources) + len(clips):
            _log.info("%d of them were written before, skipped", len(sources + clips) - len(todo + clips_todo))
        if not todo and not clips_todo:
            return 0
        predictors = cell_predictors(run, [chosen], manner)
        failed = _predict_all(todo, predictors, chosen.key, writer, run.config.data.workers) if todo else 0
        return failed + sum(not _predict_clip(clip, predictors, chosen.key, writer) for clip in clips_todo)


def _number(sources: Sequence[Source], clips: Sequence[Clip]) -> str:
    counts = ((len(sources), "images"), (len(clips), "videos"))
    return " and ".join(f"{count} {what}" for count, what in counts if count)


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


def _check_places(output: Path, sources: Sequence[Source], clips: Sequence[Clip]) -> None:
    """Make the output folders; ConfsegError where they cannot be written to, or a link in them leads elsewhere.

    And where a result would take an input's place, or an image's that of a video's frames.
    """
    home = output.resolve()
    parents = {output / kind / PurePosixPath(source.name).parent for kind in KINDS for source in sources}
    for clip in clips:
        parents |= {output / VIDEOS, output / "labels" / clip.name}
        inside = [source for source in sources if clip.name in map(str, PurePosixPath(source.name).parents)]
        if inside:
            raise ConfsegError(f"{inside[0].path} and {clip.path} would both be written to {clip.name}; rename one")
    for parent in sorted(parents):
        if home not in parent.resolve().parents:
            raise ConfsegError(f"{parent} leads out of {output}; remove the link, or choose another --output")
    for path in [source.path for source in sources] + [clip.path for clip in clips]:
        if path.resolve().parent in {parent.resolve() for parent in parents}:
            raise ConfsegError(f"{path} is where results go; choose another --output")
    for kind in (*(KINDS if sources else ()), *((VIDEOS,) if clips else ())):
        check_folder(output / kind)


class _Writer:
    """Writes the three pictures of an image; the label map last, with what it was made from in its PNG text.

    `frames`: whether a video's label maps are wanted.
    """

    def __init__(self, output: Path, labels: LabelSet, network: str, frames: bool):
        self.output, self.labels, self.frames, self._network = output, labels, frames, network
        self._raw = raw_table(labels)
        self._palette = labels.colorize(np.arange(256, dtype=np.uint8)).ravel().tolist()

    def has(self, source: Source) -> bool:
        """Whether all three are there, made by this network from this image."""
        try:
            with Image.open(self._path("labels", source)) as image:
                token = image.info.get(_TOKEN)
            return token == self._token(source) and all(self._path(kind, source).is_file() for kind in KINDS)
        except DAMAGE:  # absent, or something else of that name
            return False

    def __call__(self, source: Source, image: np.ndarray, label: np.ndarray) -> None:
        """`label`: train ids, uint8 (H, W)."""
        self._save("overlays", source, Image.fromarray(figures.overlay(image, label, self.labels)))
        self._save("raw", source, Image.fromarray(self._raw[label]))
        self._save_label(source, label)

    def has_clip(self, clip: Clip) -> bool:
        """Whether its overlay, to the end, and the label maps that are wanted are there, made by this network."""
        try:
            record = read_json(self.output / VIDEOS / f"{clip.name}.json")
            same = record["made_from"] == self.made_from(clip) and record["whole"]
            frames = range(record["frames"] if self.frames else 0)
            there = (self._path("labels", _frame(clip, n)).is_file() for n in frames)
            return same and (self.output / VIDEOS / record["video"]).is_file() and all(there)
        except (ConfsegError, KeyError, TypeError, OverflowError):  # absent, or something else of that name
            return False

    def made_from(self, clip: Clip) -> str:
        return self._token(Source(clip.name, clip.path))

    def on_frame(self, clip: Clip, number: int, label: np.ndarray) -> None:
        """`label`: train ids, uint8 (H, W)."""
        if self.frames:
            self._save_label(_frame(clip, number), label)

    def _save_label(self, source: Source, label: np.ndarray) -> None:
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
        return self.output / kind / f"{source.name}.png"

    def _token(self, source: Source) -> str:
        stat = source.path.stat()
        return hashlib.sha256(f"{self._network} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()


def _frame(clip: Clip, number: int) -> Source:
    return Source(f"{clip.name}/{number:06d}", clip.path)


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
    writing: Deque[Future[None]] = deque()

    def read() -> Iterator[Tuple[int, np.ndarray]]:
        with contextlib.closing(iter(EvalLoader(pictures, workers))) as loaded:
            while True:
                with seconds.add("reading"):
                    index, image, _ = next(loaded, (None, None, None))
                if index is None:
                    return
                if image is None:
                    bar.update()
                else:
                    yield index, image

    with ThreadPoolExecutor(workers, "confseg-write") as pool, progress.bar(len(sources), "predict", "image") as bar:
        with contextlib.closing(read()) as images:
            for index, image, labels in label_all(predictors, images):
                writing.append(pool.submit(writer, sources[index], image, labels[key]))
                with seconds.add("writing"):
                    while len(writing) > workers:
                        writing.popleft().result()
                bar.update()
        with seconds.add("writing"):
            while writing:
                writing.popleft().result()
    _report(len(sources), pictures.problems, time.monotonic() - started, seconds)
    return len(pictures.problems)


def _predict_clip(clip: Clip, predictors: List[Predictor], key: str, writer: _Writer) -> bool:
    def on_frame(number: int, label: np.ndarray) -> None:
        writer.on_frame(clip, number, label)

    folder, made_from = writer.output / VIDEOS, writer.made_from(clip)
    return predict_clip(clip, folder, predictors, key, writer.labels, made_from=made_from, on_frame=on_frame)


def _report(total: int, problems: Dict[int, str], elapsed: float, seconds: _Seconds) -> None:
    written = total - len(problems)
    print(
        f"{written} images written in {elapsed:.1f} s ({written / elapsed:.2f} images/s); waited for the network "
        f"{elapsed - seconds.reading - seconds.writing:.1f} s, for reading {seconds.reading:.1f} s, "
        f"for writing {seconds.writing:.1f} s"
    )
    if problems:
        _log.error("%d of %d images could not be read:", len(problems), total)
        for _, problem in sorted(problems.items())[:_FIRST]:
            _log.error("  %s", problem)
        if len(problems) > _FIRST:
            _log.error("  and %d more", len(problems) - _FIRST)
