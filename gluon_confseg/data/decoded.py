"""Decoded pairs of a data set: kept in memory, and in files that runs and processes share."""

import contextlib
import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from PIL import __version__ as pillow_version

from ..errors import ConfsegError
from ..files import read_npz, write_npz
from .base import SegmentationDataset

_log = logging.getLogger(__name__)

Pair = Tuple[np.ndarray, np.ndarray]

_VERSION = 1  # of the files' content
_RECOUNTED = 32  # writes between two looks at what the folder holds: other runs write there too
_OVERHEAD = 1024  # bytes of a file beside its pixels, rounded up


class DecodedFiles:
    """Decoded images and labels in `folder`, for any number of runs at a time; together at most `capacity` bytes.

    A file's name is the digest of what it was made from: the paths, sizes and times of the two files, the label's
    encoding, and the versions of decoder and format. It is written whole or not at all, and its checksum tells a
    damaged one, which is made again. Where room is wanted, files that nobody has used since this object was made go
    first, oldest first, but none of this data set's. A folder that cannot be written is said once, and no more is
    written.
    """

    def __init__(self, dataset: SegmentationDataset, folder: Path, capacity: int):
        self._folder, self._capacity = folder, capacity
        self._paths = [folder / f"{_key(dataset, index)}.npz" for index in range(len(dataset))]
        self._made = time.time()
        self._held = self._written = 0
        self._open = True
        self._lock = threading.Lock()

    def read(self, index: int) -> Optional[Pair]:
        """Image and label, or None."""
        path = self._paths[index]
        if not path.exists():
            return None
        try:
            arrays = read_npz(path)
            pair = arrays["image"], arrays["label"]
            if any(array.dtype != np.uint8 for array in pair) or pair[0].shape != (*pair[1].shape, 3):
                raise ConfsegError(f"{path} does not hold an image and its label")
            os.utime(path)
        except (ConfsegError, KeyError):
            _log.warning("%s is damaged; it is made again", path)
            self._remove(path)
            return None
        except OSError:  # of another user's folder, or removed meanwhile
            pass
        return pair

    def write(self, index: int, pair: Pair) -> None:
        """Keep a pair, where there is room."""
        size = sum(array.nbytes for array in pair) + _OVERHEAD
        with self._lock:
            if not self._open or not self._make_room(size):
                return
            self._held += size
        try:
            write_npz(self._paths[index], dict(zip(("image", "label"), pair)))
        except ConfsegError as error:
            with self._lock:
                said, self._open = not self._open, False
            if not said:
                _log.warning("decoded images are kept in files no longer: %s", error)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError), self._lock:  # another run was faster, or it is another user's
            path.unlink()
            self._written = 0  # so that the next write counts again

    def _make_room(self, size: int) -> bool:
        if self._written % _RECOUNTED == 0:
            self._held = sum(held for _, held, _ in self._entries())
        self._written += 1
        if self._held + size <= self._capacity:
            return True
        own = set(self._paths)
        for used, held, path in self._entries():
            if used < self._made and path not in own:
                with contextlib.suppress(OSError):  # another run was faster, or it is another user's
                    path.unlink()
                    self._held -= held
            if self._held + size <= self._capacity:
                return True
        return False

    def _entries(self) -> List[Tuple[float, int, Path]]:
        """(when it was last used, bytes, path) of what lies in the folder, oldest first, half-written files too."""
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
        except OSError:  # no folder yet, or another run removed a file: a later look counts again
            pass
        return sorted(found)


class Decoded:
    """Images and labels of a data set by index; safe among threads.

    They stay in memory until `capacity` bytes are used, and in `files`, where given. Of an image that neither keeps,
    only the rows that are asked for are decoded.
    """

    def __init__(self, dataset: SegmentationDataset, capacity: int, files: Optional[DecodedFiles] = None):
        self._dataset = dataset
        self._free = capacity
        self._files = files
        self._kept: Dict[int, Pair] = {}
        self._lock = threading.Lock()

    def size(self, index: int) -> Tuple[int, int]:
        """(height, width)."""
        kept = self._kept.get(index)
        return self._dataset.image_size(index) if kept is None else kept[1].shape

    def pair(self, index: int, rows: int) -> Pair:
        """Image, at least its first `rows` rows, and label."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        height, width = self.size(index)
        fits = 4 * height * width <= self._free
        if self._files is None and not fits:
            return self._dataset.image(index, rows), self._dataset.label(index)
        pair = self._files.read(index) if self._files else None
        if pair is None:
            pair = self._dataset.image(index), self._dataset.label(index)
            if self._files:
                self._files.write(index, pair)
        if fits:
            self._keep(index, pair)
        return pair

    def _keep(self, index: int, pair: Pair) -> None:
        size = sum(array.nbytes for array in pair)
        with self._lock:
            # the first images stay for good: in a shuffled epoch none is likelier to come next than another
            if index not in self._kept and size <= self._free:
                self._free -= size
                self._kept[index] = pair


def _key(dataset: SegmentationDataset, index: int) -> str:
    sources = []
    for path in (dataset.image_path(index), dataset.label_path(index)):
        try:
            status = path.stat()
            sources.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
        except OSError:
            sources.append((str(path), 0, 0))  # reading the pair will say it
    encoding = sorted(dataset.stored.raw_ids.items())
    parts = (_VERSION, pillow_version, type(dataset).__name__, encoding, sources)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
