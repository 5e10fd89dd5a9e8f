"""Videos through a network: the classes' colours over every frame, with a bounded number of frames in memory."""

import contextlib
import logging
import math
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from . import figures, progress
from .errors import ConfsegError
from .files import PathLike, atomic_path, write_json
from .inference import Predictor, label_all
from .labels import LabelSet

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
# how files of these suffixes begin (MP4 and MOV, AVI, Matroska and WebM, MPEG, MPEG-TS)
_STARTS = re.compile(rb"....(ftyp|moov|mdat|free|skip|wide)|RIFF....AVI |\x1aE\xdf\xa3|\0\0\1|G", re.DOTALL)
_COUNTING = (".mp4", ".m4v", ".mov", ".avi")  # their headers count frames; another's number comes from its duration
_CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))  # MPEG-4 part 2; and what OpenCV writes where it has no FFmpeg
_DEFAULT_RATE = 25.0  # frames per second, where the header has none

OnFrame = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Clip:
    """A video that can be read: its file; height and width; frames per second; the header's number of frames, or None.

    Frames are turned as the header says. `name` is the file's without its suffix.
    """

    path: Path
    size: Tuple[int, int]
    rate: float
    announced: Optional[int]

    @property
    def name(self) -> str:
        return self.path.stem


def is_video(path: PathLike) -> bool:
    """By the suffix of its name."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and not Path(path).is_dir()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither OpenCV nor FFmpeg writes to the terminal: what went wrong is said once, by us."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)


@_quiet()
def find_clips(paths: Sequence[PathLike]) -> List[Clip]:
    """The videos' headers. ConfsegError for one that is not there or has no readable frame, and for two of a name."""
    clips = [_open_clip(Path(path)) for path in paths]
    for number, clip in enumerate(clips):
        for other in clips[:number]:
            if other.name == clip.name:
                raise ConfsegError(
                    f"{other.path} and {clip.path} would both be written as {clip.name}; "
                    "predict them into different --output folders"
                )
    return clips


def _open_clip(path: Path) -> Clip:
    if not path.is_file():
        raise ConfsegError(f"no video file {path}; its suffix is a video's, give the file's right name")
    unreadable = ConfsegError(f"{path}: no frame can be read, it is no video, or damaged; convert it or get it again")
    if not _STARTS.match(_start(path)):
        raise unreadable  # FFmpeg would follow a playlist to the files that it names
    with _capture(path) as capture:
        there, frame = capture.read()
        if not there:
            raise unreadable
        rate, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = rate if math.isfinite(rate) and rate > 0 else _DEFAULT_RATE
    return Clip(path, frame.shape[:2], rate, int(announced) if 0 < announced < 2**31 else None)


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read(12)
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    # the others that OpenCV would try after FFmpeg read nothing more, and some print
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends() else cv2.CAP_ANY
    capture = cv2.VideoCapture(str(path.resolve()), backend)
    try:
        yield capture
    finally:
        capture.release()


@_quiet()
def predict_clip(
    clip: Clip,
    folder: Path,
    predictors: Sequence[Predictor],
    key: str,
    labels: LabelSet,
    *,
    made_from: str,
    on_frame: OnFrame,
) -> bool:
    """Write folder/NAME.mp4, every frame with the classes' colours of view `key` over it; returns whether it is whole.

    The video is MPEG-4 part 2 (mp4v), or, where OpenCV cannot write it, Motion JPEG in an .avi; a side of odd length is
    made even by repeating the last row or column. folder/NAME.json says what it was made from. `on_frame` is called
    with each frame's number and label map (train ids, uint8). Of a video that ends before the frame that its header
    announces, what there is is written, and a line says so. Raises ConfsegError where the video cannot be written.
    """
    codec, suffix = _codec(clip)
    target, started, written = folder / f"{clip.name}{suffix}", time.monotonic(), 0
    with progress.bar(clip.announced, clip.name, "frame") as bar, atomic_path(target) as temporary:
        with contextlib.closing(_frames(clip)) as frames, _writer(temporary, codec, clip) as write:
            for number, frame, found in label_all(predictors, frames):
                write(figures.overlay(frame, found[key], labels))
                on_frame(number, found[key])
                written += 1
                bar.update()
        _check_written(temporary, target, written)
    whole = not _ends_early(clip, written)
    record = {"whole": whole, "frames": written, "announced": clip.announced, "rate": clip.rate, "codec": codec}
    write_json(folder / f"{clip.name}.json", {"format": 1, "video": target.name, "made_from": made_from, **record})
    elapsed = time.monotonic() - started
    print(f"{written} frames written in {elapsed:.1f} s ({written / elapsed:.2f} frames/s): {target} ({codec})")
    if not whole:
        _log.error(
            "%s ends early: its header announces %d frames, %d could be read, and are written; get the file again",
            *(clip.path, clip.announced, written),
        )
    return whole


def _frames(clip: Clip) -> Iterator[Tuple[int, np.ndarray]]:
    """(number, RGB uint8 (H, W, 3)), up to the first that cannot be decoded or has another size."""
    with _capture(clip.path) as capture:
        number = 0
        while True:
            there, frame = capture.read()
            if not there or frame.shape[:2] != clip.size:
                return
            yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1


def _ends_early(clip: Clip, frames: int) -> bool:
    exact = clip.path.suffix.lower() in _COUNTING
    return clip.announced is not None and frames < clip.announced - (0 if exact else clip.rate)


def _even(size: Tuple[int, int]) -> Tuple[int, int]:
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def _open_writer(path: Path, codec: str, clip: Clip) -> cv2.VideoWriter:
    height, width = _even(clip.size)
    return cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), clip.rate, (width, height))


def _codec(clip: Clip) -> Tuple[str, str]:
    """The first of _CODECS that OpenCV can write frames of this size and rate with."""
    with tempfile.TemporaryDirectory() as folder:
        for codec, suffix in _CODECS:
            writer = _open_writer(Path(folder) / f"probe{suffix}", codec, clip)
            usable = writer.isOpened()
            writer.release()
            if usable:
                return codec, suffix
    height, width = clip.size
    raise ConfsegError(
        f"{clip.path}: OpenCV cannot write a video of {height}x{width} at {clip.rate:g} frames/s; predict its frames"
    )


@contextlib.contextmanager
def _writer(path: Path, codec: str, clip: Clip) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame, RGB uint8 (H, W, 3)."""
    (height, width), (even_height, even_width) = clip.size, _even(clip.size)
    border = (0, even_height - height, 0, even_width - width)
    writer = _open_writer(path, codec, clip)
    try:
        yield lambda frame: writer.write(
            cv2.copyMakeBorder(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), *border, cv2.BORDER_REPLICATE)
        )
    finally:
        writer.release()


def _check_written(temporary: Path, target: Path, frames: int) -> None:
    """OpenCV says nothing where a frame does not reach the disk."""
    with _capture(temporary) as capture:
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    if found != frames:
        raise ConfsegError(
            f"cannot write {target}: {found} of {frames} frames arrived; free space or choose another folder"
        )
